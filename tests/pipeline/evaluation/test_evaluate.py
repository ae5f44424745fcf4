"""What the intervals of an evaluation are over, and that evaluating again renews stored ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
import torch

from micropref.cache.commits import commit, write_table
from micropref.cache.datasets import open_dataset
from micropref.cache.runs.records import open_run
from micropref.cache.sql.query import run_query
from micropref.cache.store import StoreFolder
from micropref.heads.evaluation.intervals import mean_intervals
from micropref.heads.fitting.settings import FitPlan, FitSetting
from micropref.pipeline.evaluation.evaluate import evaluate
from micropref.pipeline.training.method_runs import fitted_contexts
from micropref.pipeline.training.train import TrainOptions, train

Synthetic = Callable[..., str]


def fit(store: StoreFolder, **options: Any) -> str:
    setting = FitSetting("mixture", 2, hidden=8)
    return train(store, "toy", setting, FitPlan(epochs=2), TrainOptions(restarts=1, **options)).run


def test_intervals_are_over_the_users_and_prompts_of_the_scored_pairs(store: StoreFolder, synthetic: Synthetic) -> None:
    features = synthetic(store, prompts=120, users=5)
    run = fit(store)
    found = evaluate(store, run)
    scores = run_query(
        store.root, f"FROM scores SELECT pair_id, margin WHERE run = '{run}' AND head = 0 AND part = 'test'"
    )
    pairs = open_dataset(store, "toy").linked_pairs(features, "test", ["pair_id", "prompt_id", "user", "attribute"])
    own = pairs.join(pl.DataFrame(scores), on="pair_id").filter(pl.col("attribute") == "a")
    names = {column: sorted(own[column].unique()) for column in ("user", "prompt_id")}
    sides = {
        name: torch.tensor([names[name].index(value) for value in own[name]])  # a reference without ranks
        for name in names
    }
    expected = mean_intervals((own["margin"].to_torch() > 0).double()[:, None], sides, "share")
    row = found.head_accuracy.filter((pl.col("attribute") == "a") & (pl.col("head") == 0)).row(0, named=True)
    assert row["low"] == pytest.approx(expected.low.item())
    assert row["high"] == pytest.approx(expected.high.item())
    assert found.clusters["users"] <= 5


def test_evaluating_again_renews_intervals_of_an_earlier_version(store: StoreFolder, synthetic: Synthetic) -> None:
    synthetic(store, prompts=60)
    run = fit(store)
    now = evaluate(store, run)
    folder = open_run(store, run).eval_folder("toy")
    roles = ("head_accuracy", "mixture_accuracy", "best_head", "router_weights")
    old = {role: getattr(now, role) for role in roles}
    old["mixture_accuracy"] = old["mixture_accuracy"].with_columns(low=pl.lit(0.123))
    files = {role: write_table(folder, "tables-test", role, table.to_arrow()) for role, table in old.items()}
    commit(folder, "tables-test", files, {"split": "test", "bootstrap_seed": 0})
    query = f"FROM mixture_accuracy SELECT low WHERE run = '{run}' ORDER BY attribute"
    assert set(pl.DataFrame(run_query(store.root, query))["low"]) == {0.123}
    again = evaluate(store, run)
    assert again.scored == 0
    assert sorted(pl.DataFrame(run_query(store.root, query))["low"]) == sorted(now.mixture_accuracy["low"])
    record = json.loads((folder / "tables-test.json").read_text())["record"]
    assert record["intervals"] == "two-way t"
    assert "bootstrap_seed" not in record


def test_wordings_are_a_side_where_a_router_reads_new_ones(
    store: StoreFolder, synthetic: Synthetic, monkeypatch: pytest.MonkeyPatch
) -> None:
    synthetic(store, prompts=120)
    reads, blind = fit(store), fit(store, router_input="prompt")
    assert set(fitted_contexts(store, open_run(store, reads)).drop_nulls()) == {"a", "b"}
    assert fitted_contexts(store, open_run(store, blind)).is_empty()
    assert "wordings" not in evaluate(store, reads).clusters  # all of them were fitted
    nothing = pl.Series(dtype=pl.String)
    monkeypatch.setattr("micropref.pipeline.evaluation.evaluate.fitted_contexts", lambda *_: nothing)
    assert evaluate(store, reads).clusters["wordings"] == 1  # an attribute has one
    assert "wordings" not in evaluate(store, blind).clusters
