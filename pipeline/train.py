"""Stage 1: fit reward heads and router on cached features, several restarts at once, and save the best as a run."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Literal

import polars as pl

from cache.datasets import Dataset, open_dataset
from cache.errors import BadInput
from cache.keys import short_id
from cache.pair_features import PairFeatures, RewardInput, RouterInput, has_contexts, load_pairs
from cache.runs import save_run
from cache.store import Store
from cache.vectors import Features, only_features
from heads.fit import fit
from heads.metrics import accuracy, effective_heads, nll, standard_error
from heads.mixture import pair_log_probability
from heads.settings import FitPlan, FitProgress, FitSetting, Fitted, PairTensors
from pipeline.evaluate import prompt_clusters

SPLIT = "train"
PACKAGES = ("torch", "numpy", "polars", "pyarrow")


@dataclass(frozen=True)
class TrainOptions:
    """What `train` is told beside the model's setting and the plan of the fit."""

    router_input: Literal["auto", "prompt", "context"] = "auto"
    """What the router reads; auto: the context where the data has any."""
    reward_input: RewardInput = "plain"
    """Behind which prompt the responses were embedded."""
    restarts: int = 8
    """Initialisations fitted together, seeds counting up from the setting's; the best by validation NLL is kept."""
    features: str | None = None
    """Features id; None: the only one the data set is embedded with."""

    def __post_init__(self) -> None:
        if self.restarts < 1:
            raise BadInput(f"restarts is {self.restarts}: expected at least 1")


@dataclass(frozen=True)
class Trained:
    """What `train` says."""

    run: str
    """Id of the saved run, made of its settings and data: the same fit again is the same run."""
    record: dict[str, Any]
    """run.json."""
    restarts: list[dict[str, Any]]
    """Seed, validation NLL and epochs of every restart."""


def train(
    store: Store,
    name: str,
    setting: FitSetting,
    plan: FitPlan,
    options: TrainOptions,
    progress: Callable[[FitProgress], None] | None = None,
) -> Trained:
    """Fit one setting on a data set's train split and save the best restart by validation NLL.

    Raises BadInput where the data set lacks what the options ask for or has no validation prompt.
    """
    dataset = open_dataset(store, name)
    features = only_features(store, options.features, dataset.linked_features())
    router_input = resolve_router_input(dataset, features, options.router_input, setting)
    fitting, validation = load_parts(dataset, features, router_input, options.reward_input)
    restarts = options.restarts if setting.k > 1 else 1  # one head is a convex problem
    settings = [replace(setting, seed=setting.seed + offset) for offset in range(restarts)]
    fitted = fit(tensors(fitting), tensors(validation), settings, plan, progress)
    best = min(fitted, key=lambda one: one.validation_nll)
    record: dict[str, Any] = {
        "parent": None,
        "method": setting.method,
        "data": dataset.name,
        "data_digest": dataset.digest(SPLIT),
        "features": features.id,
        "k": setting.k,
        "lam": setting.lam,
        "seed": best.setting.seed,
        "settings": {
            **asdict(setting),
            **asdict(plan),
            "restarts": options.restarts,
            "router_input": router_input,
            "reward_input": options.reward_input,
        },
        "train_pairs": len(fitting),
        "validation_pairs": len(validation),
        "pairs_without_context": fitting.without_context if router_input == "context" else 0,
    }
    run_id = f"{setting.method}-{short_id(record, 8)}"
    record |= validation_figures(best, validation) | _provenance(best)
    outcomes = [
        {"seed": one.setting.seed, "validation_nll": one.validation_nll, "epochs": one.epochs_run} for one in fitted
    ]
    record["restarts"] = outcomes
    run = save_run(store, run_id, record, best.mixture.state())
    return Trained(run.id, run.record, outcomes)


def resolve_router_input(
    dataset: Dataset, features: Features, wanted: Literal["auto", "prompt", "context"], setting: FitSetting
) -> RouterInput:
    """Return what the router reads; a model without a router reads no context.

    Raises BadInput where contexts are asked for and the data has none.
    """
    there = wanted != "prompt" and has_contexts(dataset, features, SPLIT)
    if wanted == "context" and not there:
        raise BadInput(
            f"data set {dataset.name!r}, split {SPLIT!r}: no pair has a context for --router-input context; "
            "embed with --contexts FILE, or train with --router-input prompt"
        )
    return "context" if there and setting.routed else "prompt"


def load_parts(
    dataset: Dataset, features: Features, router_input: RouterInput, reward_input: RewardInput = "plain"
) -> tuple[PairFeatures, PairFeatures]:
    """Return the fit and the validation pairs of the train split. Raises BadInput where one of them is empty."""
    fitting, validation = (
        load_pairs(
            dataset, features, SPLIT, router_input=router_input, reward_input=reward_input, only=pl.col("part") == part
        )
        for part in ("fit", "validation")
    )
    if not len(fitting) or not len(validation):
        prompts = pl.concat([fitting.table, validation.table])["prompt_id"].n_unique()
        raise BadInput(
            f"data set {dataset.name!r}: the train pairs of {prompts} prompts leave {len(fitting)} to fit and "
            f"{len(validation)} to validate on; 10 % of prompts are set aside, so embed more prompts"
        )
    return fitting, validation


def tensors(pairs: PairFeatures) -> PairTensors:
    """Return the pairs as the fit takes them."""
    return PairTensors(pairs.delta, pairs.router)


def validation_figures(one: Fitted, validation: PairFeatures) -> dict[str, float]:
    """Return NLL with its standard error over prompts, accuracy and effective number of heads on validation pairs."""
    log_weights = one.mixture.log_weights(validation.router, len(validation))
    log_probability = pair_log_probability(one.mixture.margins(validation.delta), log_weights)
    return {
        "validation_nll": nll(log_probability),
        "validation_nll_se": float(standard_error(log_probability[:, None], prompt_clusters(validation.table))[0]),
        "validation_accuracy": accuracy(log_probability),
        "effective_heads": effective_heads(log_weights),
    }


def _provenance(best: Fitted) -> dict[str, Any]:
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "execution": asdict(best.execution),
        "best_epoch": best.best_epoch,
        "epochs_run": best.epochs_run,
        "train_history": list(best.train_history),
        "validation_history": list(best.validation_history),
    }
