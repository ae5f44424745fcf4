"""What a fit reads: the fit and validation pairs of a data set's train split, as tensors.

N validation pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import polars as pl
import torch

from cache.datasets import Dataset, open_dataset
from cache.errors import BadInput
from cache.pair_features import PairFeatures, RewardInput, RouterInput, has_contexts, load_pairs
from cache.store import Store
from cache.vectors import Features, only_features
from heads.settings import FitSetting, PairTensors
from pipeline.evaluate import prompt_clusters

SPLIT = "train"
WantedRouterInput = Literal["auto", "prompt", "context"]


@dataclass(frozen=True)
class FitData:
    """The train split of a data set under one features id."""

    dataset: Dataset
    features: Features
    router_input: RouterInput
    """What the router reads."""
    reward_input: RewardInput
    """Behind which prompt the responses were embedded."""
    fitting: PairFeatures
    """Pairs to fit."""
    validation: PairFeatures
    """Pairs to choose by."""

    @cached_property
    def clusters(self) -> torch.Tensor:
        """Return the number of each validation pair's prompt [N]."""
        return prompt_clusters(self.validation.table)

    def record(self) -> dict[str, Any]:
        """Return what run.json says of the data."""
        return {
            "data": self.dataset.name,
            "data_digest": self.dataset.digest(SPLIT),
            "features": self.features.id,
            "train_pairs": len(self.fitting),
            "validation_pairs": len(self.validation),
            "pairs_without_context": self.fitting.without_context if self.router_input == "context" else 0,
        }


def open_fit_data(
    store: Store,
    name: str,
    setting: FitSetting,
    *,
    features: str | None = None,
    router_input: WantedRouterInput = "auto",
    reward_input: RewardInput = "plain",
) -> FitData:
    """Load what a setting is fitted and validated on.

    Raises BadInput where the data set lacks what is asked for or has no validation prompt.
    """
    dataset = open_dataset(store, name)
    opened = only_features(store, features, dataset.linked_features())
    read = resolve_router_input(dataset, opened, router_input, setting)
    fitting, validation = load_parts(dataset, opened, read, reward_input)
    return FitData(dataset, opened, read, reward_input, fitting, validation)


def resolve_router_input(
    dataset: Dataset, features: Features, wanted: WantedRouterInput, setting: FitSetting
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
