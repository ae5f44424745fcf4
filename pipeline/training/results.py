"""A fitted setting: its figures on validation pairs, and the run that the chosen one is saved as.

N validation pairs.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from micropref.cache.runs.records import Run, save_run
from micropref.cache.store import StoreFolder
from micropref.heads.evaluation.intervals import standard_error
from micropref.heads.evaluation.metrics import accuracy, effective_heads, nll
from micropref.heads.evaluation.scale import choose_scale, scaled_log_probability
from micropref.heads.evaluation.selection import agreeing_share
from micropref.heads.fitting.head_pruning import inspect_heads, prune
from micropref.heads.fitting.no_context import with_no_context
from micropref.heads.fitting.pair_source import Source, score
from micropref.heads.fitting.projection import Projection
from micropref.heads.fitting.settings import FitSetting, Fitted
from micropref.heads.fitting.validation import known_weights
from micropref.heads.mixture import Mixture, pair_log_odds
from micropref.pipeline.training.data import FitData
from micropref.pipeline.training.fitted_contexts import save_contexts

Figures = dict[str, float | None]
"""By name; None: not available."""
PACKAGES = ("torch", "numpy", "polars", "pyarrow")


@dataclass(frozen=True)
class Outcome:
    """One fitted setting, reduced to what choosing among hundreds of them needs."""

    setting: FitSetting
    figures: Figures
    """scale, the s of heads/evaluation/scale.py; of predictions scaled by it validation_nll (nats per pair) and its
    standard error over prompts; validation_accuracy, effective_heads; where users or contexts have groups, also
    all three once more, ending in _known: given their pairs to fit, with a scale of its own."""
    fit: dict[str, Any]
    """best_epoch, epochs_run, the histories and how it was executed; of scikit-learn's path also its C's."""
    log_probability: torch.Tensor
    """[N] log P(chosen ≻ rejected) of the validation pairs, scaled; of known units where units have groups."""
    favourites: torch.Tensor
    """[N] the head with the largest weight, of the same."""
    mixture: Mixture | None
    """In the width of the embeddings; None where it is no candidate any more."""

    @property
    def nll(self) -> float:
        """Return the validation NLL that settings are compared by."""
        found = self.figures.get("validation_nll_known", self.figures["validation_nll"])
        assert found is not None
        return found


@dataclass(frozen=True)
class Validated:
    """A mixture's predictions on validation pairs."""

    margins: torch.Tensor
    """[N, K]"""
    cold: torch.Tensor
    """[N, K] log-weights that the pair itself has, static or from the router."""
    log_weights: torch.Tensor
    """[N, K] those that the mixture is chosen by: of known units where units have groups, else `cold`."""
    clusters: torch.Tensor
    """[N] prompts."""

    @property
    def log_probability(self) -> torch.Tensor:
        """Return log P(chosen ≻ rejected) [N] that the mixture is chosen by, scaled."""
        log_odds = pair_log_odds(self.margins, self.log_weights)
        return scaled_log_probability(log_odds, choose_scale(log_odds, self.clusters))

    def figures(self) -> Figures:
        """Return the figures."""
        cold = figures_of(pair_log_odds(self.margins, self.cold), self.cold, self.clusters)
        if self.log_weights is self.cold:
            return cold
        known = figures_of(pair_log_odds(self.margins, self.log_weights), self.log_weights, self.clusters)
        return cold | {f"{name}_known": known[name] for name in ("scale", "validation_nll", "validation_accuracy")}


def validated(mixture: Mixture, validation: Source, clusters: torch.Tensor, known: torch.Tensor | None) -> Validated:
    """Score a mixture on validation pairs of prompts `clusters` [N]; log-weights `known` [N, K] of known units."""
    margins, cold = score(mixture, validation)
    return Validated(margins, cold, cold if known is None else known, clusters)


def outcome_of(fitted: Fitted, validation: Source, clusters: torch.Tensor, projection: Projection | None) -> Outcome:
    """Score a fitted setting on validation pairs as it read them, projected or not; prompts are `clusters` [N]."""
    scored = validated(fitted.mixture, validation, clusters, fitted.known)
    fit = {
        "best_epoch": fitted.best_epoch,
        "epochs_run": fitted.epochs_run,
        "train_history": list(fitted.train_history),
        "validation_history": list(fitted.validation_history),
        "validation_accuracy_history": list(fitted.validation_accuracy_history),
        "execution": asdict(fitted.execution),
    }
    if fitted.path:
        fit |= {"path": list(fitted.path), "c": fitted.c}
    mixture = fitted.mixture if projection is None else projection.fold(fitted.mixture)
    favourites = scored.log_weights.argmax(1)
    return Outcome(fitted.setting, scored.figures(), fit, scored.log_probability, favourites, mixture)


def restarts_agreeing(outcomes: Collection[Outcome], merged: Outcome | None = None) -> float | None:
    """Return the share of a setting's other seeds whose favourite heads are those of the best; None for one seed.

    Where seeds were `merged`, it is the share of all whose favourite heads are those of the merged mixture.
    """
    ordered = sorted(outcomes, key=lambda one: one.nll)
    compared = ordered if merged is None else [merged, *ordered]
    return agreeing_share([one.favourites for one in compared], ordered[0].setting.k)


def save_outcome(
    store: StoreFolder, run_id: str, record: dict[str, Any], chosen: Outcome, data: FitData, prune_above: float | None
) -> Run:
    """Save the chosen setting as a run, its heads inspected and, if asked, pruned.

    `record` says what was asked for; the results are added here. Figures are those of the saved weights.
    """
    assert chosen.mixture is not None
    mixture = chosen.mixture
    if data.router_input != "prompt":
        mixture = with_no_context(mixture, data.sources()[0])
    scored = _of_saved(mixture, data)
    hygiene = inspect_heads(scored.margins, scored.cold)
    figures = scored.figures()
    pruned = None
    if prune_above is not None:
        mixture, removed = prune(mixture, scored.margins, scored.cold, prune_above)
        pruned = {"removed": removed, "before": figures}
        figures = _of_saved(mixture, data).figures()
    outcome = {
        "method": chosen.setting.method,
        "k": mixture.k,
        "lam": chosen.setting.lam,
        "seed": chosen.setting.seed,
        "combine": "probability",
        "dead_heads": list(hygiene.dead),
        "duplicate_heads": [list(pair) for pair in hygiene.duplicates],
        "pruned": pruned,
    }
    kept = save_contexts(store, run_id, data)
    return save_run(store, run_id, record | kept | outcome | figures | chosen.fit | provenance(), mixture.state())


def _of_saved(mixture: Mixture, data: FitData) -> Validated:
    train, validation = data.sources()
    known = None if data.latent == "pair" else known_weights([mixture], train, validation)[0]
    return validated(mixture, validation, data.clusters, known)


def figures_of(log_odds: torch.Tensor, log_weights: torch.Tensor, clusters: torch.Tensor) -> Figures:
    """Return the figures of a prediction on validation pairs [N], whose prompts are `clusters` [N], and its scale.

    One prompt leaves the standard error unknown.
    """
    scale = choose_scale(log_odds, clusters)
    scaled = scaled_log_probability(log_odds, scale)
    error = float(standard_error(scaled[:, None], clusters)[0])
    return {
        "scale": scale,
        "validation_nll": nll(scaled),
        "validation_nll_se": error if math.isfinite(error) else None,
        "validation_accuracy": accuracy(F.logsigmoid(log_odds)),
        "effective_heads": effective_heads(log_weights),
    }


def provenance() -> dict[str, Any]:
    """Return what run.json says of when and with what a run was made."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }
