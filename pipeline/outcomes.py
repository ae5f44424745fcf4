"""What became of a fitted setting: figures on validation pairs, and the run that the chosen one is saved as.

N validation pairs.
"""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch

from cache.runs import Run, save_run
from cache.store import Store
from heads.hygiene import inspect_heads, prune
from heads.metrics import accuracy, effective_heads, nll, standard_error
from heads.mixture import Mixture, pair_log_probability
from heads.projection import Projection
from heads.settings import FitSetting, Fitted, PairTensors
from pipeline.fit_data import FitData, tensors

PACKAGES = ("torch", "numpy", "polars", "pyarrow")


@dataclass(frozen=True)
class Outcome:
    """One fitted setting, reduced to what choosing among hundreds of them needs."""

    setting: FitSetting
    figures: dict[str, float]
    """validation_nll (nats per pair), its standard error over prompts, validation_accuracy, effective_heads."""
    fit: dict[str, Any]
    """best_epoch, epochs_run, both histories and how it was executed."""
    log_probability: torch.Tensor
    """[N] log P(chosen ≻ rejected) of the validation pairs."""
    favourites: torch.Tensor
    """[N] the head with the largest weight."""
    mixture: Mixture | None
    """In the width of the embeddings; None where it is no candidate any more."""

    @property
    def nll(self) -> float:
        """Return what settings are compared by."""
        return self.figures["validation_nll"]


def outcome_of(
    fitted: Fitted, validation: PairTensors, clusters: torch.Tensor, projection: Projection | None
) -> Outcome:
    """Score a fitted setting on validation pairs as it read them, projected or not; prompts are `clusters` [N]."""
    margins, log_weights = _score(fitted.mixture, validation)
    log_probability = pair_log_probability(margins, log_weights)
    fit = {
        "best_epoch": fitted.best_epoch,
        "epochs_run": fitted.epochs_run,
        "train_history": list(fitted.train_history),
        "validation_history": list(fitted.validation_history),
        "execution": asdict(fitted.execution),
    }
    figures = _figures(log_probability, log_weights, clusters)
    mixture = fitted.mixture if projection is None else projection.fold(fitted.mixture)
    return Outcome(fitted.setting, figures, fit, log_probability, log_weights.argmax(1), mixture)


def save_outcome(
    store: Store, run_id: str, record: dict[str, Any], chosen: Outcome, data: FitData, prune_above: float | None
) -> Run:
    """Save the chosen setting as a run, its heads inspected and, if asked, pruned.

    `record` says what was asked for; what came out is added here. Figures are those of the saved weights.
    """
    assert chosen.mixture is not None
    mixture = chosen.mixture
    pairs = tensors(data.validation)
    margins, log_weights = _score(mixture, pairs)
    hygiene = inspect_heads(margins, log_weights)
    figures = _figures(pair_log_probability(margins, log_weights), log_weights, data.clusters)
    pruned = None
    if prune_above is not None:
        mixture, removed = prune(mixture, margins, pairs.router, prune_above)
        pruned = {"removed": removed, "before": figures}
        margins, log_weights = _score(mixture, pairs)
        figures = _figures(pair_log_probability(margins, log_weights), log_weights, data.clusters)
    outcome = {
        "method": chosen.setting.method,
        "k": mixture.k,
        "lam": chosen.setting.lam,
        "seed": chosen.setting.seed,
        "dead_heads": list(hygiene.dead),
        "duplicate_heads": [list(pair) for pair in hygiene.duplicates],
        "pruned": pruned,
    }
    return save_run(store, run_id, record | outcome | figures | chosen.fit | _provenance(), mixture.state())


def _score(mixture: Mixture, pairs: PairTensors) -> tuple[torch.Tensor, torch.Tensor]:
    """Return margins and log-weights [N, K]."""
    return mixture.margins(pairs.delta), mixture.log_weights(pairs.router, len(pairs.delta))


def _figures(log_probability: torch.Tensor, log_weights: torch.Tensor, clusters: torch.Tensor) -> dict[str, float]:
    return {
        "validation_nll": nll(log_probability),
        "validation_nll_se": float(standard_error(log_probability[:, None], clusters)[0]),
        "validation_accuracy": accuracy(log_probability),
        "effective_heads": effective_heads(log_weights),
    }


def _provenance() -> dict[str, Any]:
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }
