"""From cached vectors to runs, scores and accuracies, against slow references."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from micropref.cache.datasets import open_dataset
from micropref.cache.errors import BadInput, Failure
from micropref.cache.runs.records import open_run
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.context_keys import context_keys
from micropref.cache.vectors.opening import open_features, planned_features
from micropref.cache.vectors.pair_features import load_pairs
from micropref.heads.evaluation.scale import choose_scale, scaled_log_probability
from micropref.heads.fitting.no_context import with_no_context
from micropref.heads.fitting.settings import FitPlan, FitSetting, PairTensors
from micropref.heads.mixture import Mixture, pair_log_odds
from micropref.pipeline.evaluation.evaluate import evaluate
from micropref.pipeline.show.train import show_training
from micropref.pipeline.training.train import TrainOptions, train

Synthetic = Callable[..., str]
WIDTH = 16
GROUPS = ("a", "b", None)
PLAN = FitPlan(epochs=15, batch=256, dtype="float32")


def fit(store: StoreFolder, method: str = "mixture", k: int = 3, **options: Any) -> str:
    setting = FitSetting(method, k, lr=2e-2, hidden=16)  # type: ignore[arg-type]
    return train(store, "toy", setting, PLAN, TrainOptions(restarts=3, **options)).run


def test_the_router_with_contexts_finds_the_groups_and_single_does_not(
    store: StoreFolder, synthetic: Synthetic
) -> None:
    synthetic(store, prompts=1200)
    mixture, single = evaluate(store, fit(store)), evaluate(store, fit(store, "single", 1))
    labelled = pl.col("attribute").is_not_null()
    assert mixture.mixture_accuracy.filter(labelled)["accuracy"].min() > 0.8  # type: ignore[operator]
    assert single.mixture_accuracy.filter(pl.col("attribute") == "b")["accuracy"].item() < 0.5
    assert mixture.best_head.filter(labelled)["accuracy"].min() > 0.8  # type: ignore[operator]


def test_scores_are_those_of_a_slow_loop(store: StoreFolder, synthetic: Synthetic) -> None:
    features_id = synthetic(store, prompts=40)
    run = open_run(store, fit(store))
    evaluation = evaluate(store, run.id)
    state = {name: tensor.double().numpy() for name, tensor in run.tensors().items()}
    features = planned_features(store, {"width": WIDTH, "store_dtype": "float32", "max_length": 8})
    columns = ["pair_id", "attribute", "context", "chosen_key", "rejected_key"]
    alone = dict(context_keys(features).iter_rows())
    frame = open_dataset(store, "toy").linked_pairs(features_id, "test", columns)

    def vector(key: bytes) -> np.ndarray:
        return features.gather(features.locate(pl.Series([key], dtype=pl.Binary)))[0].astype(np.float64)

    right: dict[str | None, list[float]] = {group: [] for group in GROUPS}
    for row in frame.iter_rows(named=True):
        delta = vector(row["chosen_key"]) - vector(row["rejected_key"])
        logits = state["no_context"]
        if row["context"] is not None:
            hidden = np.maximum(state["router.v1"] @ vector(alone[row["context"]]) + state["router.b1"], 0)
            logits = state["router.v2"] @ hidden + state["router.b2"]
        weights = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        probability = sum(w / (1 + math.exp(-(head @ delta))) for w, head in zip(weights, state["heads"], strict=True))
        right[row["attribute"]].append(float(probability > 0.5))
    for group in GROUPS:
        found = evaluation.mixture_accuracy.filter(pl.col("attribute").eq_missing(group))
        assert found["accuracy"].item() == pytest.approx(np.mean(right[group]))
        assert found["n"].item() == len(right[group]) == 10
    assert evaluation.without_context == 10


def test_best_heads_are_chosen_on_validation_and_the_oracle_is_called_one(
    store: StoreFolder, synthetic: Synthetic
) -> None:
    synthetic(store)
    evaluation = evaluate(store, fit(store))
    oracle = evaluation.best_head.filter(pl.col("chosen_on") == "oracle")
    highest = evaluation.head_accuracy.group_by("attribute").agg(pl.col("accuracy").max())
    for attribute, accuracy in highest.iter_rows():
        assert oracle.filter(pl.col("attribute").eq_missing(attribute))["accuracy"].item() == accuracy
    run = open_run(store, evaluation.run)
    features = planned_features(store, {"width": WIDTH, "store_dtype": "float32", "max_length": 8})
    pairs = load_pairs(open_dataset(store, "toy"), features, "train", router_input="context")
    pairs = pairs.take((pairs.table["part"] == "validation") & (pairs.table["attribute"] == "b").fill_null(False))
    best = int((Mixture.from_state(run.tensors()).margins(pairs.delta) > 0).double().mean(0).argmax())
    chosen = evaluation.best_head.filter((pl.col("chosen_on") == "validation") & (pl.col("attribute") == "b"))
    assert chosen["head"].item() == best


def test_intervals_hold_the_accuracy_and_narrow_with_more_prompts(store: StoreFolder, synthetic: Synthetic) -> None:
    synthetic(store)
    table = evaluate(store, fit(store)).head_accuracy
    assert (table["low"] <= table["accuracy"]).all()
    assert (table["accuracy"] <= table["high"]).all()
    width = float((table["high"] - table["low"]).mean())  # type: ignore[arg-type]
    assert width == pytest.approx(2 * 1.96 * 0.4 / math.sqrt(100), rel=0.35)


def test_eval_scores_only_what_has_no_scores(store: StoreFolder, synthetic: Synthetic) -> None:
    synthetic(store)
    run = fit(store)
    first = evaluate(store, run)
    assert first.scored > first.pairs == 300
    again = evaluate(store, run)
    assert again.scored == 0
    assert again.mixture_accuracy.equals(first.mixture_accuracy)
    validation = first.scored - first.pairs
    assert evaluate(store, run, split="train").scored == 900 - validation


def test_the_same_fit_is_the_same_run_to_the_bit(store: StoreFolder, tmp_path: Path, synthetic: Synthetic) -> None:
    synthetic(store)
    other = StoreFolder(tmp_path / "other")
    synthetic(other)
    first, second = fit(store), fit(other)
    assert first == second
    tensors = open_run(store, first).tensors()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in open_run(other, second).tensors().items())


def test_runs_record_their_options(store: StoreFolder, synthetic: Synthetic) -> None:
    synthetic(store)
    setting = FitSetting("mixture", 3, lr=2e-2, hidden=16)
    trained = train(store, "toy", setting, PLAN, TrainOptions(restarts=3))
    record = open_run(store, trained.run).record
    assert record["settings"]["router_input"] == "context"
    assert record["settings"]["lr"] == 2e-2
    assert record["validation_nll"] == min(restart["validation_nll"] for restart in trained.restarts)
    assert [restart["seed"] for restart in trained.restarts] == [0, 1, 2]
    assert record["train_pairs"] + record["validation_pairs"] == 900
    assert record["pairs_without_context"] == record["train_pairs"] / 3
    assert set(record["versions"]) >= {"torch", "python"}
    for change in ({"lam": 0.2}, {"seed": 3}, {"k": 4}):
        assert train(store, "toy", replace(setting, **change), PLAN, TrainOptions(restarts=1)).run != trained.run


def test_changed_weights_are_refused(store: StoreFolder, synthetic: Synthetic) -> None:
    synthetic(store)
    run = fit(store)
    path = store.run(run) / "heads.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(Failure, match="changed since it was saved"):
        evaluate(store, run)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda store: fit(store, router_input="context"), "no pair has a context for `router_input` context"),
        (lambda store: fit(store, reward_input="context"), "--responses context"),
        (lambda store: fit(store, features="nothere"), "unknown features id 'nothere'"),
        (lambda store: evaluate(store, "nothere"), "unknown run 'nothere'"),
        (lambda store: evaluate(store, fit(store), data="nothere"), "unknown data set 'nothere' .*there: toy"),
        (lambda store: evaluate(store, fit(store), split="dev"), r"no split 'dev' \(there: test, train\)"),
        (lambda store: evaluate(store, "../x"), "expected 1 to 64 letters"),
        (lambda store: train(store, "gone", FitSetting("single", 1), PLAN, TrainOptions()), "unknown data set 'gone'"),
        (lambda store: TrainOptions(restarts=0), "restarts is 0"),
    ],
)
def test_bad_requests(
    store: StoreFolder, call: Callable[[StoreFolder], Any], message: str, synthetic: Synthetic
) -> None:
    synthetic(store, context=False)
    with pytest.raises(BadInput, match=message) as caught:
        call(store)
    assert "\n" not in str(caught.value)


def test_too_few_prompts_to_validate(store: StoreFolder, synthetic: Synthetic) -> None:
    synthetic(store, prompts=2)
    with pytest.raises(BadInput, match="embed more prompts"):
        fit(store)


def test_two_features_ids_need_a_choice(store: StoreFolder, synthetic: Synthetic) -> None:
    synthetic(store)
    (store.dataset("toy") / "links" / "otherid").mkdir()
    with pytest.raises(BadInput, match=r"2 features ids \(.*\): choose one with `features`"):
        fit(store)


def test_merged_restarts_are_saved_as_one_mixture_and_their_figures_are_its_own(
    store: StoreFolder, synthetic: Synthetic
) -> None:
    synthetic(store, prompts=400, wordings=6)
    setting = FitSetting("mixture", 3, lr=1e-2, hidden=16)
    plan = replace(PLAN, epochs=60)
    trained = train(store, "toy", setting, plan, TrainOptions(restarts=6, router_input="context"))
    run = open_run(store, trained.run)
    assert run.record["merged"] == 4
    assert "the best 4 of 6 restarts" in show_training(trained)
    mixture = Mixture.from_state(run.tensors())
    assert mixture.router is not None
    assert mixture.router.v1 is not None
    assert mixture.router.v1.shape[0] == 4 * 16
    features = open_features(store, run.record["features"])
    pairs = load_pairs(open_dataset(store, "toy"), features, "train", router_input="context")
    fitted, held = (pairs.take(pairs.table["part"] == part) for part in ("fit", "validation"))
    margins, weights = mixture.margins(held.delta), mixture.log_weights(held.router, len(held))
    odds = pair_log_odds(margins, weights)
    scaled = scaled_log_probability(odds, choose_scale(odds))
    assert run.record["validation_nll"] == pytest.approx(-float(scaled.mean()), abs=1e-6)
    assert run.record["validation_accuracy"] == pytest.approx(float((odds > 0).double().mean()))
    again = with_no_context(replace(mixture, no_context=None), PairTensors(fitted.delta, fitted.router))
    assert mixture.no_context is not None
    assert again.no_context is not None
    torch.testing.assert_close(mixture.no_context, again.no_context, msg="learned with the merged heads")
    alone = train(store, "toy", setting, plan, TrainOptions(restarts=6, router_input="context", merge=False))
    assert alone.run != trained.run
    assert (alone.record["merged"], alone.record["validation_nll"]) == (
        1,
        min(one["validation_nll"] for one in trained.restarts),
    )
    assert "best of 6 restarts" in show_training(alone)
    on_prompts = train(store, "toy", setting, plan, TrainOptions(restarts=3, router_input="prompt"))
    assert on_prompts.record["merged"] == 1
    assert "merge" not in on_prompts.record["settings"]


def test_merged_restarts_are_pruned_and_projected_like_others(store: StoreFolder, synthetic: Synthetic) -> None:
    synthetic(store, prompts=600)
    setting = FitSetting("mixture", 4, lr=2e-2, hidden=16)
    options = TrainOptions(restarts=4, router_input="context", projection=8, prune=0.5)
    trained = train(store, "toy", setting, PLAN, options)
    run = open_run(store, trained.run)
    assert run.record["fit_width"] == 8
    mixture = Mixture.from_state(run.tensors())
    assert mixture.k == run.record["k"] == 4 - len(run.record["pruned"]["removed"])
    assert mixture.heads.shape[1] == WIDTH
    evaluation = evaluate(store, trained.run)
    assert evaluation.pairs == 450
    assert evaluation.without_context == 150


def test_merged_restarts_of_streamed_pairs(
    store: StoreFolder, synthetic: Synthetic, monkeypatch: pytest.MonkeyPatch
) -> None:
    synthetic(store, prompts=300)
    setting = FitSetting("mixture", 2, lr=2e-2, hidden=16)
    monkeypatch.setattr("micropref.pipeline.training.memory_budget.Budget.fits", lambda *_: False)
    trained = train(store, "toy", setting, PLAN, TrainOptions(restarts=3))
    assert trained.record["streamed"] is True
    assert trained.record["router_choice"]["reason"] == "not tried"
    assert trained.record["merged"] in (1, 3)
    assert evaluate(store, trained.run).accuracy > 0.8
