"""Is a store whole? Read-only: every committed file against its digest, every link against the vectors."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from micropref.cache.commits import Commit, read_commits
from micropref.cache.datasets import Dataset, Doubled, linked_keys, open_dataset
from micropref.cache.errors import Failure
from micropref.cache.memory import rechecked
from micropref.cache.runs.forgotten import read_forgotten
from micropref.cache.runs.names import read_names, read_note
from micropref.cache.runs.people import read_person
from micropref.cache.runs.records import Run, read_runs, sweep_leaderboards
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.context_keys import context_keys, context_parts, needed_contexts
from micropref.cache.vectors.features import ROLE, Features, shard_stem
from micropref.cache.vectors.key_index import Keys, as_series, index_segments
from micropref.cache.vectors.opening import open_features
from micropref.cache.vectors.parquet_layout import open_vectors


@dataclass(frozen=True)
class Verification:
    """What `verify` found."""

    files: int
    """Committed data files checked."""
    vectors: int
    """Vectors in them."""
    duplicate_vectors: int
    """Vectors stored more than once by overlapping writers; readers take the first, `gc` removes the rest."""
    problems: list[str]
    """One line for each damaged file, missing vector or unreadable run; empty when the store is whole."""


def verify(store: StoreFolder) -> Verification:
    """Check every byte of every committed file of a store. Nothing is changed."""
    with rechecked():
        return _verify(store)


def _verify(store: StoreFolder) -> Verification:
    runs, problems = read_runs(store)
    files = vectors = duplicates = 0
    for name in store.names("features"):
        try:
            features = open_features(store, name)
            commits, _ = features.commits, features.origin()
        except Failure as error:
            problems.append(str(error))
            continue
        readers = ", ".join(run.id for run in runs if run.record["features"] == name) or "no run"
        damaged = [line for item in commits for line in _shard_problems(features, item)]
        problems += [f"{line} (read by {readers})" for line in damaged]
        files += len(commits)
        if not damaged:
            count, found = _index_problems(features)
            files, problems = files + count, problems + found
        count, found = _context_problems(store, features)
        files, problems = files + count, problems + found
        if not damaged:
            keys = as_series(features.keys())
            vectors += len(keys)
            duplicates += len(keys) - keys.n_unique()
    for name in store.names("datasets"):
        count, found = _dataset_problems(store, name)
        files, problems = files + count, problems + found
    for run in runs:
        count, found = _run_problems(run)
        files, problems = files + count, problems + found
    for count, found in (_leaderboard_problems(store), _name_problems(store)):
        files, problems = files + count, problems + found
    return Verification(files, vectors, duplicates, problems)


def _file_problems(item: Commit) -> list[str]:
    return [line for role in item.files if (line := _problem(item, role))]


def _problem(item: Commit, role: str) -> str | None:
    try:
        return item.damage(role, digest=True)
    except Failure as error:  # unreadable, which may not be damage: the line says so
        return str(error)


def _shard_problems(features: Features, item: Commit) -> list[str]:
    """Return what is wrong with a shard: bytes, layout, or a name that is not made of its keys."""
    found = _file_problems(item)
    if found:
        return found
    try:
        opened = open_vectors(item.path(ROLE), item.files[ROLE].extra.get("edges"))
    except Failure as error:
        return [str(error)]
    if opened.width != features.width or opened.dtype != features.dtype:
        return [f"{opened.path}: holds {opened.dtype}[{opened.width}], expected {features.dtype}[{features.width}]"]
    if shard_stem(features.shard_keys(item).to_list()) != item.stem:
        return [f"{opened.path}: its keys are not those its name was made of"]
    return []


def _index_problems(features: Features) -> tuple[int, list[str]]:
    """Return what is wrong with the index of packs: bytes, or keys that are not those of the packs."""
    packs, problems = {item.stem: item for item in features.packs}, []
    try:
        there = index_segments(features.folder)
        for segment in there:
            damaged = _file_problems(segment.item)
            problems += damaged
            for name, keys in () if damaged else segment.by_pack():
                if name in packs and not keys.equals(Keys.of(features.shard_keys(packs[name]))):
                    problems.append(f"{segment.item.commit_path}: has other keys of pack {name} than the pack itself")
    except Failure as error:
        return 0, [str(error)]
    return len(there), problems


def _context_problems(store: StoreFolder, features: Features) -> tuple[int, list[str]]:
    """Return what is wrong with the table of contexts, and how many of its vectors that a data set needs are lost."""
    try:
        parts = context_parts(features)
        found = [line for part in parts for line in _file_problems(part)]
        if found or not parts:
            return len(parts), found
        needed = needed_contexts(store, features.id)
        keys = context_keys(features).filter(pl.col("context").is_in(needed))["key"]
        lost = int((features.locate(keys) < 0).sum())
    except Exception as error:  # noqa: BLE001 - whatever makes the table unreadable is what verify reports
        return 0, [f"features {features.id}: its table of contexts cannot be read: {_line(error)}"]
    again = "embed" if features.imported is None else "import"
    line = f"features {features.id}: the vectors of {lost} contexts are gone; {again} their data set again"
    return len(parts), [line] if lost else []


def _dataset_problems(store: StoreFolder, name: str) -> tuple[int, list[str]]:
    try:
        dataset = open_dataset(store, name)
        parts = dataset.parts
        links = [
            (features_id, item)
            for features_id in dataset.linked_features()
            for part in parts
            if (item := dataset.links(part, features_id))
        ]
        features = read_commits(dataset.text_features_folder)
    except Failure as error:
        return 0, [str(error)]
    found = [line for item in (*parts, *features) for line in _file_problems(item)]
    for features_id, item in links:
        found += _file_problems(item) or _link_problems(store, dataset, features_id, item)
    if not found:  # of damaged parts the ids are not known
        found = [_doubled_line(dataset, both) for split in dataset.splits() for both in dataset.doubled(split)]
    return len(parts) + len(links) + len(features), found


def _doubled_line(dataset: Dataset, both: Doubled) -> str:
    first, second = both.first.record, both.second.record
    if first["digest"] == second["digest"]:
        return (
            f"data set {dataset.name!r}, split {first['split']!r}: source {first['source']} stands twice, written by "
            f"two commands at the same moment; `micropref embed {first['source']} --name {dataset.name}`, with the "
            "options it was embedded with, removes one"
        )
    return (
        f"data set {dataset.name!r}, split {first['split']!r}: {both.pairs} pair ids stand in two sources, "
        f"{first['source']} and {second['source']}, written by two commands at the same moment; "
        f"`micropref embed {second['source']} --name {dataset.name}`, with the options it was embedded with, "
        "numbers its pairs anew"
    )


def _link_problems(store: StoreFolder, dataset: Dataset, features_id: str, item: Commit) -> list[str]:
    try:
        features = open_features(store, features_id)
        lost = int((features.locate(linked_keys(item)) < 0).sum())
    except Exception as error:  # noqa: BLE001 - whatever makes the vectors unreadable is what verify reports
        return [f"data set {dataset.name!r}: its vectors of features {features_id} cannot be read: {_line(error)}"]
    if lost:
        return [f"data set {dataset.name!r}: {lost} of its vectors are not in features {features_id}; embed it again"]
    return []


def _run_problems(run: Run) -> tuple[int, list[str]]:
    found = []
    try:
        run.tensors()
        read_note(run)
        read_forgotten(run.folder)
        shards = [item for data in run.evaluated() for item in read_commits(run.eval_folder(data))]
        shards += [item for item in (None if run.lacks_budget else run.budget(), run.contexts()) if item is not None]
        run.origin()
    except Failure as error:
        return 1, [str(error)]
    for item in shards:
        found += _file_problems(item)
    people = sorted((run.folder / "people").glob("*.json"))
    for path in people:
        try:
            read_person(path)
        except Failure as error:
            found.append(str(error))
    return 1 + len(shards) + len(people), found


def _leaderboard_problems(store: StoreFolder) -> tuple[int, list[str]]:
    try:
        boards = sweep_leaderboards(store)
    except Failure as error:
        return 0, [str(error)]
    return len(boards), [line for item in boards for line in _file_problems(item)]


def _name_problems(store: StoreFolder) -> tuple[int, list[str]]:
    names, runs = read_names(store), store.names("runs")
    lost = [one for one in names.entries if one.run not in runs]
    lines = [f"name {one.name!r}: its run {one.run} is gone; `micropref gc` removes the name" for one in lost]
    return len(names.entries) + len(names.damaged), [*names.damaged, *lines]


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
