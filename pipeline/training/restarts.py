"""A setting's restarts on one reading of the pairs, and the mixture that is made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from micropref.heads.fitting.fit import fit
from micropref.heads.fitting.merging import merge_restarts
from micropref.heads.fitting.no_context import with_no_context
from micropref.heads.fitting.settings import FitPlan, FitProgress, FitSetting, Fitted
from micropref.heads.mixture import Mixture
from micropref.pipeline.training.choose_width import Projected
from micropref.pipeline.training.data import FitData
from micropref.pipeline.training.results import Outcome, restarts_agreeing

CONTEXT_LAM = 0.03
"""λ by default where a router reads contexts: new wordings are read better than with FitSetting's."""


@dataclass(frozen=True)
class Restarts:
    """A setting's restarts, fitted together."""

    data: FitData
    """What they were fitted on."""
    projected: Projected
    """The same, in the width of the fit."""
    outcomes: list[Outcome]
    """One for each seed, in their order."""
    chosen: Outcome
    """What is kept: the best by validation NLL, or the best few merged, with the seed and the histories of the best."""
    merged: int
    """Restarts that it is made of; 1: the best alone."""

    @property
    def listed(self) -> list[dict[str, Any]]:
        """Return seed, validation NLL and epochs of every restart."""
        return [
            {"seed": one.setting.seed, "validation_nll": one.nll, "epochs": one.fit["epochs_run"]}
            for one in self.outcomes
        ]

    def record(self) -> dict[str, Any]:
        """Return what run.json says of them."""
        merged = self.chosen if self.merged > 1 else None
        return {
            "restarts": self.listed,
            "merged": self.merged,
            "restarts_agreeing": restarts_agreeing(self.outcomes, merged),
        }


def reads_contexts(setting: FitSetting, data: FitData) -> bool:
    """Say whether a setting's router reads contexts and pairs have groups: each restart takes new wordings otherwise.

    Neither merging nor CONTEXT_LAM has been found to help others: routers on prompts, and users that have groups.
    """
    return setting.routed and setting.latent == "pair" and data.router_input != "prompt"


def fit_restarts(
    data: FitData,
    projected: Projected,
    settings: Sequence[FitSetting],
    plan: FitPlan,
    *,
    merge: bool,
    progress: Callable[[FitProgress], None] | None = None,
) -> Restarts:
    """Fit one setting with each of its seeds, and merge the best few if asked to and if that can be done."""
    fitted = fit(projected.train, projected.validation, projected.scaled(settings), plan, progress)
    outcomes = [projected.outcome(one, asked, data) for one, asked in zip(fitted, settings, strict=True)]
    place = min(range(len(outcomes)), key=lambda at: outcomes[at].nll)
    if merge and reads_contexts(settings[0], data):
        mixture, count = merge_fitted(fitted, projected, data)
        if count > 1:
            chosen = projected.outcome(replace(fitted[place], mixture=mixture), settings[place], data)
            return Restarts(data, projected, outcomes, chosen, count)
    return Restarts(data, projected, outcomes, outcomes[place], 1)


def merge_fitted(fitted: Sequence[Fitted], projected: Projected, data: FitData) -> tuple[Mixture, int]:
    """Return what `merge_restarts` does, the weights of pairs without a context learned anew for the merged heads."""
    mixture, count = merge_restarts(fitted, projected.validation, data.clusters)
    if count > 1 and mixture.no_context is not None:
        mixture = with_no_context(replace(mixture, no_context=None), projected.train)
    return mixture, count
