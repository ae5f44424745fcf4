"""Runs of one head by scikit-learn, and the scale that every run has."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from typer.testing import CliRunner

from micropref.cache.runs.records import Run, open_run, save_run
from micropref.cache.store import StoreFolder
from micropref.cli import app
from micropref.pipeline.evaluation.evaluate import evaluate
from micropref.pipeline.training import memory_budget as memory
from micropref.pipeline.training.data import open_fit_data
from tests.support.stores import WIDTH

Synthetic = Callable[..., str]


def trained(store: StoreFolder, *words: str) -> Any:
    done = CliRunner().invoke(app, ["train", "toy", "--method", "single", "--json", "--store", str(store.root), *words])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)["record"]


def shown(store: StoreFolder, *words: str) -> str:
    done = CliRunner().invoke(app, ["train", "toy", "--method", "single", "--store", str(store.root), *words])
    assert done.exit_code == 0, done.output
    return " ".join(done.stdout.split())


def held_out_nll(store: StoreFolder, run: Run, scale: float) -> float:
    """Return the NLL of validation pairs by a slow formula."""
    delta = open_fit_data(store, "toy", routed=False).validation.delta.double().numpy()
    return float(np.logaddexp(0, -scale * delta @ run.tensors()["heads"][0].double().numpy()).mean())


def test_its_record_says_how_it_was_fitted(store: StoreFolder, synthetic: Synthetic) -> None:
    synthetic(store)
    record = trained(store)
    settings = record["settings"]
    assert (settings["solver"], settings["l2"], settings["lam"], record["lam"]) == ("scikit-learn", 0.0, 0.0, 0.0)
    assert settings["lr"] is settings["epochs"] is settings["device"] is settings["restarts"] is None
    assert len(record["path"]) == len(record["validation_history"]) == record["epochs_run"]
    assert record["c"] == record["path"][record["best_epoch"] - 1]
    run = open_run(store, record["run"])
    assert record["validation_nll"] == pytest.approx(held_out_nll(store, run, record["scale"]), abs=1e-6)
    assert f"scikit-learn, C = {record['c']:.3g}, chosen on validation among" in shown(store)
    assert trained(store, "--seed", "0")["run"] == record["run"]


def test_l2_and_the_other_solvers_are_other_runs(store: StoreFolder, synthetic: Synthetic) -> None:
    synthetic(store, prompts=200)
    chosen, given = trained(store), trained(store, "--l2", "50")
    assert (given["c"], given["path"]) == (pytest.approx(1 / 50), [pytest.approx(1 / 50)])
    lbfgs = trained(store, "--l2", "50", "--solver", "lbfgs", "--patience", "0", "--device", "cpu")
    assert "c" not in lbfgs
    heads = [open_run(store, one["run"]).tensors()["heads"] for one in (given, lbfgs)]
    torch.testing.assert_close(heads[0], heads[1], rtol=1e-3, atol=1e-4)
    assert len({one["run"] for one in (chosen, given, lbfgs, trained(store, "--solver", "adamw"))}) == 4


def test_components_are_folded_back(store: StoreFolder, synthetic: Synthetic) -> None:
    synthetic(store)
    record = trained(store, "--projection", "8")
    assert record["fit_width"] == 8
    assert open_run(store, record["run"]).tensors()["heads"].shape == (1, WIDTH)


def test_streamed_pairs_are_fitted_in_minibatches_and_that_is_said(
    store: StoreFolder, synthetic: Synthetic, monkeypatch: pytest.MonkeyPatch
) -> None:
    synthetic(store)
    monkeypatch.setattr(memory.Budget, "holds", lambda *_: False)
    record = trained(store)
    assert (record["streamed"], record["settings"]["solver"], record["settings"]["epochs"]) == (True, "adamw", 20)
    assert record["validation_nll"] <= math.log(2)
    assert "fitted in minibatches, L2 as given" in shown(store)


def saved(store: StoreFolder, features: str, heads: torch.Tensor, **changes: Any) -> str:
    settings = {"router_input": "prompt", "reward_input": "plain"}
    record = {"parent": None, "method": "single", "data": "toy", "features": features, "k": 1, "settings": settings}
    return save_run(store, "made", {**record, "data_digest": "0", **changes}, {"heads": heads}).id


@pytest.mark.parametrize("scale", [None, 0.0, 0.3])
def test_eval_scales_nll_and_nothing_else(store: StoreFolder, synthetic: Synthetic, scale: float | None) -> None:
    features = synthetic(store)
    heads = torch.from_numpy(np.random.default_rng(1).normal(size=(1, WIDTH))).float()
    run = saved(store, features, heads, **({} if scale is None else {"scale": scale}))
    found = evaluate(store, run)
    assert found.scale == (1.0 if scale is None else scale)
    margins = open_run(store, run).score_shards("toy", "test")[0].path("scores")
    margin = pl.read_parquet(margins)["margin_0"].to_numpy().astype(np.float64)
    assert found.nll == pytest.approx(np.logaddexp(0, -found.scale * margin).mean(), abs=1e-6)
    assert found.accuracy == pytest.approx((margin > 0).mean())
    if scale == 0:
        assert found.nll == math.log(2)


def test_a_fit_of_noise_says_that_there_is_no_signal(store: StoreFolder, synthetic: Synthetic) -> None:
    """Some seeds of a random start are worse than a coin on validation pairs: their scale is 0, the heads stay."""
    synthetic(store, prompts=60, context=False)
    words = ("--solver", "adamw", "--epochs", "1", "--lr", "1e-9", "--device", "cpu")
    records = [trained(store, *words, "--seed", str(seed)) for seed in range(8)]
    assert all(one["validation_nll"] <= math.log(2) for one in records)
    none = [one for one in records if one["scale"] == 0]
    assert none
    assert none[0]["validation_nll"] == math.log(2)
    run = open_run(store, none[0]["run"])
    assert run.tensors()["heads"].abs().max() > 0
    assert any(held_out_nll(store, open_run(store, one["run"]), 1.0) > math.log(2) for one in none)
    assert "no signal: validation pairs do not tell it from a coin" in shown(
        store, *words, "--seed", str(none[0]["seed"])
    )
