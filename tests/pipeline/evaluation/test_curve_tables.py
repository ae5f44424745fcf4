"""The tables of curves as commands leave them, from a sweep to what was made of its winner's heads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from micropref.cache.runs.records import Run, open_run, readable_runs
from micropref.cache.sql.query import run_query
from micropref.cache.store import StoreFolder
from micropref.heads.adaptation.routing_budget import RouteSetting
from micropref.heads.fitting.settings import FitPlan, FitSetting
from micropref.pipeline.evaluation.curve_tables import derived, sweep_tables
from micropref.pipeline.evaluation.curves import adaptation_curve, budget_curve, convergence, k_curve, regret_curve
from micropref.pipeline.people.adapt import AdaptOptions, adapt
from micropref.pipeline.people.online import Online, adapt_online
from micropref.pipeline.routing.route import RouteOptions, route
from micropref.pipeline.training.sweep import Grid, sweep
from micropref.pipeline.training.train import TrainOptions
from tests.support.stores import first_release_store

Synthetic = Callable[..., str]


def table(store: StoreFolder, query: str) -> pl.DataFrame:
    found = pl.from_arrow(run_query(store.root, query))
    assert isinstance(found, pl.DataFrame)
    return found


def test_every_curve_of_a_run_is_found_from_its_record(store: StoreFolder, synthetic: Synthetic) -> None:
    synthetic(store, prompts=160, users=9, wordings=5)
    base, plan = FitSetting("mixture", 2, lr=2e-2, hidden=8), FitPlan(epochs=4, batch=256, dtype="float32")
    swept = sweep(store, "toy", Grid((2, 3), (0.1,)), base, plan, TrainOptions(restarts=2, router_input="prompt"))
    run = open_run(store, swept.run)
    routes = [
        route(store, run.id, None, RouteOptions((5, 10), tau=1.0, setting=RouteSetting(seed=seed, epochs=3)))
        for seed in (0, 1)
    ]
    adam = RouteSetting(solver="adam", epochs=2)
    route(store, run.id, None, RouteOptions((5,), tau=1.0, setting=adam))
    for seed in (0, 1):
        adapt(store, run.id, None, AdaptOptions("user", (0, 2, 4), method="bayes", seed=seed))
    online = adapt_online(store, run.id, None, "user")

    found = sweep_tables(store, open_run(store, routes[0].run))
    assert found is not None
    assert found.run == run.id
    assert found.by_k == swept.by_k
    curve = k_curve(found.leaderboard, found.by_k)
    assert curve.chosen == run.record["k"]
    assert curve.points["test_accuracy"].null_count() == 0
    assert found.history is not None
    by_epoch = convergence(found.history, curve.lams)
    assert by_epoch.group_by("k").agg(pl.col("epoch").max()).sort("k").rows() == [(2, 4), (3, 4)]
    assert set(by_epoch["seeds"]) == {2}

    ways = derived(store, run)["budget_curve"]
    assert [one.label for one in ways] == ["epochs 2, solver adam", "epochs 3, solver ridge"]
    ridge = ways[1]
    assert set(ridge.runs) == {one.run for one in routes}
    budgets = budget_curve(ridge.tables["budget_curve"], ridge.tables["budget_totals"])
    assert budgets.overall.select("budget", "seeds").rows() == [(0, 2), (5, 2), (10, 2)]
    last = [one.totals["accuracy"][-1] for one in routes]
    assert budgets.overall["accuracy"][-1] == pytest.approx(sum(last) / 2)
    rounds = convergence(ridge.tables["history"])
    assert rounds["epoch"].to_list() == [0, 1, 2, 3]
    assert rounds["test_accuracy"][-1] == pytest.approx(sum(last) / 2)
    for one in routes:
        own = table(store, f"FROM history WHERE run = '{one.run}' ORDER BY epoch")
        record = open_run(store, one.run).record
        assert own["validation_accuracy"][-1] == pytest.approx(record["validation_accuracy"], abs=1e-6)
        assert set(own["parent"]) == {run.id}
        assert own["train_nll"][-1] < own["train_nll"][0]

    (people,) = derived(store, run)["adaptation"]
    assert adaptation_curve(people.tables["adaptation"])["seeds"].to_list() == [2] * 3
    check_regret(store, run, online)


def check_regret(store: StoreFolder, run: Run, online: Online) -> None:
    """Compare the means by round with the figures of the groups that have the most rounds."""
    (replayed,) = derived(store, run)["regret_by_round"]
    regret = regret_curve(replayed.tables["regret_by_round"])
    for forecaster, by_round in regret.group_by("forecaster"):
        groups = online.regret.filter(pl.col("forecaster") == forecaster[0])
        most = groups["rounds"].max()
        end = by_round.filter(pl.col("round") == most)
        longest = groups.filter(pl.col("rounds") == most)
        assert end["groups"].to_list() == [longest.height]
        assert end["regret"][0] == pytest.approx(longest["regret"].mean())
        assert end["bound"][0] == (None if longest["bound"][0] is None else pytest.approx(longest["bound"].mean()))
        bounded = by_round.drop_nulls("bound")
        assert (bounded["regret"] <= bounded["bound"] + 1e-9).all()
    seen = table(store, f"FROM regret_by_round WHERE run = '{online.run}' AND round = 1")
    assert seen["groups"].to_list() == [online.groups] * seen.height


def test_a_store_of_the_first_release_has_a_sweep_without_histories(tmp_path: Path) -> None:
    store = StoreFolder(first_release_store(tmp_path))
    run = next(one for one in readable_runs(store) if one.id.startswith("sweep-"))
    found = sweep_tables(store, run)
    assert found is not None
    assert found.history is None
    curve = k_curve(found.leaderboard, found.by_k)
    assert curve.chosen == run.record["k"]
    assert set(curve.points["test_accuracy"]) == {None}
    routed = next(one for one in readable_runs(store) if one.id.startswith("route-"))
    (way,) = derived(store, open_run(store, routed.record["parent"]))["budget_curve"]
    assert way.tables.keys() == {"budget_curve"}
    assert budget_curve(way.tables["budget_curve"]).overall["budget"][0] == 0
