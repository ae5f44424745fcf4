"""Remove what nothing needs: vectors no data set links to, second copies, files no commit names, old temp files."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from micropref.cache.atomic import TEMP_NAME
from micropref.cache.commits import FILE_NAME, Commit, read_commit
from micropref.cache.datasets import linked_keys, open_dataset
from micropref.cache.errors import Damaged
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.features import ROLE, Features
from micropref.cache.vectors.opening import open_features, whole_features

MIN_AGE_S = 24 * 3600.0
"""Younger files may belong to a command at work."""


@dataclass(frozen=True)
class Collection:
    """What `gc` removed, or would remove."""

    vectors: int
    """Vectors no data set needs, and second copies."""
    shards: int
    """Shards removed whole or rewritten without those vectors."""
    files: int
    """Data files without a commit, and temp files of writers that were killed."""
    bytes: int
    """Bytes freed, rewritten shards counted by difference."""


def collect(store: StoreFolder, *, dry_run: bool = False, min_age_s: float = MIN_AGE_S) -> Collection:
    """Remove what nothing needs; with `dry_run` only say what that is.

    Shards and files younger than `min_age_s` are left alone: an `embed` that was interrupted, or one at work, links
    to its shards only when all of them are there, and keeps those it relies on young (`cache.maintenance.leases`).
    Raises Damaged where a shard is: another may hold the only whole copy of what looks like a second one. Raises
    Failure where one cannot be read.
    """
    vectors = shards = freed = 0
    for name in store.names("features"):
        features = open_features(store, name)
        for line in features.damaged().values():
            raise Damaged(f"{line}; repair it with `micropref embed`, then collect")
        needed = _needed_keys(store, name)
        seen: set[bytes] = set()
        for item in features.commits:
            if not _older(item.commit_path, min_age_s):
                continue
            keys = features.shard_keys(item)
            kept = [row for row, key in enumerate(keys) if key in needed and key not in seen]
            if len(kept) < len(keys) and kept and features.has_shard([keys[row] for row in kept]):
                kept = []  # another shard is just these rows
            seen.update(keys[row] for row in kept)
            if len(kept) < len(keys) and _older(item.commit_path, min_age_s):  # no command came to rely on it meanwhile
                vectors, shards = vectors + len(keys) - len(kept), shards + 1
                freed += _shrink(features, item, keys, kept, dry_run)
    orphans = list(_orphans(store, min_age_s))
    freed += sum(path.stat().st_size for path in orphans)
    if not dry_run:
        for path in orphans:
            path.unlink(missing_ok=True)
    return Collection(vectors, shards, len(orphans), freed)


def remove_damaged(store: StoreFolder, features: Features) -> list[str]:
    """Remove the damaged shards of some features that nothing needs, and return what is left of them in words.

    What keys a damaged shard had is not known any more. It goes when each vector that a data set links to is in a
    whole shard, so when what it held was embedded again.
    """
    whole, damaged = whole_features(store, features.settings)
    if not damaged:
        return []
    lost = _lost_by_data_set(store, whole)
    if lost:
        return [f"{line}; needed by {lost}" for line in damaged.values()]
    for stem in damaged:
        if not whole.damage(stem):  # rewritten by another command a moment ago
            continue
        try:
            item = read_commit(whole.commit_path(stem))
        except Damaged:
            whole.commit_path(stem).unlink(missing_ok=True)
        else:
            if item is not None:
                item.remove()
    return []


def _lost_by_data_set(store: StoreFolder, features: Features) -> str:
    lost = []
    for name in store.names("datasets"):
        try:
            linked = pl.Series(list(_linked_by(store, name, features.id)), dtype=pl.Binary)
        except Damaged:
            lost.append(f"data set {name!r} (what it needs is not known, for its own files are damaged)")
            continue
        missing = int((features.locate(linked) < 0).sum())
        if missing:
            lost.append(f"data set {name!r} ({missing} of its vectors are missing: embed it again too)")
    return ", ".join(lost)


def _needed_keys(store: StoreFolder, features_id: str) -> set[bytes]:
    return set().union(*(_linked_by(store, name, features_id) for name in store.names("datasets")))


def _linked_by(store: StoreFolder, name: str, features_id: str) -> set[bytes]:
    """Return the keys of all vectors that a data set links to."""
    dataset = open_dataset(store, name)
    links = (dataset.links(part, features_id) for part in dataset.parts)
    return set().union(*(linked_keys(item) for item in links if item is not None))


def _shrink(features: Features, item: Commit, keys: list[bytes], kept: list[int], dry_run: bool) -> int:
    """Replace a shard by one of its kept rows, new one first, and return the bytes that frees."""
    size = item.files[ROLE].bytes
    freed = size * (len(keys) - len(kept)) // len(keys)
    if dry_run:
        return freed
    if kept:
        start = features.start_of(item)
        rows = features.gather(np.array(kept, dtype=np.int64) + start)
        written = features.write_shard([keys[row] for row in kept], rows, item.record)
        freed = size - written.files[ROLE].bytes
    item.remove()
    return freed


def _older(path: Path, age_s: float) -> bool:
    try:
        return time.time() - path.lstat().st_mtime > age_s
    except FileNotFoundError:  # its writer is at work
        return False


def _orphans(store: StoreFolder, min_age_s: float) -> Iterator[Path]:
    """Yield old data files that no commit names, and old temp files; what is not named like ours is not ours."""
    folders = (store.root / kind for kind in ("features", "datasets", "runs"))
    for path in sorted(path for folder in folders for path in folder.rglob("*")):
        name = FILE_NAME.fullmatch(path.name)
        if name is not None:
            item = read_commit(path.parent / f"{name['stem']}.json")
            orphan = item is None or path.name not in {file.name for file in item.files.values()}
        else:
            orphan = TEMP_NAME.fullmatch(path.name) is not None
        if orphan and _older(path, min_age_s):
            yield path
