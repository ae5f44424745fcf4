"""`gc` removes what nothing needs, and nothing else."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from micropref.cache.commits import commit, write_table
from micropref.cache.errors import Failure
from micropref.cache.maintenance.gc import Collection, collect
from micropref.cache.maintenance.verify import verify
from micropref.cache.schemas import LINK_SCHEMA, PAIR_SCHEMA
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.features import Features
from micropref.cache.vectors.opening import open_features, planned_features

WIDTH = 4
DAY_S = 24 * 3600.0
NOTHING = Collection(vectors=0, shards=0, files=0, bytes=0)


def make_keys(*numbers: int) -> list[bytes]:
    return [number.to_bytes(16, "big") for number in numbers]


def vector_of(key: bytes) -> Any:
    """Return a key's vector: the same in each shard that has it."""
    return np.random.default_rng(int.from_bytes(key, "big")).standard_normal(WIDTH).astype(np.float32)


def make_features(store: StoreFolder, *shards: Sequence[int]) -> Features:
    features = planned_features(store, {"width": WIDTH, "store_dtype": "float32"})
    features.create({}, None)
    for numbers in shards:
        keys = make_keys(*numbers)
        features.write_shard(keys, np.stack([vector_of(key) for key in keys]), {})
    return features


def need(store: StoreFolder, features: Features, *numbers: int, name: str = "mine") -> None:
    """Make a data set whose pairs need these vectors."""
    folder = store.dataset(name)
    texts = dict.fromkeys(("data", "split", "part", "pair_id", "prompt_id", "prompt", "chosen", "rejected"), "x")
    pairs = pa.Table.from_pylist([texts for _ in numbers], PAIR_SCHEMA)
    links = [{"pair_id": "x", "prompt_key": key, "trimmed": False} for key in make_keys(*numbers)]
    file = write_table(folder / "pairs", "train-0001", "pairs", pairs)
    commit(folder / "pairs", "train-0001", {"pairs": file}, {"split": "train", "ordinal": 1})
    linked = write_table(
        folder / "links" / features.id, "train-0001", "links", pa.Table.from_pylist(links, LINK_SCHEMA)
    )
    commit(folder / "links" / features.id, "train-0001", {"links": linked}, {"pairs_digest": file.digest})


def grow_old(store: StoreFolder, days: float = 2) -> None:
    then = time.time() - days * DAY_S
    for path in store.root.rglob("*"):
        os.utime(path, (then, then), follow_symlinks=False)


def contents(store: StoreFolder) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(store.root.rglob("*")) if path.is_file()}


def assert_readers_find(store: StoreFolder, features: Features, *numbers: int) -> None:
    again = open_features(store, features.id)
    keys = make_keys(*numbers)
    found = again.gather(again.locate(pl.Series(keys)))
    np.testing.assert_array_equal(found, np.stack([vector_of(key) for key in keys]))
    assert verify(store).problems == []


def stored(store: StoreFolder, features: Features) -> list[int]:
    """Return the keys stored, sorted, as often as they are."""
    keys = open_features(store, features.id).keys().to_pylist()
    return sorted(int.from_bytes(key, "big") for key in keys)


def test_a_whole_store_is_left_alone(store: StoreFolder) -> None:
    features = make_features(store, [1, 2], [3, 4])
    need(store, features, 1, 2, 3, 4)
    grow_old(store)
    before = contents(store)
    assert collect(store) == NOTHING
    assert contents(store) == before


def test_an_unneeded_shard_goes(store: StoreFolder) -> None:
    features = make_features(store, [1, 2], [3, 4])
    need(store, features, 1, 2)
    grow_old(store)
    gone = collect(store)
    assert (gone.vectors, gone.shards, gone.files) == (2, 1, 0)
    assert gone.bytes > 0
    assert stored(store, features) == [1, 2]
    assert_readers_find(store, features, 1, 2)
    assert len(list((features.folder / "shards").iterdir())) == 2


def test_a_shard_needed_in_part_is_rewritten(store: StoreFolder) -> None:
    features = make_features(store, range(50))
    need(store, features, 7, 3, 31)
    grow_old(store)
    size = sum(len(data) for data in contents(store).values())
    gone = collect(store)
    assert (gone.vectors, gone.shards) == (47, 1)
    assert gone.bytes == pytest.approx(size - sum(len(data) for data in contents(store).values()), abs=400)
    assert stored(store, features) == [3, 7, 31]
    assert_readers_find(store, features, 3, 7, 31)


def test_what_any_data_set_needs_stays(store: StoreFolder) -> None:
    features = make_features(store, [1, 2, 3, 4])
    need(store, features, 1, 2, name="a")
    need(store, features, 2, 4, name="b")
    grow_old(store)
    assert collect(store).vectors == 1
    assert_readers_find(store, features, 1, 2, 4)


def test_second_copies_go(store: StoreFolder) -> None:
    features = make_features(store, [1, 2, 3], [3, 2, 5], [5, 6], [1, 6])
    need(store, features, 1, 2, 3, 5, 6)
    grow_old(store)
    assert verify(store).duplicate_vectors == 5
    assert collect(store).vectors == 5
    assert stored(store, features) == [1, 2, 3, 5, 6]
    assert_readers_find(store, features, 1, 2, 3, 5, 6)
    grow_old(store)
    assert collect(store) == NOTHING


@pytest.mark.parametrize("numbers", [(1, 2), (2, 1), (5, 9), (11, 12), (3, 8)])
def test_a_shard_that_shrinks_to_another_shard(store: StoreFolder, numbers: tuple[int, int]) -> None:
    features = make_features(store, [*numbers, 20], list(numbers))
    need(store, features, *numbers)
    grow_old(store)
    planned = collect(store, dry_run=True)
    assert (planned.vectors, planned.shards) == (3, 1)
    gone = collect(store)
    assert (gone.vectors, gone.shards) == (planned.vectors, planned.shards)
    assert stored(store, features) == sorted(numbers)
    assert_readers_find(store, features, *numbers)


@pytest.mark.parametrize("seed", range(6))
def test_random_overlaps(store: StoreFolder, seed: int) -> None:
    random = np.random.default_rng(seed)
    shards = [random.permutation(8)[: random.integers(1, 6)].tolist() for _ in range(6)]
    features = make_features(store, *shards)
    there = sorted({number for shard in shards for number in shard})
    needed = [number for number in there if random.random() < 0.6] or there[:1]
    need(store, features, *needed)
    grow_old(store)
    copies = len(stored(store, features))
    planned = collect(store, dry_run=True)
    gone = collect(store)
    assert (gone.vectors, gone.shards, gone.files) == (planned.vectors, planned.shards, planned.files)
    assert gone.vectors == copies - len(needed)
    assert stored(store, features) == needed
    assert_readers_find(store, features, *needed)


def test_young_files_are_left_alone(store: StoreFolder) -> None:
    features = make_features(store, [1, 2])
    need(store, features, 1)
    folder = features.folder / "shards"
    (folder / f".{'0' * 16}.tmp").write_bytes(b"half")
    (folder / f"{'c' * 32}.vectors.{'0' * 12}.parquet").write_bytes(b"half")
    grow_old(store, days=0.9)
    before = contents(store)
    assert collect(store) == NOTHING
    assert contents(store) == before
    gone = collect(store, min_age_s=3600)
    assert (gone.vectors, gone.shards, gone.files) == (1, 1, 2)


def test_a_dry_run_changes_nothing(store: StoreFolder) -> None:
    features = make_features(store, [1, 2, 3], [3, 4], [5])
    need(store, features, 1, 3)
    (features.folder / f".{'1' * 16}.tmp").write_bytes(b"half")
    grow_old(store)
    before = contents(store)
    planned = collect(store, dry_run=True)
    assert contents(store) == before
    gone = collect(store)
    assert (gone.vectors, gone.shards, gone.files) == (planned.vectors, planned.shards, planned.files)


def test_what_killed_writers_left_goes(store: StoreFolder) -> None:
    features = make_features(store, [1])
    need(store, features, 1)
    need(store, features, 1)  # the same pairs again: the same file
    left = [
        features.folder / f".{'1' * 16}.tmp",
        features.folder / "shards" / f".{'2' * 16}.tmp",
        features.folder / "shards" / f"{'c' * 32}.vectors.{'0' * 12}.parquet",
        features.folder / f"reward_head.weights.{'0' * 12}.safetensors",
        store.dataset("mine") / "pairs" / f"train-0001.pairs.{'0' * 12}.parquet",
        store.dataset("mine") / "pairs" / f"train-0001.rejects.{'0' * 12}.jsonl",
        store.run("r1") / f".{'3' * 16}.tmp",
        store.run("r1") / "eval" / "mine" / f"scores-test.scores.{'0' * 12}.parquet",
    ]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    grow_old(store)
    gone = collect(store)
    assert (gone.vectors, gone.shards, gone.files, gone.bytes) == (0, 0, len(left), 4 * len(left))
    assert not [path for path in left if path.exists()]
    assert_readers_find(store, features, 1)


def test_files_of_others_are_never_touched(store: StoreFolder, tmp_path: Path) -> None:
    features = make_features(store, [1])
    need(store, features, 1)
    theirs = [
        store.root / "train.jsonl",
        store.root / "raw" / f"x.pairs.{'0' * 12}.parquet",
        store.root / ".download.tmp",
        store.dataset("mine") / "notes.parquet",
        store.dataset("mine") / "pairs" / "mine.jsonl",
        features.folder / "shards" / ".editor.tmp",
        store.root / "runs" / "export.parquet",
    ]
    for path in theirs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("theirs")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / f"{'c' * 32}.vectors.{'0' * 12}.parquet").write_text("theirs")
    (store.root / "features" / "linked").symlink_to(outside)
    grow_old(store)
    assert collect(store) == NOTHING
    assert all(path.read_text() == "theirs" for path in [*theirs, *outside.iterdir()])


def test_a_damaged_store_is_not_collected(store: StoreFolder) -> None:
    features = make_features(store, [1, 2], [1, 2, 3])
    need(store, features, 1, 2)
    grow_old(store)
    path = features.commits[0].path("vectors")
    path.write_bytes(path.read_bytes()[:-1])
    before = contents(store)
    with pytest.raises(Failure, match="were committed; repair it with `micropref embed`") as caught:
        collect(store)
    assert "\n" not in str(caught.value)
    assert contents(store) == before


def test_damaged_links_stop_it(store: StoreFolder) -> None:
    features = make_features(store, [1, 2])
    need(store, features, 1, 2)
    grow_old(store)
    (path,) = (store.dataset("mine") / "links" / features.id).glob("*.parquet")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Failure, match="run `micropref verify`"):
        collect(store)
    assert stored(store, features) == [1, 2]
