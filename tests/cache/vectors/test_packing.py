"""Shards that become packs: every vector stays where a reader finds it, whenever the command is killed."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from micropref.cache.commits import commit_paths
from micropref.cache.errors import Failure
from micropref.cache.maintenance.gc import collect
from micropref.cache.maintenance.verify import verify
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.features import PACKS, ROLE, SHARDS, Features
from micropref.cache.vectors.key_index import index_segments
from micropref.cache.vectors.opening import open_features
from micropref.cache.vectors.packing import pack
from tests.support.disk import Disk, Killed

Synthetic = Callable[..., str]


def everything(store: StoreFolder, features_id: str) -> dict[bytes, bytes]:
    """Return every key of a store's features and its vector, read as a command does that starts now."""
    features = open_features(store, features_id)
    keys = pl.Series(sorted(set(features.keys().to_pylist())), dtype=pl.Binary)
    positions = features.locate(keys)
    assert (positions >= 0).all()
    return dict(zip(keys.to_list(), [row.tobytes() for row in features.gather(positions)], strict=True))


@pytest.fixture
def filled(store: StoreFolder, synthetic: Synthetic) -> tuple[StoreFolder, Features, dict[bytes, bytes]]:
    """Return a store of twelve shards, its features, and all vectors."""
    features_id = synthetic(store, prompts=40, shards=12)
    return store, open_features(store, features_id), everything(store, features_id)


def sizes(features: Features, count: int) -> int:
    """Return the bytes of so many shards."""
    return sum(sorted(item.files[ROLE].bytes for item in features.shards)[:count])


Filled = tuple[StoreFolder, Features, dict[bytes, bytes]]


def test_packs_hold_what_shards_held(filled: Filled) -> None:
    store, features, before = filled
    found = pack(features, least=1, size=sizes(features, 4))
    assert found.packs >= 2
    assert found.shards == 12
    now = open_features(store, features.id)
    assert now.shards == []
    assert len(now.packs) == found.packs
    assert {name for one in index_segments(now.folder) for name in one.packs} == {item.stem for item in now.packs}
    assert everything(store, features.id) == before
    assert everything_through(features, before)  # opened before: its files are there still
    assert verify(store).problems == []
    again = pack(open_features(store, features.id), least=1)
    assert (again.packs, again.shards) == (0, 0)


def everything_through(features: Features, before: dict[bytes, bytes]) -> bool:
    keys = pl.Series(list(before), dtype=pl.Binary)
    return [row.tobytes() for row in features.gather(features.locate(keys))] == list(before.values())


def test_few_shards_stay_shards_and_new_ones_join_later(filled: Filled) -> None:
    store, features, before = filled
    assert pack(features, least=1 << 30).packs == 0
    assert len(open_features(store, features.id).shards) == 12
    pack(features, least=1)
    rows = np.random.default_rng(7).normal(size=(3, features.width)).astype(features.dtype)
    features.write_shard([bytes([number] * 16) for number in (250, 251, 252)], rows, {})
    now = open_features(store, features.id)
    assert now.stored([bytes([250] * 16), bytes([249] * 16)]) == {bytes([250] * 16)}
    assert pack(now, least=1).packs == 1
    after = everything(store, features.id)
    assert {key: after[key] for key in before} == before
    assert len(after) == len(before) + 3


def test_a_key_of_several_shards_is_packed_once(filled: Filled) -> None:
    store, features, before = filled
    twice = features.shards[3]
    keys = features.shard_keys(twice)[:2]
    own = np.stack([np.frombuffer(before[key], features.dtype) for key in keys])
    features.write_shard(keys, own, {})
    assert pack(open_features(store, features.id), least=1, size=sizes(features, 3)).shards == 13
    now = open_features(store, features.id)
    assert len(now) == len(before)
    assert everything(store, features.id) == before


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("fault", [None, errno.ENOSPC])
def test_a_fault_at_every_step_loses_nothing(
    filled: Filled, fault: int | None, every: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store, features, before = filled
    least, size = 1, sizes(features, 6)
    whole = Disk(store.root, unlinks=True)
    with monkeypatch.context() as patch:
        copied = StoreFolder(tmp_path / "first")
        shutil.copytree(store.root, copied.root)
        whole.root = copied.root
        whole.install(patch)
        pack(open_features(copied, features.id), least=least, size=size)
    assert whole.steps.count("unlink") >= 12
    # By default every ninth step, another one for each fault; the slow tests take all.
    for at in range(0 if fault is None else 4, len(whole.steps), 1 if every else 9):
        again = StoreFolder(tmp_path / f"at{at}")
        shutil.copytree(store.root, again.root)
        disk = Disk(again.root, at, fault, unlinks=True)
        with monkeypatch.context() as patch:
            disk.install(patch)
            with pytest.raises((Killed, Failure, OSError)):
                pack(open_features(again, features.id), least=least, size=size)
        assert everything(again, features.id) == before, (at, disk.steps[-1])
        assert verify(again).problems == [], (at, disk.steps[-1])
        pack(open_features(again, features.id), least=least, size=size)
        now = open_features(again, features.id)
        assert now.shards == []
        assert everything(again, features.id) == before, (at, disk.steps[-1])
        assert {name for one in index_segments(now.folder) for name in one.packs} >= {item.stem for item in now.packs}
        shutil.rmtree(again.root)


def test_gc_takes_packs_that_nothing_needs_and_what_packing_left(filled: Filled) -> None:
    store, features, before = filled
    pack(features, least=1, size=sizes(features, 4))
    old = time.time() - 10 * 86_400
    for path in (store.root / "features").rglob("*"):
        if path.is_file():
            os.utime(path, (old, old))
    found = collect(store)
    assert found.vectors == 0
    assert not list((features.folder / SHARDS).iterdir())
    assert everything(store, features.id) == before
    shutil.rmtree(store.root / "datasets")
    for path in (store.root / "features").rglob("*"):
        if path.is_file():
            os.utime(path, (old, old))
    assert collect(store).vectors == len(before)
    assert commit_paths(features.folder / PACKS) == []
    assert open_features(store, features.id).locate(pl.Series(list(before), dtype=pl.Binary)).max() == -1


def test_a_damaged_shard_is_left_and_named(filled: Filled) -> None:
    store, features, _ = filled
    bad = features.shards[0]
    path = bad.path(ROLE)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    opened = replace(open_features(store, features.id), skip=frozenset({bad.stem}))
    assert pack(opened, least=1).shards == 11
    assert [item.stem for item in open_features(store, features.id).shards] == [bad.stem]
    assert any(bad.stem in line for line in verify(store).problems)
