"""What a fit reads: the fit and validation pairs of a data set's train split, in memory or as a stream.

N validation pairs.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import torch

from micropref.cache.choices import TRAIN, RewardInput, RouterInput
from micropref.cache.datasets import Dataset, open_dataset
from micropref.cache.errors import BadInput
from micropref.cache.runs.records import ROUTER_READING
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.features import Features
from micropref.cache.vectors.groups import prompt_clusters
from micropref.cache.vectors.opening import only_features, open_features
from micropref.cache.vectors.pair_features import LocatedPairs, PairFeatures, locate_pairs
from micropref.cache.vectors.pair_stream import PairStream, stream_pairs
from micropref.cache.vectors.router_inputs import contexts_to_read
from micropref.heads.choices import Latent
from micropref.heads.fitting.pair_source import Source
from micropref.heads.fitting.settings import PairTensors
from micropref.pipeline.options import WantedRouterInput
from micropref.pipeline.training.identifiability import identify, unit_codes, unit_columns
from micropref.pipeline.training.memory_budget import Budget


@dataclass(frozen=True)
class FitData:
    """The train split of a data set under one features id."""

    dataset: Dataset
    features: Features
    router_input: RouterInput
    """What the router reads."""
    reward_input: RewardInput
    """Behind which prompt the responses were embedded."""
    fitting: PairFeatures | PairStream
    """Pairs to fit."""
    validation: PairFeatures | PairStream
    """Pairs to choose by."""
    latent: Latent = "pair"
    """What has one group."""
    router_features: Features | None = None
    """Features that contexts are read in; None: those of the pairs."""

    @cached_property
    def units(self) -> tuple[torch.Tensor, torch.Tensor] | tuple[None, None]:
        """Return the codes of the units that pairs to fit and validation pairs are of; None where pairs have groups."""
        if self.unit is None:
            return None, None
        return unit_codes(self.fitting.table, self.validation.table, self.unit)

    @cached_property
    def unit(self) -> list[str] | None:
        """Return the columns that make a unit; None where pairs have groups. Raises BadInput where no pair has one."""
        return None if self.latent == "pair" else unit_columns(self.fitting.table, self.latent, self.router_input)

    def group_record(self) -> dict[str, Any]:
        """Return what run.json says about what identifies groups in the data."""
        found = identify(self.fitting.table, self.router_input)
        return {"identified": asdict(found), "one_group_for": self.unit or ["pair"]}

    @property
    def streamed(self) -> bool:
        """Say whether pairs stay on disk."""
        return isinstance(self.fitting, PairStream)

    @cached_property
    def clusters(self) -> torch.Tensor:
        """Return the number of each validation pair's prompt [N]."""
        return prompt_clusters(self.validation.table)

    def sources(self) -> tuple[Source, Source]:
        """Return pairs to fit and validation pairs as a fit takes them."""
        fitting, validation = (
            tensors(pairs, units) if isinstance(pairs, PairFeatures) else pairs
            for pairs, units in zip((self.fitting, self.validation), self.units, strict=True)
        )
        return fitting, validation

    def record(self) -> dict[str, Any]:
        """Return what run.json says of the data."""
        return {
            "data": self.dataset.name,
            "data_digest": self.dataset.digest(TRAIN),
            "features": self.features.id,
            "streamed": self.streamed,
            "train_pairs": len(self.fitting),
            "validation_pairs": len(self.validation),
            "pairs_without_context": 0 if self.router_input == "prompt" else self.fitting.without_context,
            "router_reading": ROUTER_READING,
        }


@dataclass(frozen=True)
class LoadedFitData(FitData):
    """The same with all pairs in memory."""

    fitting: PairFeatures
    validation: PairFeatures


def open_fit_data(
    store: StoreFolder,
    name: str,
    *,
    routed: bool,
    features: str | None = None,
    router_input: WantedRouterInput = "auto",
    reward_input: RewardInput = "plain",
) -> LoadedFitData:
    """Load what a model is fitted and validated on; one that is not `routed` reads no context.

    Raises BadInput where the data set lacks what is asked for or has no validation prompt.
    """
    dataset, located, read = _locate(store, name, routed, features, router_input, reward_input)
    fitting, validation = (part.load() for part in _parts(dataset, located))
    return LoadedFitData(dataset, located.features, read, reward_input, fitting, validation)


def open_within(
    budget: Budget,
    store: StoreFolder,
    name: str,
    *,
    features: str | None = None,
    router_input: WantedRouterInput = "auto",
    reward_input: RewardInput = "plain",
    router_features: str | None = None,
) -> FitData:
    """Do what `open_fit_data` does for the setting of a budget; pairs that do not fit in it are streamed.

    Raises BadInput like `open_fit_data`, and where the budget is too small even for that.
    """
    dataset, located, read = _locate(
        store, name, budget.setting.routed, features, router_input, reward_input, router_features
    )
    held, latent = budget.holds(located), budget.setting.latent
    contexts_in = located.router.contexts_in
    if not held and contexts_in is not None:
        raise BadInput(
            f"router_features {contexts_in.id}: pairs that are streamed read contexts in their own features, and these "
            f"{len(located)} do not fit in the memory that is allowed: raise `memory`, or leave `router_features` out"
        )
    if not held and latent != "pair":
        raise BadInput(
            f"latent {latent} takes all pairs of a {latent} at once, and these {len(located)} do not fit in the memory "
            "that is allowed: raise `memory`, or leave `latent` out"
        )
    fitting, validation = (part.load() if held else stream_pairs(part) for part in _parts(dataset, located))
    return FitData(dataset, located.features, read, reward_input, fitting, validation, latent, contexts_in)


def read_again(data: FitData, reads: RouterInput, budget: Budget) -> FitData | None:
    """Return the same pairs with something else for a router to read; None where that does not fit in memory."""
    located = locate_pairs(
        data.dataset,
        data.features,
        TRAIN,
        router_input=reads,
        reward_input=data.reward_input,
        router_features=data.router_features,
    )
    if data.streamed or not budget.fits(located):
        return None
    read = []
    for part, name in ((data.fitting, "fit"), (data.validation, "validation")):
        assert isinstance(part, PairFeatures)
        places = located.part(name)
        distinct, rows = places.router.shared()
        inputs = distinct.load(located.features)
        read.append(replace(part, router_inputs=inputs, router_rows=rows, router_parts=places.router_parts))
    return replace(data, router_input=reads, fitting=read[0], validation=read[1])


def load_parts(
    dataset: Dataset, features: Features, router_input: RouterInput, reward_input: RewardInput = "plain"
) -> tuple[PairFeatures, PairFeatures]:
    """Return the fit and the validation pairs of the train split. Raises BadInput where one of them is empty."""
    located = locate_pairs(dataset, features, TRAIN, router_input=router_input, reward_input=reward_input)
    fitting, validation = _parts(dataset, located)
    return fitting.load(), validation.load()


def tensors(pairs: PairFeatures, units: torch.Tensor | None = None) -> PairTensors:
    """Return the pairs as the fit takes them."""
    return PairTensors(pairs.delta, pairs.router_inputs, units, pairs.router_rows, pairs.router_parts)


def _locate(
    store: StoreFolder,
    name: str,
    routed: bool,
    features: str | None,
    wanted: WantedRouterInput,
    reward_input: RewardInput,
    router_features: str | None = None,
) -> tuple[Dataset, LocatedPairs, RouterInput]:
    """Return the data set, the pairs of its train split, and what the router reads.

    A model without a router reads no context. Raises BadInput where contexts are asked for and the data has none.
    """
    dataset = open_dataset(store, name)
    opened = only_features(store, features, dataset.linked_features())
    read: RouterInput = "prompt"
    contexts_in = None if router_features is None else open_features(store, router_features)
    if routed and wanted != "auto":
        read = wanted
    elif routed:
        read = "context" if contexts_in else contexts_to_read(dataset, opened, TRAIN)
    located = locate_pairs(
        dataset, opened, TRAIN, router_input=read, reward_input=reward_input, router_features=contexts_in
    )
    if read != "prompt" and not located.context.any():
        column = "context_vector" if read in ("context+prompt", "difference") else "context_only_vector"
        way = "embed with `contexts`" if opened.imported is None else f"import with a column {column}"
        raise BadInput(
            f"data set {name!r}, split {TRAIN!r}: no pair has a context for `router_input` {wanted}; "
            f"{way}, or train with `router_input` prompt"
        )
    return dataset, located, read


def _parts(dataset: Dataset, located: LocatedPairs) -> tuple[LocatedPairs, LocatedPairs]:
    """Return the pairs to fit and the validation pairs. Raises BadInput where one of them is empty."""
    fitting, validation = (located.part(name) for name in ("fit", "validation"))
    if not len(fitting) or not len(validation):
        prompts = located.table["prompt_id"].n_unique()
        raise BadInput(
            f"data set {dataset.name!r}: the train pairs of {prompts} prompts leave {len(fitting)} to fit and "
            f"{len(validation)} to validate on; 10 % of prompts are set aside, so embed more prompts"
        )
    return fitting, validation
