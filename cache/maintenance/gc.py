"""Remove what nothing needs: vectors no data set links to, second copies, files no commit names, old temp files."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from micropref.cache.atomic import TEMP_NAME
from micropref.cache.commits import ASIDE, COMMIT_ENDING, FILE_NAME, Commit, put_back, read_commit
from micropref.cache.datasets import linked_keys, open_dataset, read_table
from micropref.cache.errors import Damaged
from micropref.cache.maintenance.removal import delete, measure, removed_folders
from micropref.cache.runs.names import NAMES, drop_name, read_names
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.context_keys import ROLE as CONTEXTS
from micropref.cache.vectors.context_keys import context_keys, context_parts, linked_contexts, needed_contexts
from micropref.cache.vectors.features import PACKS, ROLE, SHARDS, Features
from micropref.cache.vectors.key_index import Keys
from micropref.cache.vectors.opening import open_features, whole_features
from micropref.cache.vectors.packing import pack

MIN_AGE_S = 24 * 3600.0
"""Younger files may belong to a command at work."""
RECOVERED_AFTER_S = 3600.0
"""Age at which a hidden commit is taken for what a stopped `gc` left."""


@dataclass(frozen=True)
class Collection:
    """What `gc` removed, or would remove."""

    vectors: int
    """Vectors no data set needs, and second copies."""
    shards: int
    """Shards removed whole or rewritten without those vectors."""
    files: int
    """Data files without a commit, text features of pairs that changed or are gone, temp files of writers that were
    killed, what a stopped `rm` left, names without a run."""
    bytes: int
    """Bytes freed, rewritten shards counted by difference."""


def collect(store: StoreFolder, *, dry_run: bool = False, min_age_s: float = MIN_AGE_S) -> Collection:
    """Remove what nothing needs; with `dry_run` only say what that is.

    Shards and files younger than `min_age_s` are left alone: an `embed` that was interrupted, or one at work, links
    to its shards only when all of them are there, and keeps those it relies on young (`cache.maintenance.leases`).
    Raises Damaged where a shard is: another may hold the only whole copy of what looks like a second one. Raises
    Failure where one cannot be read.
    """
    going: list[_Going] = []
    files = freed = 0
    for name in store.names("features"):
        if not dry_run:
            _recover(store.features(name), min_age_s)
        features = open_features(store, name)
        for line in features.damaged().values():
            raise Damaged(f"{line}; repair it with `micropref embed` or `import-vectors`, then collect")
        found = list(_unneeded(features, _needed_keys(store, features), min_age_s))
        going += found if dry_run else _remove_unless_needed(store, features, found, min_age_s)
        if not dry_run:
            pack(whole_features(store, features.settings)[0])
        count, size = _collect_contexts(store, features, min_age_s, dry_run=dry_run)
        files, freed = files + count, freed + size
    freed += sum(one.bytes for one in going)
    count, size = _collect_removed(store, dry_run=dry_run)
    outdated, outdated_size = _collect_text_features(store, min_age_s, dry_run=dry_run)
    files, freed = files + count + outdated, freed + outdated_size
    orphans = list(_orphans(store, min_age_s))
    freed += size + sum(path.stat().st_size for path in orphans)
    if not dry_run:
        for path in orphans:
            if _is_orphan(path):  # still: its commit may have been written a moment ago
                path.unlink(missing_ok=True)
    return Collection(sum(one.vectors for one in going), len(going), files + len(orphans), freed)


def _collect_contexts(store: StoreFolder, features: Features, min_age_s: float, *, dry_run: bool) -> tuple[int, int]:
    """Remove old parts of the table of contexts that no data set has a context of; return files and bytes."""
    found = [part for part in context_parts(features) if _older(part.commit_path, min_age_s)]
    going = [part for part in found if _is_unneeded(store, features, part)]
    for part in () if dry_run else going:
        if _is_unneeded(store, features, part):  # still: pairs may have been linked a moment ago
            part.remove()
    return len(going), sum(part.files[CONTEXTS].bytes for part in going)


def _is_unneeded(store: StoreFolder, features: Features, part: Commit) -> bool:
    return needed_contexts(store, features.id).isdisjoint(read_table(part, CONTEXTS, ["context"])["context"])


def _collect_removed(store: StoreFolder, *, dry_run: bool) -> tuple[int, int]:
    """Remove what `rm` hid and did not finish, of any age, and names whose run is gone; return files and bytes."""
    folders, runs = removed_folders(store), store.names("runs")
    lost = [one for one in read_names(store).entries if one.run not in runs]
    sizes = [measure(folder) for folder in folders]
    size = sum(size for _, size in sizes) + sum(one.item.commit_path.stat().st_size for one in lost)
    if not dry_run:
        for folder in folders:
            delete(folder)
        for one in lost:
            drop_name(one)
    return sum(files for files, _ in sizes) + len(lost), size


def _collect_text_features(store: StoreFolder, min_age_s: float, *, dry_run: bool) -> tuple[int, int]:
    """Remove old text features of pairs that changed or are gone, and of earlier versions; return files and bytes."""
    found = (item for name in store.names("datasets") for item in open_dataset(store, name).outdated_text_features())
    going = [item for item in found if _older(item.commit_path, min_age_s)]
    for item in () if dry_run else going:
        item.remove()
    return len(going), sum(file.bytes for item in going for file in item.files.values())


def _recover(folder: Path, min_age_s: float) -> None:
    """Put back what a `gc` that was stopped had hidden; a younger one may still be at work."""
    for kind in (SHARDS, PACKS):
        for path in (folder / kind).glob(f"*{ASIDE}"):
            if _older(path, min(min_age_s, RECOVERED_AFTER_S)):
                put_back(path.with_suffix(COMMIT_ENDING))


@dataclass(frozen=True)
class _Going:
    """A shard that is to go whole, or to be replaced by one of its kept rows."""

    item: Commit
    keys: Keys
    kept: npt.NDArray[np.int64]
    """Rows that something needs and no earlier shard has."""
    start: int
    """Position of its first row."""
    bytes: int
    """What that frees, about."""

    @property
    def vectors(self) -> int:
        """Return how many vectors go."""
        return len(self.keys) - len(self.kept)


def _unneeded(features: Features, needed: Keys, min_age_s: float) -> Iterator[_Going]:
    """Yield the old shards and packs that hold vectors which nothing needs, or which an earlier old one has."""
    old = np.array([_older(item.commit_path, min_age_s) for item in features.commits], np.bool_)
    released = Keys.distinct([])
    for number, (item, is_old) in enumerate(zip(features.commits, old, strict=True)):
        if not is_old:
            continue
        first, end = features.starts[number : number + 2].tolist()
        count = end - first
        column = features.shard_keys(item)
        keys, positions = Keys.of(column), features.locate(column)
        second = (positions != np.arange(first, end)) & old[features.numbers_of(positions)] & ~released.has(keys)
        kept = np.flatnonzero(needed.has(keys) & ~second)
        if len(kept) < count and len(kept) and features.has_shard(column.gather(kept).to_list()):
            # Another shard is just these rows: it keeps them, though this one is the first that readers find.
            released = Keys.distinct([released.series(), column.gather(kept)])
            kept = kept[:0]
        if len(kept) < count:
            yield _Going(item, keys, kept, first, item.files[ROLE].bytes * (count - len(kept)) // count)


def _remove_unless_needed(
    store: StoreFolder, features: Features, found: list[_Going], min_age_s: float
) -> list[_Going]:
    """Remove shards and return those that went.

    A command may come to rely on one at any moment: it touches the shard, links to it, and looks again whether it is
    there. So each is hidden first; then links are read again, and what they lead to is put back. Whichever of the
    two comes first, the vector is there in the end: it is put back here, or missed there and embedded again.
    """
    hidden = []
    for one in found:
        if len(one.kept):
            rows = features.gather(one.kept + one.start)
            names = one.keys.take(one.kept).series().to_list()
            written = features.write_shard(names, rows, one.item.record)
            one = replace(one, bytes=one.item.files[ROLE].bytes - written.files[ROLE].bytes)
        if _older(one.item.commit_path, min_age_s):
            one.item.set_aside()
            hidden.append(one)
    whole, _ = whole_features(store, features.settings)
    linked = _needed_keys(store, features)
    lost = linked.take(whole.locate(linked.series()) < 0)
    gone = []
    for one in hidden:
        if lost.has(one.keys).any():
            one.item.put_back()
        else:
            one.item.remove_files(read_commit(one.item.commit_path))
            gone.append(one)
    return gone


def tidy_vectors(store: StoreFolder, features: Features) -> list[str]:
    """Remove damaged shards that nothing needs, and pack the others; return in words what is left of the damaged.

    For commands that have stored vectors, at their end.
    """
    whole, damaged = whole_features(store, features.settings)
    left = _remove_damaged(store, whole, damaged) if damaged else []
    pack(whole)
    return left


def _remove_damaged(store: StoreFolder, whole: Features, damaged: dict[str, str]) -> list[str]:
    """Remove damaged shards that nothing needs, and return what is left of them in words.

    What keys a damaged shard had is not known any more. It goes when each vector that a data set links to is in a
    whole shard, so when what it held was embedded again.
    """
    lost = _lost_by_data_set(store, whole)
    if lost:
        return [f"{line}; needed by {lost}" for line in damaged.values()]
    for stem in damaged:
        _remove_damaged_shard(whole, stem)
    return []


def _remove_damaged_shard(features: Features, stem: str) -> None:
    """Remove a shard, unless another command has rewritten it a moment ago."""
    path = features.commit_path(stem)
    try:
        item = read_commit(path)
    except Damaged:
        path.unlink(missing_ok=True)
        return
    if item is not None:
        item.set_aside()
        if item.damage(ROLE, digest=True):
            item.remove_files(read_commit(path))
        else:
            item.put_back()


def _lost_by_data_set(store: StoreFolder, features: Features) -> str:
    lost = []
    for name in store.names("datasets"):
        try:
            linked = Keys.distinct(_linked_by(store, name, features)).series()
        except Damaged:
            lost.append(f"data set {name!r} (what it needs is not known, for its own files are damaged)")
            continue
        missing = int((features.locate(linked) < 0).sum())
        if missing:
            lost.append(
                f"data set {name!r} ({missing} of its vectors are missing: embed it again too, or start it over with "
                "`replace` if its source is gone)"
            )
    return ", ".join(lost)


def _needed_keys(store: StoreFolder, features: Features) -> Keys:
    return Keys.distinct(part for name in store.names("datasets") for part in _linked_by(store, name, features))


def _linked_by(store: StoreFolder, name: str, features: Features) -> Iterator[pl.Series]:
    """Yield the keys of all vectors that a data set links to, and those of its contexts by themselves."""
    dataset = open_dataset(store, name)
    for part in dataset.parts:
        item = dataset.links(part, features.id)
        if item is not None:
            yield linked_keys(item)
    own = linked_contexts(dataset, features.id)
    if own:
        yield context_keys(features).filter(pl.col("context").is_in(own))["key"]


def _older(path: Path, age_s: float) -> bool:
    try:
        return time.time() - path.lstat().st_mtime > age_s
    except FileNotFoundError:  # its writer is at work
        return False


def _orphans(store: StoreFolder, min_age_s: float) -> Iterator[Path]:
    """Yield old data files that no commit names, and old temp files; what is not named like ours is not ours."""
    folders = (store.root / kind for kind in ("features", "datasets", "runs", NAMES))
    for path in sorted(path for folder in folders for path in folder.rglob("*")):
        if _is_orphan(path) and _older(path, min_age_s):
            yield path


def _is_orphan(path: Path) -> bool:
    name = FILE_NAME.fullmatch(path.name)
    if name is None:
        return TEMP_NAME.fullmatch(path.name) is not None
    if (path.parent / f"{name['stem']}{ASIDE}").exists():  # of a `gc` that was stopped: see `_recover`
        return False
    item = read_commit(path.parent / f"{name['stem']}.json")
    return item is None or path.name not in {file.name for file in item.files.values()}
