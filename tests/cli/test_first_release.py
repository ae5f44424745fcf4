"""A store that the first release wrote keeps opening, with the figures it had."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from micropref.cli import app
from tests.support.stores import FIRST_RELEASE, first_release_store

RUN = "mixture-0bf27c74"


@pytest.fixture(scope="module")
def first_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return first_release_store(tmp_path_factory.mktemp("first-release"))


@pytest.fixture
def micropref(first_release: Path, tmp_path: Path) -> Any:
    """Return `micropref(*arguments)`: the JSON that a command prints, on a copy of the store."""
    shutil.copytree(first_release, tmp_path / "s")

    def run(*arguments: str) -> Any:
        done = CliRunner().invoke(app, [*arguments, "--store", str(tmp_path / "s"), "--json"])
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_its_size_is_small() -> None:
    assert FIRST_RELEASE.stat().st_size < 300_000


def test_it_is_whole_and_listed(micropref: Any) -> None:
    found = micropref("verify")
    assert (found["vectors"], found["problems"]) == (302, [])
    listing = micropref("ls")
    assert [one["pairs"] for one in listing["datasets"]] == [30, 90, 30, 48]
    assert [one["run"].partition("-")[0] for one in listing["runs"]] == [
        "adapt", "lore", "mixture", "mixture", "route", "sweep",
    ]  # fmt: skip
    assert not any(one["data_changed"] for one in listing["runs"])


def test_its_views_hold_what_they_held(micropref: Any) -> None:
    (row,) = micropref("sql", f"FROM mixture_accuracy SELECT round(avg(accuracy), 4) AS a WHERE run = '{RUN}'")
    assert row == {"a": 0.5667}
    views = ("pairs", "ratings", "token_counts", "scores", "best_head", "router_weights", "leaderboard", "runs")
    counts = [f"(SELECT count(*) FROM {view}) AS {view}" for view in (*views, "budget_curve")]
    (row,) = micropref("sql", "SELECT " + ", ".join(counts))
    assert all(row.values()), row


def test_its_runs_are_used_and_others_trained_on_its_vectors(micropref: Any) -> None:
    again = micropref("eval", RUN)
    assert again["run"] == RUN
    trained = micropref("train", "mine", "--k", "2", "--restarts", "2", "--epochs", "4")
    assert trained["record"]["train_pairs"] == 78
    adapted = micropref("adapt", RUN, "--by", "user", "--shots", "1")
    assert adapted["run"].startswith("adapt")


@pytest.mark.parametrize("run", [RUN, "route-daffe662"])
def test_its_runs_that_read_contexts_go_on_reading_context_and_prompt_as_one_text(
    micropref: Any, tmp_path: Path, run: str
) -> None:
    folder = tmp_path / "s" / "runs" / run
    record = json.loads((folder / "run.json").read_text())
    assert (record["settings"]["router_input"], "router_reading" in record) == ("context", False)
    (row,) = micropref("sql", f"FROM runs SELECT router_input WHERE run = '{run}'")
    assert row["router_input"] == "context+prompt or prompt"
    query = f"FROM scores SELECT pair_id, head, margin, weight WHERE run = '{run}' ORDER BY ALL"
    before = micropref("sql", query)
    shutil.rmtree(folder / "eval")
    found = micropref("eval", run, "--split", "train")
    validated = [one for one in found["mixture_accuracy"] if one["part"] == "validation"]
    right = sum(one["accuracy"] * one["n"] for one in validated) / sum(one["n"] for one in validated)
    assert right == pytest.approx(record["validation_accuracy"])
    micropref("eval", run)
    after = {(one["pair_id"], one["head"]): one for one in micropref("sql", query)}
    assert all(
        (one["margin"], one["weight"]) == pytest.approx((again["margin"], again["weight"]), abs=1e-5)
        for one in before
        if (again := after[one["pair_id"], one["head"]])
    )
    assert len(before) > 0 or run.startswith("route")
    assert micropref("adapt", run, "--by", "user", "--shots", "1")["run"].startswith("adapt")


def test_its_contexts_are_read_by_themselves_once_they_are_embedded(micropref: Any, tmp_path: Path) -> None:
    trained = micropref("train", "mine", "--k", "2", "--restarts", "1", "--epochs", "2")
    settings = trained["record"]["settings"]
    assert (settings["router_input"], trained["record"]["router_reading"]) == ("context+prompt", 2)
    done = CliRunner().invoke(
        app, ["train", "mine", "--k", "2", "--router-input", "context", "--store", str(tmp_path / "s")]
    )
    assert done.exit_code == 2
    assert "contexts have no vector of their own" in done.stderr
