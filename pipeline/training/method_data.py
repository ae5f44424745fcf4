"""What the compared methods read: pairs with all that a method asks for, and what it is fitted on.

N pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl
import torch

from micropref.cache.choices import TRAIN, OldJoint, RewardInput, RouterInput
from micropref.cache.datasets import Dataset
from micropref.cache.errors import BadInput
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.features import Features
from micropref.cache.vectors.groups import clusters_of, prompt_clusters
from micropref.cache.vectors.pair_features import LocatedPairs, PairFeatures, locate_pairs
from micropref.cache.vectors.rated_responses import load_rated
from micropref.heads.methods.base import NO_UNIT, Need, Pairs, RatedResponses, TrainingData, UnitKind
from micropref.pipeline.options import WantedRouterInput
from micropref.pipeline.training.data import LoadedFitData, open_fit_data
from micropref.pipeline.training.identifiability import few_choices


@dataclass(frozen=True)
class Units:
    """The annotators, as the codes that methods know them by."""

    kind: UnitKind
    """user; attribute where no pair to fit names a user."""
    names: tuple[str, ...]
    """Units of the pairs to fit, sorted: a unit's code is its place."""

    def codes(self, table: pl.DataFrame) -> torch.Tensor:
        """Return the codes [N] of the pairs' units, NO_UNIT for those not among the names."""
        known = pl.DataFrame(
            {self.kind: self.names, "code": range(len(self.names))}, {self.kind: pl.String, "code": pl.Int64}
        )
        codes = table.select(self.kind).join(known, on=self.kind, how="left", maintain_order="left")["code"]
        return codes.fill_null(NO_UNIT).to_torch()


@dataclass(frozen=True)
class Reading:
    """How a method reads the pairs of any split."""

    router_input: RouterInput | OldJoint
    """What a router or a gate reads."""
    reward_input: RewardInput
    """Behind which prompt the responses were embedded."""
    needs: frozenset[Need] = frozenset()
    """What the method reads besides Δ."""
    units: Units | None = None
    """Codes of the annotators, where the method needs units."""
    router_features: Features | None = None
    """Features that a router reads contexts in; None: those of the pairs."""

    @property
    def contexts(self) -> bool:
        """Say whether a router or a gate reads contexts."""
        return self.router_input != "prompt"

    @property
    def heads_read_contexts(self) -> bool:
        """Say whether heads see contexts, which may come in wordings that are new to them."""
        return self.reward_input == "context"

    @property
    def reads_contexts(self) -> bool:
        """Say the same of the whole model: heads, router or gate."""
        return self.heads_read_contexts or ("router" in self.needs and self.contexts)

    def pairs(self, dataset: Dataset, features: Features, split: str, only: pl.Expr) -> tuple[PairFeatures, Pairs]:
        """Load a split's pairs where `only` holds, with their table and as a method reads them."""
        return self.read(self.locate(dataset, features, split, only))

    def locate(self, dataset: Dataset, features: Features, split: str, only: pl.Expr) -> LocatedPairs:
        """Find out which vectors a split's pairs have, those where `only` holds."""
        return locate_pairs(
            dataset,
            features,
            split,
            router_input=self.router_input,
            reward_input=self.reward_input,
            only=only,
            router_features=self.router_features,
        )

    def read(self, located: LocatedPairs) -> tuple[PairFeatures, Pairs]:
        """Load pairs that were located, with their table and as a method reads them."""
        loaded = located.load()
        return loaded, self.as_pairs(loaded, located.responses() if "responses" in self.needs else None)

    def as_pairs(self, loaded: PairFeatures, responses: tuple[torch.Tensor, torch.Tensor] | None) -> Pairs:
        """Return loaded pairs as a method reads them; `responses` are theirs where it needs them."""
        chosen, rejected = responses or (None, None)
        units = None if self.units is None else self.units.codes(loaded.table)
        clusters = prompt_clusters(loaded.table)
        return Pairs(loaded.delta, loaded.router_inputs, clusters, chosen, rejected, units, loaded.router_rows)


@dataclass(frozen=True)
class MethodData:
    """The train split of a data set as methods are fitted on it."""

    source: LoadedFitData
    """The pairs with their tables."""
    reading: Reading
    """How they were read, and how those of other splits are to be."""
    training: TrainingData
    """What methods are given."""

    def record(self) -> dict[str, Any]:
        """Return what run.json says of the data."""
        units = self.reading.units
        named = None if units is None else {"kind": units.kind, "names": list(units.names)}
        return {**self.source.record(), "units": named}

    def warnings(self, method: str) -> list[str]:
        """Return what the annotators' choices are too few for; nothing for a method that does not read them."""
        units = self.reading.units
        return (
            [] if units is None else few_choices(method, units.kind, self.source.fitting.table[units.kind].drop_nulls())
        )


def open_method_data(
    store: StoreFolder,
    name: str,
    needs: frozenset[Need],
    *,
    features: str | None = None,
    router_input: WantedRouterInput = "auto",
    reward_input: RewardInput = "plain",
) -> MethodData:
    """Load what a method that looks at `needs` is fitted on, from the train split alone.

    Raises BadInput where the data set lacks what is asked for.
    """
    source = open_fit_data(
        store, name, routed="router" in needs, features=features, router_input=router_input, reward_input=reward_input
    )
    units = _units(source) if "units" in needs else None
    reading = Reading(source.router_input, reward_input, needs, units)
    located = None
    if "responses" in needs:
        located = reading.locate(source.dataset, source.features, TRAIN, pl.lit(True))
    fitting, validation = (
        reading.as_pairs(part, None if located is None else located.part(label).responses())
        for part, label in ((source.fitting, "fit"), (source.validation, "validation"))
    )
    training = TrainingData(
        fitting,
        validation,
        units=units.names if units else (),
        unit_kind=units.kind if units else None,
        rated=_rated(source) if "ratings" in needs else None,
        reward_head=_reward_head(source.features) if "reward_head" in needs else None,
    )
    return MethodData(source, reading, training)


def _units(source: LoadedFitData) -> Units:
    table = source.fitting.table
    kind: UnitKind = "user" if table["user"].null_count() < table.height else "attribute"
    names = tuple(sorted(table[kind].drop_nulls().unique()))
    if not names:
        raise BadInput(
            f"data set {source.dataset.name!r}, split {TRAIN!r}: no pair has a user or an attribute, so annotators "
            "cannot be told apart; embed rows with one of these fields"
        )
    return Units(kind, names)


def _rated(source: LoadedFitData) -> RatedResponses:
    """Return the ratings of the prompts to fit: what is chosen on validation prompts has not seen theirs."""
    if source.reward_input == "context":
        raise BadInput("ratings are of responses without a context: give `reward_input` plain")
    rated = load_rated(source.dataset, source.features, TRAIN, part="fit")
    clusters = clusters_of(rated.prompts)
    return RatedResponses(rated.embedding, rated.ratings, clusters, rated.attributes)


def _reward_head(features: Features) -> torch.Tensor | None:
    """Return the backbone's own head; None where it has none. Raises BadInput where it has one that is not read."""
    head = features.reward_head()
    unread = features.about().get("unread_head")
    if head is None and unread is not None:
        raise BadInput(
            f"own-head: the backbone of features {features.id} has a head of a form that is not read ({unread}): "
            "expected score.weight with one row, on the text's own vector"
        )
    return None if head is None else torch.from_numpy(head)
