"""Curves against loops over their rows and values worked out by hand."""

from __future__ import annotations

import math
from itertools import product
from statistics import mean, stdev
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from scipy import stats

from micropref.heads.evaluation.selection import compare_sizes, smallest_within_one_error
from micropref.pipeline.evaluation.curves import (
    adaptation_curve,
    budget_curve,
    convergence,
    k_curve,
    lam_curve,
    over_seeds,
    regret_curve,
)


def settings() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for k, lam, seed in [(1, 0.0, 0), *product((2, 3, 5), (0.03, 0.3), (0, 1, 2))]:
        nll = 0.7 if k == 1 else 0.5 + 0.002 * (5 - k) + 0.01 * rng.random()
        test = 0.8 + 0.01 * rng.standard_normal()
        rows.append(
            {"k": k, "lam": lam, "seed": seed, "validation_nll": nll, "validation_nll_se": 0.006 + 0.001 * k,
             "test_accuracy": test, "test_low": test - 0.02, "test_high": test + 0.02}
        )  # fmt: skip
    return pl.DataFrame(rows).sample(fraction=1, shuffle=True, seed=1)


def test_a_row_of_k_and_lam_is_a_loop_over_its_restarts() -> None:
    rows = settings().to_dicts()
    found = lam_curve(settings())
    assert found.height == 7
    for row in found.iter_rows(named=True):
        own = [one for one in rows if (one["k"], one["lam"]) == (row["k"], row["lam"])]
        best = min(own, key=lambda one: one["validation_nll"])
        assert {name: row[name] for name in best} == best
        assert row["seeds"] == len(own)
        tests = [one["test_accuracy"] for one in own]
        assert row["test_accuracy_mean"] == pytest.approx(mean(tests))
        assert row["test_accuracy_sd"] == (None if len(own) == 1 else pytest.approx(stdev(tests)))
        of_k = [one for one in rows if one["k"] == row["k"]]
        assert row["chosen"] == (best == min(of_k, key=lambda one: one["validation_nll"]))


def test_k_is_chosen_as_a_sweep_does() -> None:
    curve = k_curve(settings())
    points = curve.points.to_dicts()
    best = min(points, key=lambda one: one["validation_nll"])
    limit = best["validation_nll"] + best["validation_nll_se"]
    assert curve.limit == pytest.approx(limit)
    assert curve.chosen == min(one["k"] for one in points if one["validation_nll"] <= limit)
    assert [one["k"] for one in points if one["chosen"]] == [curve.chosen]
    assert curve.lams == {one["k"]: one["lam"] for one in points}
    assert [one["k"] for one in points] == [1, 2, 3, 5]
    # And from predictions, as the sweep compares them: rows and record lead to the same.
    generator = torch.Generator().manual_seed(0)
    base = -torch.rand(400, generator=generator)
    own = {1: base - 0.2, 2: base - 0.001, 3: base + 0.001 * torch.randn(400, generator=generator)}
    by_k = compare_sizes(own, torch.arange(400) // 4)
    rows = pl.DataFrame([{"k": one.size, "lam": 0.1, "seed": 0, "validation_nll": one.nll,
                          "validation_nll_se": one.nll_se} for one in by_k])  # fmt: skip
    told, alone = k_curve(rows, by_k), k_curve(rows)
    assert told.chosen == alone.chosen == smallest_within_one_error(by_k) == 2
    assert told.limit == pytest.approx(alone.limit)
    assert told.points["test_accuracy"].to_list() == [None] * 3


def test_without_a_standard_error_nothing_is_claimed_of_it() -> None:
    unsure = settings().with_columns(validation_nll_se=pl.lit(None, pl.Float64))
    assert (k_curve(unsure).chosen, k_curve(unsure).limit) == (1, None)  # as a sweep of one validation prompt chooses
    known = settings().with_columns(validation_nll_known=pl.col("validation_nll") - 0.1)
    curve = k_curve(known)
    assert (curve.known, curve.chosen, curve.limit) == (True, None, None)
    assert curve.points["validation_nll"].min() == pytest.approx(settings()["validation_nll"].to_numpy().min() - 0.1)
    assert curve.points["validation_nll_se"].to_list() == [None] * 4
    assert not curve.points["chosen"].any()


def test_a_seed_that_stopped_counts_with_its_last_figures() -> None:
    values = {(0, 1): 0.7, (0, 2): 0.6, (0, 3): 0.5, (1, 1): 0.8, (1, 2): 0.7}
    rows = [
        {"run": "s", "sweep": "s", "parent": None, "method": "mixture", "k": 2, "lam": 0.1, "seed": seed,
         "epoch": epoch, "train_nll": nll, "validation_nll": nll + 0.1, "validation_accuracy": None}
        for (seed, epoch), nll in values.items()
    ]  # fmt: skip
    other = [{**row, "lam": 0.3, "train_nll": 9.0} for row in rows[:2]]
    found = convergence(pl.DataFrame(rows + other), {2: 0.1})
    assert found.select("epoch", "seeds", "running").rows() == [(1, 2, 2), (2, 2, 2), (3, 2, 1)]
    assert found["train_nll"].to_list() == pytest.approx([0.75, 0.65, 0.6])
    assert found["train_nll_se"].to_list() == pytest.approx([0.05, 0.05, 0.1])
    assert found["validation_nll"].to_list() == pytest.approx([0.85, 0.75, 0.7])
    assert found["validation_accuracy"].to_list() == [None] * 3
    both = convergence(pl.DataFrame(rows + other))
    assert both.filter(pl.col("lam") == 0.3)["seeds"].to_list() == [1, 1]
    assert both.filter(pl.col("lam") == 0.3)["train_nll_se"].to_list() == [None, None]


def route_rows(runs: dict[str, tuple[int, tuple[int, ...]]]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return rows of budget_curve and totals of runs, named with seed and budgets, by a formula."""
    rows, totals = [], []
    for run, (seed, budgets) in runs.items():
        for budget in (0, *budgets):
            parts = []
            for place, (attribute, n) in enumerate((("a", 100), ("b", 300), (None, 100))):
                accuracy = 0.5 + 0.04 * math.log1p(budget) + 0.03 * place + (0.01 * seed if budget else 0)
                interval = {"accuracy": accuracy, "low": accuracy - 0.03, "high": accuracy + 0.02}
                parts.append({"run": run, "seed": seed, "budget": budget, "attribute": attribute, "n": n, **interval})
            rows += parts
            accuracy = sum(one["n"] * one["accuracy"] for one in parts) / 500
            gain = accuracy - sum(one["n"] * (0.5 + 0.03 * place) for place, one in enumerate(parts)) / 500
            totals.append(
                {"run": run, "seed": seed, "budget": budget, "n": 500, "accuracy": accuracy, "low": accuracy - 0.02,
                 "high": accuracy + 0.02, "gain": gain, "gain_low": gain - 0.01, "gain_high": gain + 0.01}
            )  # fmt: skip
    return pl.DataFrame(rows), pl.DataFrame(totals)


def test_budgets_are_means_over_seeds_with_both_kinds_of_doubt() -> None:
    rows, totals = route_rows({"r0": (0, (10, 50)), "r1": (1, (10, 50)), "r2": (2, (10,)), "again": (0, (10,))})
    found = budget_curve(rows, totals)
    assert found.overall.select("budget", "seeds").rows() == [(0, 3), (10, 3), (50, 2)]
    for row in found.by_attribute.iter_rows(named=True):
        own = rows.filter(
            pl.col("attribute").eq_missing(row["attribute"])
            & (pl.col("budget") == row["budget"])
            & (pl.col("run") != "again")
        )["accuracy"].to_list()
        error = stdev(own) / len(own) ** 0.5
        reach = stats.t.ppf(0.975, len(own) - 1) * error
        assert row["accuracy"] == pytest.approx(mean(own))
        assert row["accuracy_se"] == pytest.approx(error)
        assert row["low"] == pytest.approx(mean(own) - math.hypot(0.03, reach))
        assert row["high"] == pytest.approx(mean(own) + math.hypot(0.02, reach))
        assert row["n"] == {"a": 100, "b": 300, None: 100}[row["attribute"]]
    at_ten = found.overall.row(1, named=True)
    of_seed = [0.5 + 0.04 * math.log1p(10) + 0.03 + 0.01 * seed for seed in range(3)]
    assert at_ten["accuracy"] == pytest.approx(mean(of_seed))
    assert at_ten["attribute_mean"] == pytest.approx(mean(of_seed))
    assert at_ten["gain"] == pytest.approx(mean(of_seed) - 0.53)
    assert found.overall.row(0, named=True)["accuracy_se"] == pytest.approx(0)
    earlier = budget_curve(rows).overall
    assert earlier["accuracy"].to_list() == pytest.approx(found.overall["accuracy"].to_list())
    assert earlier["gain"].to_list() == pytest.approx(found.overall["gain"].to_list())
    assert earlier["low"].to_list() == [None] * 3


def test_one_seed_has_its_own_interval() -> None:
    rows, totals = route_rows({"r0": (4, (10,))})
    found = budget_curve(rows, totals)
    assert found.overall.select("low", "high").row(1) == pytest.approx(totals.select("low", "high").row(1))
    assert found.by_attribute["accuracy_se"].to_list() == [None] * 6


def test_limits_end_where_shares_do() -> None:
    rows = pl.DataFrame({"k": [1, 1], "seed": [0, 1], "accuracy": [0.9, 1.0], "low": [0.8, 0.9], "high": [1.0, 1.0]})
    assert over_seeds(rows, ["k"], ["accuracy"]).select("low", "high").row(0) == (pytest.approx(0.307, abs=1e-3), 1.0)


def test_adaptations_are_means_over_seeds_by_method() -> None:
    figures = ("accuracy", "gain", "nll", "overconfidence")
    rows: list[dict[str, Any]] = []
    for method, seed, shots in product(("bayes", "drm"), (0, 1), (0, 4)):
        value = 0.5 + 0.05 * shots + (0.02 * seed if shots else 0) + (0.1 if method == "drm" else 0)
        row: dict[str, Any] = {"run": f"{method}{seed}", "method": method, "grouped_by": "user", "shots": shots}
        for name in figures:
            prefix = "" if name == "accuracy" else f"{name}_"
            row |= {name: value, f"{prefix}low": value - 0.1, f"{prefix}high": value + 0.1}
        rows.append({**row, "groups": 7, "n": 90})
    found = adaptation_curve(pl.DataFrame(rows))
    assert found.select("method", "shots", "seeds", "groups", "n").rows() == [
        *(("bayes", 0, 2, 7, 90), ("bayes", 4, 2, 7, 90), ("drm", 0, 2, 7, 90), ("drm", 4, 2, 7, 90))
    ]
    assert found["nll"].to_list() == pytest.approx([0.5, 0.71, 0.6, 0.81])
    reach = math.hypot(0.1, stats.t.ppf(0.975, 1) * 0.01)
    assert found.row(1, named=True)["nll_low"] == pytest.approx(0.71 - reach)


def test_regret_has_an_interval_over_groups() -> None:
    rows = pl.DataFrame(
        {"forecaster": ["log-loss"] * 2, "round": [2, 1], "groups": [1, 3], "regret": [0.4, 0.2],
         "regret_se": [None, 0.05], "bound": [1.1, 1.1]}
    )  # fmt: skip
    found = regret_curve(rows)
    reach = stats.t.ppf(0.975, 2) * 0.05
    assert found.row(0)[3:6] == pytest.approx((0.2, 0.2 - reach, 0.2 + reach))
    assert found.row(1)[3:6] == (0.4, None, None)
