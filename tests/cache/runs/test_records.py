"""A run's record is as it was written, or is damaged; a damaged run stands in nobody's way."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import pytest
from typer.testing import CliRunner

import micropref
from micropref import cli
from micropref.cache.errors import Damaged
from micropref.cache.runs.records import open_run, read_runs, readable_runs, save_run
from micropref.cache.sql.query import run_query
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.opening import open_features

Synthetic = Callable[..., str]


@pytest.fixture
def runs(store: StoreFolder, synthetic: Synthetic, planted_run: Callable[..., str]) -> StoreFolder:
    """Return a store with two equal runs."""
    planted_run(store, synthetic(store, prompts=40))
    planted = open_run(store, "planted")
    save_run(store, "other", planted.record, planted.tensors())
    return store


@pytest.mark.parametrize("name", ["lam", "k", "validation_nll", "seed", "method", "features"])
def test_an_edited_record_is_damaged(runs: StoreFolder, name: str) -> None:
    path = runs.run("other") / "run.json"
    record = json.loads(path.read_bytes())
    path.write_text(json.dumps(record | {name: 7}, indent=1, sort_keys=True))
    with pytest.raises(Damaged, match=r"run\.json: damaged or changed"):
        open_run(runs, "other")
    path.write_text(json.dumps(record))  # other spaces, the same record
    assert open_run(runs, "other").record["k"] == 3


def test_every_flipped_bit_is_found_or_changes_nothing(runs: StoreFolder) -> None:
    path, known = runs.run("other") / "run.json", open_run(runs, "other").record
    data, draw = path.read_bytes(), random.Random(0)
    found = 0
    for _ in range(400):
        changed = bytearray(data)
        changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        try:
            record = open_run(runs, "other").record
        except Damaged:
            found += 1
        else:  # in white space between entries, or in the name of the digest itself
            assert {name: record[name] for name in known} == known
    assert found > 300


def test_records_of_earlier_versions_are_read(runs: StoreFolder) -> None:
    path = runs.run("other") / "run.json"
    record = json.loads(path.read_bytes())
    del record["digest"]
    path.write_text(json.dumps(record))
    assert open_run(runs, "other").record == record


@pytest.mark.parametrize("broken", ["{", "[" * 100_000, "null", '{"run": "planted"}', ""])
def test_queries_go_on_without_a_damaged_run_and_name_it(runs: StoreFolder, broken: str) -> None:
    (runs.run("other") / "run.json").write_text(broken)
    assert [run.id for run in readable_runs(runs)] == ["planted"]
    _, (line,) = read_runs(runs)
    assert "other/run.json: damaged" in line
    assert run_query(runs.root, "SELECT run FROM runs").to_pylist() == [{"run": "planted"}]
    said: list[str] = []
    assert micropref.Store(runs.root, said.append).sql("SELECT run FROM leaderboard")["run"].to_list() == ["planted"]
    assert said == [f"warning: left out: {line}"]
    done = CliRunner().invoke(cli.app, ["sql", "SELECT run FROM runs", "--store", str(runs.root)])
    assert (done.exit_code, done.stderr.count("other/run.json")) == (0, 1)
    assert "planted" in done.stdout


def test_what_is_said_of_a_backbone_is_as_it_was_written(runs: StoreFolder) -> None:
    features = open_features(runs, open_run(runs, "planted").record["features"])
    path = features.folder / "about.json"
    assert features.about() == {"name": "synthetic"}
    path.write_text(path.read_text().replace("synthetic", "synthesis"))
    with pytest.raises(Damaged, match=r"about\.json: damaged"):
        features.about()
    path.write_text('{"name": "of an earlier version"}')
    assert features.about() == {"name": "of an earlier version"}
