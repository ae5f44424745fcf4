"""What `auto` takes for the router to read: planted tastes that need the prompt, and such that do not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import polars as pl
import pytest
import torch

from micropref.cache.runs.records import open_run
from micropref.cache.store import StoreFolder
from micropref.heads.fitting.fit import fit
from micropref.heads.fitting.settings import FitPlan, FitSetting
from micropref.pipeline.evaluation.evaluate import evaluate
from micropref.pipeline.show.train import show_training
from micropref.pipeline.training.choose_width import project
from micropref.pipeline.training.data import open_fit_data, tensors
from micropref.pipeline.training.restarts import fit_restarts
from micropref.pipeline.training.router_choice import FOLDS, RouterChoice, Rule, _folds, _on_new
from micropref.pipeline.training.train import Trained, TrainOptions, train

Synthetic = Callable[..., str]
PLAN = FitPlan(epochs=20, batch=256, dtype="float32")
SETTING = FitSetting("mixture", 3, lam=0.03, lr=2e-2, hidden=16)


def trained(store: StoreFolder, **options: Any) -> Trained:
    return train(store, "toy", SETTING, PLAN, TrainOptions(restarts=3, **options))


def test_the_prompt_is_read_where_tastes_need_it(store: StoreFolder, synthetic: Synthetic) -> None:
    synthetic(store, prompts=1000, wordings=6, topics=True)
    found = trained(store)
    choice = found.record["router_choice"]
    assert (choice["reads"], choice["reason"], choice["contexts"]) == ("context,prompt", "ahead", 12)
    assert choice["ahead"] > 2 * choice["ahead_se"] > 0
    assert choice["held_out"] > -2 * choice["held_out_se"]
    assert found.record["settings"]["router_input"] == "context,prompt"
    assert "the router reads the prompt next to the context, which changes validation NLL by -" in " ".join(
        show_training(found).split()
    )
    both = trained(store, router_input="context,prompt")
    assert both.run == found.run, "the same fit is the same run"
    first, second = evaluate(store, found.run), evaluate(store, trained(store, router_input="context").run)
    assert first.accuracy > second.accuracy + 0.05


def test_the_context_alone_is_read_where_it_says_all(store: StoreFolder, synthetic: Synthetic) -> None:
    synthetic(store, prompts=600, wordings=6)
    found = trained(store)
    choice = found.record["router_choice"]
    assert (choice["reads"], found.record["settings"]["router_input"]) == ("context", "context")
    assert choice["reason"] in ("not ahead", "not decidable")
    assert "alone" in show_training(found)
    assert trained(store, router_input="context").record.get("router_choice") is None


def test_two_contexts_that_all_pairs_have_decide_nothing(store: StoreFolder, synthetic: Synthetic) -> None:
    synthetic(store, prompts=1000, topics=True)
    choice = trained(store).record["router_choice"]
    assert (choice["reads"], choice["reason"], choice["held_out"]) == ("context", "not decidable", None)


def test_where_no_context_repeats_validation_has_new_ones(store: StoreFolder, synthetic: Synthetic) -> None:
    synthetic(store, prompts=1000, wordings=10**9, topics=True)
    choice = trained(store).record["router_choice"]
    assert (choice["reads"], choice["reason"]) == ("context,prompt", "ahead on new")
    assert choice["held_out"] > 2 * choice["held_out_se"] > 0


def test_without_memory_for_both_the_context_alone_is_read(
    store: StoreFolder, synthetic: Synthetic, monkeypatch: pytest.MonkeyPatch
) -> None:
    synthetic(store, prompts=100, wordings=3)
    monkeypatch.setattr("micropref.pipeline.training.memory_budget.Budget.fits", lambda *_: False)
    monkeypatch.setattr("micropref.pipeline.training.memory_budget.Budget.holds", lambda *_: True)
    found = trained(store)
    assert found.record["router_choice"]["reason"] == "not tried"
    assert "takes more --memory" in show_training(found)


def test_held_out_pairs_are_scored_by_fits_without_their_contexts(store: StoreFolder, synthetic: Synthetic) -> None:
    synthetic(store, prompts=300, wordings=3)
    data = open_fit_data(store, "toy", routed=True)
    settings = [SETTING, replace(SETTING, seed=1)]
    alone = fit_restarts(data, project(data, "none", SETTING, PLAN), settings, PLAN, merge=False)
    folds = _folds(data)
    found = Rule(settings, PLAN, merge=False)._held_out(alone, *folds)
    contexts = data.fitting.table["context"]
    held_out = 0
    for number in range(FOLDS):
        away = set(contexts.filter(pl.Series((folds[0] == number).numpy())))
        assert None not in away
        kept = ~contexts.is_in(away).fill_null(value=False)
        scored = data.validation.table["context"].is_in(away).fill_null(value=False)
        held_out += len(away)
        if not scored.any():
            continue
        known, new = data.validation.take(~scored), data.validation.take(scored)
        models = fit(tensors(data.fitting.take(kept)), tensors(known), settings, PLAN)
        best = min(models, key=lambda one: one.validation_nll).mixture
        expected = best.log_probability(new.delta, new.router).double()
        torch.testing.assert_close(found[torch.from_numpy(scored.to_numpy().copy())], expected, rtol=1e-4, atol=1e-5)
    assert held_out == 6
    bare = data.validation.table["context"].is_null().to_torch()
    assert found[bare].isnan().all()


@pytest.mark.parametrize(
    ("gain", "sign", "reason"),
    [
        ([0.1, 0.2, 0.3, 0.2], 1, "ahead"),
        ([-0.1, 0.2, -0.3, 0.0], 1, "ahead"),  # behind by less than two standard errors
        ([-0.3, -0.2, -0.3, -0.2], 1, "not decidable"),
        ([-0.1, 0.2, 0.3, 0.0], -1, "not decidable"),  # ahead by less than two
        ([0.1, 0.2, 0.1, 0.2], -1, "ahead on new"),
        ([0.1, 0.2, math.nan, math.nan], 1, "not decidable"),  # one context leaves no standard error
        ([math.nan] * 4, 1, "not decidable"),
    ],
)
def test_new_contexts_decide_by_two_standard_errors(gain: list[float], sign: int, reason: str) -> None:
    contexts = pl.Series(["a", "a", "b", "c"])
    choice = _on_new(RouterChoice("context", "not ahead", 1.0, 0.1), torch.tensor(gain), contexts, sign)
    assert choice.reason == reason
    assert choice.reads == ("context" if reason == "not decidable" else "context,prompt")


def test_a_sweep_reads_the_context_alone(store: StoreFolder, synthetic: Synthetic) -> None:
    from micropref.pipeline.training.sweep import Grid, sweep

    synthetic(store, prompts=300, wordings=6, topics=True)
    swept = sweep(store, "toy", Grid((2,), (0.03,)), SETTING, PLAN, TrainOptions(restarts=2))
    assert swept.record["settings"]["router_input"] == "context"
    assert "router_choice" not in open_run(store, swept.run).record
