"""Choices replayed in order over stored runs: predicted before they are learned from, sums as the view has them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from micropref.cache.datasets import open_dataset
from micropref.cache.runs.records import open_run
from micropref.cache.sql.query import run_query
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.opening import open_features
from micropref.cache.vectors.pair_features import load_pairs
from micropref.pipeline.people.frozen_run import Frozen
from micropref.pipeline.people.online import adapt_online

Synthetic = Callable[..., str]
Planted = Callable[..., str]


def test_online_predicts_before_it_learns(store: StoreFolder, synthetic: Synthetic, planted_run: Planted) -> None:
    features = synthetic(store, prompts=60, users=3)
    online = adapt_online(store, planted_run(store, features), None, "user")
    pairs = load_pairs(open_dataset(store, "toy"), open_features(store, features), "test", router_input="prompt")
    heads = open_run(store, "planted").tensors()["heads"].double().numpy()
    right = 1 / (1 + np.exp(-pairs.delta.double().numpy() @ heads.T))
    users = pairs.table["user"].to_list()
    for name in sorted({user for user in users if user}):
        rows = [row for row, user in enumerate(users) if user == name]
        weights, loss = np.full(3, 1 / 3), 0.0
        for row in rows:
            loss -= math.log(weights @ right[row])
            weights = weights * right[row] / (weights @ right[row])
        best = -np.log(right[rows]).sum(0)
        found = online.regret.filter((pl.col("group_name") == name) & (pl.col("forecaster") == "log-loss"))
        (row_found,) = found.to_dicts()
        assert row_found["loss"] == pytest.approx(loss, rel=1e-5)
        assert (row_found["best_head"], row_found["rounds"]) == (best.argmin(), len(rows))
        assert row_found["regret"] == pytest.approx(loss - best.min(), rel=1e-4, abs=1e-5)
        assert row_found["bound"] == pytest.approx(math.log(3))
        place = open_run(store, online.run).record["groups"].index(name)
        assert open_run(store, online.run).tensors()["weights"][place].numpy() == pytest.approx(weights, rel=1e-3)
    assert online.pairs == sum(user is not None for user in users)


def test_online_sums_are_those_of_the_view(store: StoreFolder, synthetic: Synthetic, planted_run: Planted) -> None:
    online = adapt_online(store, planted_run(store, synthetic(store, users=5)), None, "attribute")
    query = (
        "SELECT forecaster, sum(loss) AS loss, sum(regret) AS regret, sum(bound) AS bound, "
        "sum(accuracy * rounds) / sum(rounds) AS accuracy FROM regret GROUP BY forecaster"
    )
    rows = {row.pop("forecaster"): row for row in run_query(store.root, query).to_pylist()}
    for row in online.forecasters.to_dicts():
        expected = rows.pop(row["forecaster"])
        assert {name: row[name] for name in expected} == pytest.approx(expected)
        if row["bound"] is not None:
            assert row["regret"] <= row["bound"] + 1e-9
        assert row["accuracy"] == row["new_prompt_accuracy"]
    assert rows == {}
    accuracy = dict(online.forecasters.select("forecaster", "accuracy").iter_rows())
    assert accuracy["log-loss"] > 0.8 > accuracy["router"]


def test_rounds_on_a_prompt_met_before_are_distinguished_from_new_ones(
    store: StoreFolder, synthetic: Synthetic, planted_run: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Frozen.score
    first = []

    def on_one_prompt(self: Frozen, *words: Any) -> Any:
        scored = real(self, *words)
        for group in ("a", "b"):
            row = scored.table["attribute"].to_list().index(group)
            first.append(bool(torch.sigmoid(scored.scores.margins[row]).mean() > 0.5))
        return replace(scored, table=scored.table.with_columns(prompt_id=pl.lit("p")))

    monkeypatch.setattr(Frozen, "score", on_one_prompt)
    online = adapt_online(store, planted_run(store, synthetic(store)), None, "attribute").forecasters
    learned = online.filter(pl.col("forecaster") != "router")
    assert learned["new_prompt_accuracy"].to_list() == [np.mean(first)] * 4
    assert (learned["accuracy"] > 0.8).all()
