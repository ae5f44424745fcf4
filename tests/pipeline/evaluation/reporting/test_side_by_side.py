"""Runs on the same pairs: accuracies and paired differences by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import polars as pl
import pytest
import torch

from micropref.cache.runs.records import open_run, save_run
from micropref.cache.store import StoreFolder
from micropref.heads.evaluation.intervals import mean_intervals
from micropref.pipeline.evaluation.reporting.run_report import RunReport, gather_run
from micropref.pipeline.evaluation.reporting.side_by_side import side_by_side
from tests.support.stores import make_planted_run

Synthetic = Callable[..., str]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, synthetic: Synthetic) -> list[RunReport]:
    """Return a run of three heads and two single rewards."""
    store = StoreFolder(tmp_path_factory.mktemp("runs") / "store")
    make_planted_run(store, synthetic(store, prompts=120))
    planted = open_run(store, "planted")
    for name, head in (("alone", 0), ("other", 1)):
        heads = {"heads": planted.tensors()["heads"][head : head + 1], "static": torch.zeros(1)}
        save_run(store, name, planted.record | {"method": "single", "k": 1}, heads)
    return [gather_run(store, name) for name in ("planted", "alone", "other")]


def test_differences_are_paired_and_to_the_first_single_reward(runs: list[RunReport]) -> None:
    (found,) = side_by_side(runs)
    assert [one.id for one in found.runs] == ["planted", "alone", "other"]
    assert found.reference == 1
    assert found.attributes == ("a", "b", None)
    assert found.counts == (30, 30, 30)
    rights = [one.rights.pairs.rename({"right": one.id}) for one in runs]
    both = rights[0]
    for one in rights[1:]:
        both = both.join(one.drop("attribute"), on="pair_id")
    for column, attribute in enumerate(found.attributes):
        rows = both.filter(pl.col("attribute").eq_missing(pl.lit(attribute, pl.String)))
        for place, run in enumerate(("planted", "alone", "other")):
            assert found.comparison.accuracy[place, column] == pytest.approx(rows[run].to_numpy().mean())
            difference = (rows[run] - rows["alone"]).to_numpy().mean()
            assert found.comparison.difference[place, column] == pytest.approx(difference)
    means = found.comparison.accuracy[:, :3].mean(1)
    assert found.comparison.accuracy[:, 3].tolist() == pytest.approx(means.tolist())
    own = mean_intervals(
        (rights[0]["planted"] - rights[1]["alone"]).to_torch()[rights[0]["attribute"].is_null().to_torch()][:, None],
        {name: ids[rights[0]["attribute"].is_null().to_torch()] for name, ids in runs[0].rights.sides.items()},
        "difference",
    )
    assert found.comparison.difference_low[0, 2] == pytest.approx(own.low.item())


def test_only_pairs_that_all_have_are_compared(runs: list[RunReport]) -> None:
    whole = runs[2].rights
    kept = torch.arange(0, 90, 2)
    part = replace(
        whole, pairs=whole.pairs[kept.tolist()], sides={name: ids[kept] for name, ids in whole.sides.items()}
    )
    (found,) = side_by_side([runs[0], replace(runs[2], rights=part)])
    assert found.pairs == 45
    assert found.reference == 1
    nothing = replace(whole, pairs=whole.pairs.with_columns(pair_id=pl.lit("x") + pl.col("pair_id")))
    assert side_by_side([runs[0], replace(runs[2], rights=nothing)]) == []


def test_one_run_and_runs_of_other_splits_are_not_compared(runs: list[RunReport]) -> None:
    assert side_by_side(runs[:1]) == []
    elsewhere = replace(runs[1], tables=replace(runs[1].tables, split="train"))
    assert side_by_side([runs[0], elsewhere]) == []
