"""A store that the first release wrote keeps opening, with the figures it had."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from micropref.cli import app

ARCHIVE = Path(__file__).parents[1] / "data" / "store-0.1.0.tar.gz"
"""Pairs with contexts and users, ratings, three trained runs, a sweep, a routed and an adapted run, a person."""
RUN = "mixture-0bf27c74"


@pytest.fixture(scope="module")
def first_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first-release")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder / "s"


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
    assert ARCHIVE.stat().st_size < 300_000


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
