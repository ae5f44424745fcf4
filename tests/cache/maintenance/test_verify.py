"""`verify` finds what is damaged, says who reads it, and changes nothing."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from typer.testing import CliRunner

from micropref.cache.commits import commit, write_table
from micropref.cache.datasets import Dataset
from micropref.cache.errors import Failure
from micropref.cache.maintenance.verify import verify
from micropref.cache.runs.records import TABLES, Run, save_run
from micropref.cache.schemas import LINK_SCHEMA, PAIR_SCHEMA
from micropref.cache.store import StoreFolder
from micropref.cache.vectors import parquet_layout as layout
from micropref.cache.vectors.features import ROLE, Features
from micropref.cache.vectors.opening import only_features, planned_features
from micropref.cli import app

KEYS = [number.to_bytes(16, "big") for number in range(6)]


def save_pairs(store: StoreFolder, features: Features, chosen: list[bytes]) -> Dataset:
    """Commit one part whose pairs' chosen responses have these keys."""
    dataset = Dataset("mine", store.dataset("mine"))
    texts = dict.fromkeys(("data", "split", "part", "pair_id", "prompt_id", "prompt", "chosen", "rejected"), "x")
    pairs = pa.Table.from_pylist([texts for _ in chosen], PAIR_SCHEMA)
    links = [{"pair_id": "x", "chosen_key": key, "trimmed": False} for key in chosen]
    file = write_table(dataset.folder / "pairs", "train-0001", "pairs", pairs)
    commit(dataset.folder / "pairs", "train-0001", {"pairs": file}, {"split": "train", "ordinal": 1})
    folder = dataset.links_folder(features.id)
    linked = write_table(folder, "train-0001", "links", pa.Table.from_pylist(links, LINK_SCHEMA))
    commit(folder, "train-0001", {"links": linked}, {"pairs_digest": file.digest})
    return dataset


def save_evaluated(store: StoreFolder, features: Features, run_id: str) -> Run:
    run = save_run(store, run_id, {"features": features.id}, {"heads": torch.ones(2, 4)})
    folder = run.eval_folder("mine")
    table = pa.table({"pair_id": ["x"], "margin_0": [0.5]})
    commit(
        folder, "scores-test-1", {"scores": write_table(folder, "scores-test-1", "scores", table)}, {"split": "test"}
    )
    files = {role: write_table(folder, "tables-test", role, table) for role in TABLES}
    commit(folder, "tables-test", files, {"split": "test"})
    return run


def make_whole(store: StoreFolder) -> Features:
    """Fill a store: two shards, a data set, two runs."""
    features = planned_features(store, {"width": 4, "store_dtype": "float16"})
    features.create({"name": "tiny"}, None)
    for keys in (KEYS[:3], KEYS[3:]):
        features.write_shard(keys, np.random.default_rng(1).standard_normal((3, 4)), {})
    save_pairs(store, features, KEYS)
    save_evaluated(store, features, "r1")
    save_evaluated(store, features, "r2")
    return features


def rewrite(path: Path, data: bytes) -> None:
    before = path.stat().st_mtime_ns
    path.write_bytes(data)
    after = max(path.stat().st_mtime_ns, before + 1000)  # two writes may share one tick of the clock
    os.utime(path, ns=(after, after))


def damage(path: Path, bit: int | None = None) -> None:
    data = bytearray(path.read_bytes())
    bit = len(data) // 2 * 8 if bit is None else bit
    data[bit // 8] ^= 1 << bit % 8
    rewrite(path, bytes(data))


def contents(store: StoreFolder) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in store.root.rglob("*") if path.is_file()}


def test_a_whole_store(store: StoreFolder) -> None:
    make_whole(store)
    before = contents(store)
    found = verify(store)
    assert found.problems == []
    # 2 shards, pairs and links, 2 runs with weights, scores and tables
    assert (found.files, found.vectors, found.duplicate_vectors) == (2 + 2 + 2 * 3, 6, 0)
    assert contents(store) == before


def test_an_empty_store_is_whole(store: StoreFolder) -> None:
    assert verify(store).problems == []


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        pytest.param("features/*/shards/*.parquet", r"content changed .*\(read by r1, r2\)", id="vectors"),
        pytest.param("features/*/shards/*.json", r"the commit file", id="commit of vectors"),
        pytest.param("features/*/features.json", r"cannot be trusted", id="settings"),
        pytest.param("datasets/mine/pairs/*.parquet", r"pairs.*content changed", id="pairs"),
        pytest.param("datasets/mine/pairs/*.json", r"the commit file", id="commit of pairs"),
        pytest.param("datasets/mine/links/*/*.parquet", r"links.*content changed", id="links"),
        pytest.param("runs/r1/heads.safetensors", r"changed since it was saved; train the run again", id="weights"),
        pytest.param("runs/r1/eval/mine/*scores.*.parquet", r"scores.*content changed", id="scores"),
        pytest.param("runs/r1/eval/mine/*best_head.*.parquet", r"best_head.*content changed", id="tables"),
        pytest.param("runs/r1/eval/mine/scores-*.json", r"the commit file", id="commit of scores"),
    ],
)
def test_damage_is_found(store: StoreFolder, pattern: str, said: str) -> None:
    make_whole(store)
    path = next(iter(sorted(store.root.glob(pattern))))
    damage(path)
    problems = verify(store).problems
    assert problems
    assert all("\n" not in line for line in problems)
    assert any(re.search(said, line) and path.parent.name in line for line in problems)


def lose_shard(store: StoreFolder, features: Features) -> None:
    features.commits[0].remove()


def lose_file(store: StoreFolder, features: Features) -> None:
    features.commits[0].path("vectors").unlink()


def swap_files(store: StoreFolder, features: Features) -> None:
    """Give one shard's commit the other's data: each digest is right, the name is not made of the keys."""
    first, second = features.commits
    commit(first.folder, first.stem, second.files, first.record)


def other_width(store: StoreFolder, features: Features) -> None:
    features.write_shard([b"w" * 16], np.ones((1, 5)), {})


def not_vectors(store: StoreFolder, features: Features) -> None:
    folder = features.folder / "shards"
    file = write_table(folder, "a" * 32, "vectors", pa.table({"a": [1]}))
    commit(folder, "a" * 32, {"vectors": file}, {})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lose_shard, "data set 'mine': 3 of its vectors are not in features"),
        (lose_file, "the file is missing (read by r1, r2)"),
        (swap_files, "its keys are not those its name was made of (read by r1, r2)"),
        (other_width, "holds float16[5], expected float16[4] (read by r1, r2)"),
        (not_vectors, "not a vector file"),
    ],
)
def test_losses_are_found(store: StoreFolder, change: Callable[[StoreFolder, Features], None], said: str) -> None:
    change(store, make_whole(store))
    assert any(said in line for line in verify(store).problems)


def test_second_copies_are_counted_and_no_problem(store: StoreFolder) -> None:
    features = make_whole(store)
    features.write_shard(KEYS[1:4], np.zeros((3, 4)), {})
    found = verify(store)
    assert (found.problems, found.vectors, found.duplicate_vectors) == ([], 9, 3)


def test_what_is_under_way_is_no_problem(store: StoreFolder) -> None:
    features = make_whole(store)
    (store.features("b" * 12)).mkdir()
    (store.features("b" * 12) / "about.json").write_text("{}")
    (store.run("r3")).mkdir()
    (store.run("r3") / "heads.safetensors").write_bytes(b"")
    (features.folder / "shards" / f".{'0' * 16}.tmp").write_bytes(b"half")
    (features.folder / "shards" / f"{'c' * 32}.vectors.{'0' * 12}.parquet").write_bytes(b"half")
    (store.run("r1") / "eval" / ".checkpoints").mkdir()
    assert verify(store).problems == []


def test_the_command_exits_1_on_damage_alone(store: StoreFolder) -> None:
    runner = CliRunner()
    features = make_whole(store)
    whole = runner.invoke(app, ["verify", "--store", str(store.root)])
    assert whole.exit_code == 0
    assert "6 vectors" in whole.stdout
    damage(features.commits[0].path("vectors"))
    broken = runner.invoke(app, ["verify", "--store", str(store.root), "--json"])
    assert broken.exit_code == 1
    assert "content changed" in broken.stdout
    assert "r1, r2" in broken.stdout
    assert "Traceback" not in broken.output


def test_a_run_of_other_features_does_not_read_a_shard(store: StoreFolder) -> None:
    features = make_whole(store)
    other = planned_features(store, {"width": 3, "store_dtype": "float16"})
    other.create({}, None)
    save_run(store, "r9", {"features": other.id}, {"heads": torch.ones(1)})
    item = replace(features).commits[0]
    damage(item.path("vectors"))
    (line,) = [line for line in verify(store).problems if "content changed" in line and "read by" in line]
    assert "r9" not in line
    damage(item.path("vectors"))  # the same bit again
    assert verify(store).problems == []


def assert_refused(store: StoreFolder, path: Path) -> None:
    """Every reader says that a shard's file is damaged, and none decodes it before."""

    def watched(real: Callable[..., Any]) -> Callable[..., Any]:
        def decode(asked: Path, *rest: Any) -> Any:
            assert asked != path, "decoded before it was checked"
            return real(asked, *rest)

        return decode

    with pytest.MonkeyPatch.context() as patch:
        for name in (
            "micropref.cache.vectors.features.open_vectors",
            "micropref.cache.maintenance.verify.open_vectors",
            "micropref.cache.vectors.features.read_keys",
        ):
            patch.setattr(name, watched(getattr(layout, name.rpartition(".")[2])))
        features = only_features(store, None)
        number = [item.folder / item.files[ROLE].name for item in features.commits].index(path)
        with pytest.raises(Failure, match=path.name):
            features.gather(np.array([3 * number]))
        with pytest.raises(Failure, match=path.name):
            features.keys()
        assert any(path.name in line for line in verify(store).problems)


def rot(store: StoreFolder, features: Features, flips: int, *, footer: bool = False) -> None:
    """Flip one random bit of a shard at a time."""
    choose = random.Random(flips)
    for _ in range(flips):
        path = choose.choice(features.commits).path(ROLE)
        data = path.read_bytes()
        start = len(data) - 8 - int.from_bytes(data[-8:-4], "little") if footer else 0
        damage(path, choose.randrange(start * 8, len(data) * 8))
        assert_refused(store, path)
        rewrite(path, data)
    assert verify(store).problems == []


def test_flipped_bits_are_found_before_decoding(store: StoreFolder) -> None:
    rot(store, make_whole(store), 100)


@pytest.mark.slow
def test_many_flipped_bits_and_every_truncation_are_found_before_decoding(store: StoreFolder) -> None:
    features = make_whole(store)
    rot(store, features, 1000)
    rot(store, features, 200, footer=True)
    path = features.commits[0].path(ROLE)
    data = path.read_bytes()
    for length in range(0, len(data), 5):
        rewrite(path, data[:length])
        assert_refused(store, path)
