"""What `--router-input auto` takes where pairs have contexts: the context alone, or the prompt next to it.

N validation pairs. The context alone is the default: a router that reads the prompt too may remember which context
came with which prompt, and that helps on known contexts only. So the prompt has to earn its place twice: ahead on
validation, and not behind on contexts that were held out. Where next to none repeats, validation pairs have new ones
already. `make bench-wordings` tries this rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import polars as pl
import torch

from micropref.cache.choices import RouterInput
from micropref.cache.vectors.router_inputs import SIDE_BY_SIDE
from micropref.heads.evaluation.intervals import standard_error
from micropref.heads.fitting.fit import fit
from micropref.heads.fitting.merging import merge_restarts
from micropref.heads.fitting.pair_source import score
from micropref.heads.fitting.settings import FitPlan, FitProgress, FitSetting, PairTensors
from micropref.heads.mixture import pair_log_probability
from micropref.pipeline.training.choose_width import Width, project
from micropref.pipeline.training.data import FitData
from micropref.pipeline.training.restarts import Restarts, fit_restarts, reads_contexts

FOLDS = 4
"""Parts of the contexts that are held out in turns."""
FOLD_RESTARTS = 4
"""Restarts at most of each fit with contexts held out: there are eight fits."""
ERRORS = 2.0
"""Standard errors by which side by side has to be ahead on validation, and may be behind on held-out contexts."""
REPEATED = 3
"""Contexts with several pairs to fit from which on contexts are held out."""

Reason = Literal["not ahead", "ahead", "ahead on new", "not decidable", "not tried"]
"""Why: not ahead on validation; ahead there, and not behind on held-out contexts; ahead on the validation pairs whose
context is new, where too few repeat to hold any out; ahead, but not on what is new, or nothing is; no memory for it."""


@dataclass(frozen=True)
class RouterChoice:
    """What the rule took, and why. Gains are of context and prompt side by side over the context alone."""

    reads: RouterInput
    reason: Reason
    ahead: float | None = None
    """Mean gain on validation pairs in nats; None where it was not tried."""
    ahead_se: float | None = None
    """Its standard error, paired and over prompts."""
    held_out: float | None = None
    """Mean gain on validation pairs whose contexts were held out, or are new where too few repeat; None: no pair is."""
    held_out_se: float | None = None
    """Its standard error, paired and over contexts; None where one context leaves it unknown."""
    contexts: int = 0
    """Contexts that this is over."""

    def record(self) -> dict[str, Any]:
        """Return what run.json says of it."""
        return {"router_choice": asdict(self)}


@dataclass(frozen=True)
class Rule:
    """The fits that the rule compares, all alike but for what the router reads."""

    settings: list[FitSetting]
    """One for each restart."""
    plan: FitPlan
    merge: bool
    """Whether restarts are merged."""
    progress: Callable[[FitProgress], None] | None = None

    def apply(self, alone: Restarts, side_by_side: FitData | None) -> tuple[Restarts, RouterChoice]:
        """Return the better of a fit on contexts alone and one on prompts next to them, which are fitted here.

        `side_by_side` is None where there is no memory for these.
        """
        if side_by_side is None:
            return alone, RouterChoice("context", "not tried")
        width: Width = "none" if alone.projected.projection is None else alone.projected.width
        projected = project(side_by_side, width, self.settings[0], self.plan)
        both = fit_restarts(side_by_side, projected, self.settings, self.plan, merge=self.merge, progress=self.progress)
        gain = both.chosen.log_probability - alone.chosen.log_probability
        ahead, error = _mean_and_error(gain, alone.data.clusters)
        choice = RouterChoice("context", "not ahead", ahead, error)
        if error is None or ahead <= ERRORS * error:
            return alone, choice
        folds, repeat = _folds(alone.data), _repeated(alone.data) >= REPEATED
        if repeat:
            gain = self._held_out(both, *folds) - self._held_out(alone, *folds)
        else:
            gain[folds[1] >= 0] = math.nan
        choice = _on_new(choice, gain, alone.data.validation.table["context"], 1 if repeat else -1)
        return (both if choice.reads == SIDE_BY_SIDE else alone), choice

    def _held_out(self, found: Restarts, fit_fold: torch.Tensor, fold: torch.Tensor) -> torch.Tensor:
        """Return log P(chosen ≻ rejected) [N] by fits that had no pair of its context; NaN where there is none."""
        train, validation = found.projected.train, found.projected.validation
        assert isinstance(train, PairTensors)
        assert isinstance(validation, PairTensors)
        settings = found.projected.scaled(self.settings[:FOLD_RESTARTS])
        log_p = torch.full((validation.pairs,), math.nan, dtype=torch.float64)
        for number in range(FOLDS):
            held = fold == number
            if not held.any() or held.all() or (fit_fold == number).all():
                continue
            known = validation.take(~held)
            fitted = fit(train.take(fit_fold != number), known, settings, self.plan, self.progress)
            if self.merge and reads_contexts(settings[0], found.data):
                mixture, _ = merge_restarts(fitted, known, found.data.clusters[~held])
            else:
                mixture = min(fitted, key=lambda one: one.validation_nll).mixture
            log_p[held] = pair_log_probability(*score(mixture, validation.take(held))).double()
        return log_p


def _on_new(choice: RouterChoice, gain: torch.Tensor, contexts: pl.Series, sign: int) -> RouterChoice:
    """Return the choice that gains [N] on new contexts decide, NaN for other pairs.

    They may be ERRORS standard errors below 0 where `sign` is 1, and have to be as many above 0 where it is -1.
    """
    scored = gain.isfinite() & contexts.is_not_null().to_torch()
    choice = replace(choice, reason="not decidable")
    if not scored.any():
        return choice
    names = contexts.rank("dense").fill_null(0).cast(pl.Int64).to_torch()[scored]
    mean, error = _mean_and_error(gain[scored], names)
    choice = replace(choice, held_out=mean, held_out_se=error, contexts=len(set(names.tolist())))
    if error is None or mean <= -sign * ERRORS * error:
        return choice
    return replace(choice, reads=SIDE_BY_SIDE, reason="ahead" if sign > 0 else "ahead on new")


def rule_applies(data: FitData, setting: FitSetting) -> bool:
    """Say whether there is something to choose: a router reads contexts by themselves, and pairs have groups."""
    return setting.routed and setting.latent == "pair" and data.router_input == "context"


def _repeated(data: FitData) -> int:
    """Return how many contexts have several pairs to fit."""
    counts = data.fitting.table["context"].drop_nulls().value_counts()["count"]
    return int((counts > 1).sum())


def _folds(data: FitData) -> tuple[torch.Tensor, torch.Tensor]:
    """Return in which fold [N] the context of each pair to fit and each validation pair is; −1: in none."""
    contexts = data.fitting.table["context"].drop_nulls().unique().sort()
    fold = torch.randperm(len(contexts), generator=torch.Generator().manual_seed(0)) % FOLDS
    known = pl.DataFrame({"context": contexts, "fold": fold.numpy()})
    fitting, validation = (
        part.table.select("context").join(known, on="context", how="left", maintain_order="left")["fold"].fill_null(-1)
        for part in (data.fitting, data.validation)
    )
    return fitting.to_torch(), validation.to_torch()


def _mean_and_error(gain: torch.Tensor, clusters: torch.Tensor) -> tuple[float, float | None]:
    """Return a mean and its standard error over clusters [N]; None where one cluster leaves it unknown."""
    error = float(standard_error(gain.double()[:, None], clusters)[0])
    return float(gain.double().mean()), error if math.isfinite(error) else None
