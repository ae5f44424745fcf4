"""Many shards become few packs: what a command wrote bit by bit, in files of a size that millions of pairs can have.

A shard is small, so that a kill costs little; a pack is large, so that a store of any size has few files, and its keys
are searched where they lie. Packing takes shards in the order they were written, which is that of their prompts.

Written in this order, so that a kill at any step leaves every vector where a reader finds it: the pack, its commit, its
keys' segment of the index, and only then are the shards' commits removed. Their data files stay for readers that have
them open; `gc` removes them once they are old, as it does with all that no commit names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from micropref.cache.commits import Commit, commit_paths, read_commit
from micropref.cache.errors import cannot_read
from micropref.cache.vectors.features import PACKS, ROLE, Features
from micropref.cache.vectors.key_index import Keys, index_segments, merge_segments, to_merge, write_segment

SIZE = 128 << 20
"""Bytes of vectors that make a pack."""
LEAST = 64 << 20
"""Bytes of vectors that are not packed yet; the rest of a command stays in shards until there are as many."""


@dataclass(frozen=True)
class Packed:
    """What packing did."""

    packs: int
    shards: int
    """Shards that became packs."""


def pack(features: Features, least: int = LEAST, size: int = SIZE) -> Packed:
    """Turn shards into packs where there are enough.

    `features` are opened for it: they do not see what this writes. Damaged shards are left as they are. Several
    commands may pack at the same moment: what both write stands twice, and `gc` removes the second copy.
    """
    segments, packed = _without_segment(features), list(_groups(features, least, size))
    starts = dict(zip((item.stem for item in features.shards), features.starts[len(features.packs) :], strict=False))
    segments += [written for group in packed if (written := _pack(features, group, starts)) is not None]
    if segments:
        write_segment(features.folder, [stem for stem, _ in segments], [keys for _, keys in segments])
    done = sum(_forget(shard) for group in packed for shard in group)
    there = {path.stem for path in commit_paths(features.folder / PACKS)}
    while alike := to_merge(index_segments(features.folder)):
        merge_segments(features.folder, alike, there)
    return Packed(len(packed), done)


def _without_segment(features: Features) -> list[tuple[str, Keys]]:
    """Return packs whose command was killed before their segment of the index was written, and their keys."""
    indexed = {name for one in index_segments(features.folder) for name in one.packs}
    lacking = [item for item in features.packs if item.stem not in indexed]
    return [(item.stem, Keys.of(features.shard_keys(item))) for item in lacking]


def _groups(features: Features, least: int, size: int) -> Iterator[list[Commit]]:
    """Yield shards that become a pack together, in the order they were written."""
    group: list[Commit] = []
    weight = 0
    for shard in sorted(features.shards, key=lambda one: (_written(one), one.stem)):
        if shard.damage(ROLE, digest=True):
            continue
        group.append(shard)
        weight += shard.files[ROLE].bytes
        if weight >= size:
            yield group
            group, weight = [], 0
    if weight >= least:
        yield group


def _written(shard: Commit) -> int:
    """Return when a shard's data was written; that of its commit changes with every lease."""
    path = shard.path(ROLE)
    try:
        return path.stat().st_mtime_ns
    except OSError as error:
        raise cannot_read(path, error) from error


def _pack(features: Features, group: Sequence[Commit], starts: Mapping[str, int]) -> tuple[str, Keys] | None:
    """Write a pack of the rows that shards have and no pack has, return its name and keys; None without such rows.

    `starts` are the positions of shards' first rows.
    """
    positions = np.concatenate([starts[shard.stem] + np.arange(shard.files[ROLE].rows) for shard in group])
    keys = pl.concat([features.shard_keys(shard) for shard in group])
    # A key that a pack has is found there, and of two shards the first by position: these rows alone are needed.
    kept = np.flatnonzero(features.locate(keys) == positions)
    if not len(kept):
        return None
    names: list[bytes] = keys.gather(kept).to_list()
    item = features.write_shard(names, features.gather(positions[kept]), {"shards": len(group)}, PACKS)
    return item.stem, Keys.of(keys.gather(kept))


def _forget(shard: Commit) -> bool:
    """Remove a shard's commit, unless it was committed anew; its data file stays for readers."""
    now = read_commit(shard.commit_path)
    if now is None or now.files != shard.files:
        return False
    shard.commit_path.unlink(missing_ok=True)
    return True
