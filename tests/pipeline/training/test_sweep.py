"""Sweeps: settings fitted once, K by the rule, interruptions that lose nothing; pruning and projection end to end."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from micropref.cache.commits import read_commits
from micropref.cache.errors import BadInput, Interrupted
from micropref.cache.maintenance.verify import verify
from micropref.cache.runs.records import open_run
from micropref.cache.sql.query import SqlLimits, run_query
from micropref.cache.store import StoreFolder
from micropref.heads.evaluation.intervals import mean_intervals
from micropref.heads.fitting.settings import FitPlan, FitProgress, FitSetting
from micropref.heads.methods.base import MethodOptions
from micropref.pipeline.evaluation.evaluate import evaluate
from micropref.pipeline.show.methods import show_method
from micropref.pipeline.show.train import show_sweep, show_training
from micropref.pipeline.training.method_runs import train_method
from micropref.pipeline.training.sweep import Grid, Swept, sweep
from micropref.pipeline.training.train import TrainOptions, train

Synthetic = Callable[..., str]
BASE = FitSetting("mixture", 2, lr=2e-2, hidden=16)
PLAN = FitPlan(epochs=12, batch=256, dtype="float32")
GRID = Grid((1, 2, 4), (0.03, 0.3))


def run(store: StoreFolder, grid: Grid = GRID, progress: Any = None, seeds: int = 2, **options: Any) -> Swept:
    return sweep(store, "toy", grid, BASE, PLAN, TrainOptions(restarts=seeds, **options), progress)


def rows(store: StoreFolder, query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = run_query(store.root, query, SqlLimits()).to_pylist()
    return found


def test_one_validation_prompt_leaves_no_standard_error(store: StoreFolder, synthetic: Synthetic) -> None:
    synthetic(store, prompts=5)
    trained = train(store, "toy", BASE, PLAN, TrainOptions(restarts=1))
    assert json.loads((open_run(store, trained.run).folder / "run.json").read_text())["validation_nll_se"] is None
    assert "±" not in show_training(trained)
    assert "±" not in show_method(train_method(store, "toy", "drm", MethodOptions()))
    swept = run(store, Grid((1, 2), (0.03,)))
    assert "±" not in show_sweep(swept)
    assert {row["validation_nll_se"] for row in rows(store, "FROM leaderboard")} == {None}


def test_settings_are_distinct_and_one_head_is_fitted_once() -> None:
    settings = Grid((1, 2, 2, 4), (0.0, 0.1)).settings(BASE, TrainOptions(restarts=3))
    assert len(settings) == len(set(settings)) == 1 + 2 * 2 * 3
    assert settings[0] == FitSetting("single", 1, lam=0.0, lr=2e-2, hidden=16)
    assert {one.seed for one in settings} == {0, 1, 2}
    assert Grid((5, 1, 2), (0.3, 0.1)).middle(BASE).k == 2
    ensembles = GRID.settings(replace(BASE, method="ensemble"), TrainOptions(restarts=1))
    assert [(one.method, one.k, one.lam) for one in ensembles] == [
        ("single", 1, 0),
        ("ensemble", 2, 0),
        ("ensemble", 4, 0),
    ]


def test_the_planted_number_of_groups_is_chosen_and_saved_like_any_run(
    store: StoreFolder, synthetic: Synthetic
) -> None:
    synthetic(store, prompts=1200)
    swept = run(store, seeds=4)
    record = open_run(store, swept.run).record
    assert (record["k"], swept.settings, len(swept.leaderboard)) == (2, 1 + 2 * 2 * 4, 1 + 2 * 2)
    assert swept.by_k[0].behind > 3 * swept.by_k[0].behind_se
    best = min(one.nll for one in swept.by_k)
    assert record["validation_nll"] == pytest.approx(next(one.nll for one in swept.by_k if one.size == 2), abs=1e-6)
    assert best == pytest.approx(swept.leaderboard[0]["validation_nll"])
    assert evaluate(store, swept.run).accuracy > 0.65
    board = rows(store, f"SELECT * FROM leaderboard WHERE sweep = '{swept.run}' ORDER BY validation_nll")
    assert len(board) == swept.settings
    shown = {(row["k"], row["lam"]): row["restarts_agreeing"] for row in swept.leaderboard}
    assert {(row["k"], row["lam"]): row["restarts_agreeing"] for row in board} == shown
    assert shown[1, 0.0] is None
    assert record["restarts_agreeing"] == shown[record["k"], record["lam"]]
    assert board[0]["validation_nll"] == best
    assert {row["run"] for row in board} == {swept.run}
    assert (
        rows(store, f"SELECT k, test_accuracy FROM leaderboard WHERE sweep IS NULL AND run = '{swept.run}'")[0]["k"]
        == 2
    )
    assert verify(store).problems == []
    assert read_commits(store.run(swept.run) / "chunks") == []
    text = show_sweep(swept)
    assert f"run {swept.run}: K = 2" in text
    assert {"restarts", "that", "agree"} <= set(text.split())


def test_a_setting_of_a_sweep_is_what_train_gives(store: StoreFolder, synthetic: Synthetic) -> None:
    synthetic(store)
    swept = run(store, Grid((3,), (0.1,)), seeds=2)
    setting = FitSetting("mixture", 3, lam=0.1, lr=2e-2, hidden=16)
    trained = train(store, "toy", setting, PLAN, TrainOptions(restarts=2))
    first, second = (open_run(store, one).tensors() for one in (swept.run, trained.run))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert trained.record["validation_nll"] == swept.record["validation_nll"]


def test_every_setting_has_the_test_accuracy_that_eval_finds_and_a_history(
    store: StoreFolder, synthetic: Synthetic
) -> None:
    synthetic(store, prompts=160, users=9, wordings=5)
    swept = run(store, Grid((1, 2), (0.1,)), router_input="context")
    assert swept.untested is None
    board = rows(store, f"SELECT * FROM leaderboard WHERE sweep = '{swept.run}'")
    assert [(row["k"], row["seed"]) for row in sorted(board, key=lambda row: (row["k"], row["seed"]))] == [
        *((1, 0), (2, 0), (2, 1))
    ]
    for row in board:
        setting = FitSetting("mixture" if row["k"] > 1 else "single", row["k"], lam=row["lam"], lr=2e-2, hidden=16)
        plan = PLAN if row["k"] > 1 else FitPlan(solver="scikit-learn")
        alone = train(store, "toy", replace(setting, seed=row["seed"]), plan, TrainOptions("context", restarts=1))
        assert evaluate(store, alone.run).accuracy == pytest.approx(row["test_accuracy"], abs=1e-9)
        assert 0 < row["test_low"] < row["test_accuracy"] < row["test_high"] < 1
        own = f"SELECT epoch, train_nll, validation_nll, validation_accuracy FROM history WHERE run = '{alone.run}'"
        setting_of = f"sweep = '{swept.run}' AND k = {row['k']} AND seed = {row['seed']}"
        found = rows(store, own.replace(f"run = '{alone.run}'", setting_of) + " ORDER BY epoch")
        expected = rows(store, own + " ORDER BY epoch")
        assert len(found) == len(expected) == alone.record["epochs_run"]
        for one, other in zip(found, expected, strict=True):
            assert one == pytest.approx(other, abs=2e-3)
        assert [one["epoch"] for one in found] == list(range(1, len(found) + 1))


def test_the_test_accuracy_has_the_interval_of_eval(store: StoreFolder, synthetic: Synthetic) -> None:
    features = synthetic(store, users=9)
    path = next((store.dataset("toy") / "pairs").glob("test*.json"))
    swept = run(store, Grid((1,), (0.1,)))
    evaluate(store, swept.run)
    scored = rows(store, f"SELECT pair_id, user, prompt_id, margin FROM scores JOIN pairs USING (pair_id) "
                  f"WHERE run = '{swept.run}' AND scores.part = 'test'".replace("margin", "scores.margin"))  # fmt: skip
    right = torch.tensor([[float(row["margin"] > 0)] for row in scored])
    people = [row["user"] or row["pair_id"] for row in scored]
    sides = {"users": people, "prompts": [row["prompt_id"] for row in scored]}
    codes = {name: torch.tensor([sorted(set(ids)).index(one) for one in ids]) for name, ids in sides.items()}
    expected = mean_intervals(right, codes, "share")
    found = swept.leaderboard[0]
    wanted = {"test_accuracy": expected.mean, "test_low": expected.low, "test_high": expected.high}
    assert {name: found[name] for name in wanted} == pytest.approx({name: float(one) for name, one in wanted.items()})
    links = next((store.dataset("toy") / "links" / features).glob("test*.json"))
    links.unlink()
    again = run(store, Grid((1,), (0.1,)))
    assert "split 'test': source made.jsonl is not embedded with features" in (again.untested or "")
    assert again.leaderboard[0]["test_accuracy"] is None
    assert "no test accuracy of the settings: data set 'toy', split 'test'" in show_sweep(again)
    path.unlink()
    assert run(store, Grid((1,), (0.1,))).untested == "data set 'toy' has no test split"


def test_an_interrupted_sweep_keeps_its_chunks_and_goes_on(
    store: StoreFolder, tmp_path: Path, synthetic: Synthetic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("micropref.heads.fitting.fit.CHUNK_SETTINGS", 3)
    synthetic(store)
    whole = StoreFolder(tmp_path / "whole")
    synthetic(whole)
    expected = run(whole)
    seen: list[tuple[int, int]] = []

    def stop(now: FitProgress) -> None:
        seen.append((now.chunk, now.epoch))
        if now.chunk == 2 and now.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=r"3 of 9 settings are fitted .*leaderboard as sweep-\w+; the same command"):
        run(store, progress=stop)
    assert store.names("runs") == []
    assert [
        row["n"] for row in rows(store, f"SELECT count(*) AS n FROM leaderboard WHERE sweep = '{expected.run}'")
    ] == [3]
    assert verify(store).problems == []
    seen.clear()
    resumed = run(store, progress=lambda now: seen.append((now.chunk, now.epoch)))
    assert min(seen) == (2, 1)
    assert resumed.run == expected.run
    assert resumed.leaderboard == expected.leaderboard
    for name, tensor in open_run(store, resumed.run).tensors().items():
        assert torch.equal(tensor, open_run(whole, expected.run).tensors()[name])


def test_a_damaged_chunk_is_fitted_again(
    store: StoreFolder, synthetic: Synthetic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("micropref.heads.fitting.fit.CHUNK_SETTINGS", 3)
    synthetic(store)

    def stop(now: FitProgress) -> None:
        if now.chunk == 2:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        run(store, progress=stop)
    weights = next((store.root / "runs").rglob("*.weights.*"))
    weights.write_bytes(b"x" * weights.stat().st_size)
    chunks: set[int] = set()
    run(store, progress=lambda now: chunks.add(now.chunk))
    assert chunks == {1, 2, 3}


def test_pruning_shows_accuracy_before_and_after(store: StoreFolder, synthetic: Synthetic) -> None:
    synthetic(store, prompts=1200)
    setting = FitSetting("mixture", 6, lam=0.3, lr=2e-2, hidden=16)
    plain = train(store, "toy", setting, PLAN, TrainOptions(restarts=1))
    assert plain.record["duplicate_heads"]
    assert "--prune 0.95 removes duplicates" in show_training(plain)
    pruned = train(store, "toy", setting, PLAN, TrainOptions(restarts=1, prune=0.95))
    assert pruned.run != plain.run
    removed = pruned.record["pruned"]["removed"]
    assert removed
    assert pruned.record["k"] == 6 - len(removed) == len(open_run(store, pruned.run).tensors()["heads"])
    assert pruned.record["pruned"]["before"]["validation_nll"] == pytest.approx(plain.record["validation_nll"])
    assert pruned.record["validation_accuracy"] > plain.record["validation_accuracy"] - 0.05
    assert f"pruned {len(removed)} of 6 heads: validation accuracy" in show_training(pruned)
    assert evaluate(store, pruned.run).head_accuracy["head"].n_unique() == 6 - len(removed)


def test_a_projected_run_is_one_of_the_full_width(store: StoreFolder, synthetic: Synthetic, monkeypatch: Any) -> None:
    monkeypatch.setattr("micropref.pipeline.training.choose_width.PROBED", (2, 8))
    synthetic(store)
    full = train(store, "toy", BASE, PLAN, TrainOptions(restarts=2))
    chosen = train(store, "toy", BASE, PLAN, TrainOptions(restarts=2, projection="auto"))
    assert set(chosen.record["widths_tried"]) == {"2", "8", "16"}
    assert chosen.record["fit_width"] in (2, 8, 16)
    given = train(store, "toy", BASE, PLAN, TrainOptions(restarts=2, projection=12))
    assert given.record["fit_width"] == 12
    assert open_run(store, given.run).tensors()["heads"].shape == (2, 16)
    assert given.record["validation_nll"] == pytest.approx(given.restarts[0]["validation_nll"], abs=0.2)
    assert evaluate(store, given.run).pairs == 300
    assert len({full.run, chosen.run, given.run}) == 3
    wide = train(store, "toy", BASE, PLAN, TrainOptions(restarts=2, projection=64))
    assert wide.record["validation_nll"] == full.record["validation_nll"]
    assert "components" in show_training(chosen)
    assert json.dumps(chosen.record)


@pytest.mark.parametrize("latent", ["pair", "user"])
def test_one_head_of_a_sweep_is_what_train_gives(store: StoreFolder, synthetic: Synthetic, latent: Any) -> None:
    synthetic(store, users=9)
    base = replace(BASE, latent=latent)
    swept = sweep(store, "toy", Grid((1, 2), (0.1,)), base, PLAN, TrainOptions(restarts=1, router_input="prompt"))
    trained = train(store, "toy", FitSetting("single", 1), FitPlan(solver="scikit-learn"), TrainOptions())
    assert swept.record["settings"]["single"] == "scikit-learn"
    (row,) = (one for one in swept.leaderboard if one["k"] == 1)
    assert row["validation_nll"] == trained.record["validation_nll"]
    without = sweep(store, "toy", Grid((2,), (0.1,)), base, PLAN, TrainOptions(restarts=1, router_input="prompt"))
    assert "single" not in without.record["settings"]  # such sweeps keep their ids


def test_k_one_alone_needs_no_router(store: StoreFolder, synthetic: Synthetic) -> None:
    synthetic(store)
    swept = run(store, Grid((1,), (0.1, 0.3)))
    assert (swept.settings, swept.record["method"]) == (1, "single")
    assert swept.leaderboard[0]["restarts_agreeing"] is None
    assert np.isfinite(swept.record["validation_nll"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Grid(()), "k has no value"),
        (lambda: TrainOptions(projection="some"), "projection is 'some': expected none, auto, or a number"),
        (lambda: TrainOptions(projection=0), "projection is 0"),
        (lambda: TrainOptions(prune=1.5), "prune is 1.5: expected a correlation"),
        (lambda: Grid((0,)).settings(BASE, TrainOptions()), "k is 0"),
    ],
)
def test_bad_requests(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        call()
