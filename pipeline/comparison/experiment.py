"""What all rows of a comparison share: training pairs, test pairs, labelled shots, routing budgets, scored pairs.

Letters: N test pairs, n scored ones, A groups (attributes), M pairs of a budget.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import polars as pl
import torch

from micropref.cache.choices import TEST, TRAIN, RouterInput
from micropref.cache.datasets import Dataset, open_dataset
from micropref.cache.errors import BadInput
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.features import Features
from micropref.cache.vectors.groups import distinct_contexts, sides_of
from micropref.cache.vectors.opening import only_features
from micropref.cache.vectors.pair_features import has_contexts
from micropref.cache.vectors.router_inputs import contexts_to_read
from micropref.heads.methods.base import MethodOptions, Model, Need, Pairs
from micropref.heads.methods.registry import methods
from micropref.pipeline.comparison.ceiling import NO_ATTRIBUTE
from micropref.pipeline.comparison.published import published
from micropref.pipeline.options import ArmoGate, Paper
from micropref.pipeline.people.shot_sampling import ShotSample, sample_shots
from micropref.pipeline.progress import Announce
from micropref.pipeline.training.method_data import MethodData, open_method_data

SHOT_SEED = 0
"""Shots are the same for all seeds, so that all seeds are scored on the same pairs."""


@dataclass(frozen=True)
class ExperimentOptions:
    """Options of `compare`."""

    split: str = TEST
    """Split that is scored."""
    shots: int = 16
    """Labelled pairs of each attribute for methods that adapt to them."""
    budget: int = 50
    """Pairs with context of each attribute for MiCRo's router."""
    k: int | None = None
    """Reward heads; None: the paper's for the table asked for, else 5."""
    seeds: int = 5
    """Every method is fitted with the seeds 0, 1, ..."""
    gate: ArmoGate = "small"
    """Size of ARMO's gate."""
    paper: Paper | None = None
    """Table of the paper to print next to ours."""
    route_on: str | None = None
    """Data set to route and score on, if it is another than the one trained on."""
    features: str | None = None
    """Features id; None: the only one the data set is embedded with."""
    device: str = "auto"
    """auto: cuda where there is one, else cpu."""
    lam: float | None = None
    """λ of mixtures; None: the paper's for the table asked for, else what `train` has by default."""

    def __post_init__(self) -> None:
        for name, least in (("shots", 1), ("budget", 1), ("seeds", 1)):
            if getattr(self, name) < least:
                raise BadInput(f"{name} is {getattr(self, name)}: expected at least {least}")
        if self.paper in ("transfer", "transfer-700k") and self.route_on is None:
            raise BadInput(f"paper is {self.paper!r}: table 4 tests on another data set, so give `route_on`")
        if self.split == TRAIN:
            raise BadInput("split is 'train': methods are fitted on it; score another one, such as test")

    @property
    def method_options(self) -> MethodOptions:
        """Return the options of every method."""
        table = published(self.paper) if self.paper else None
        k = self.k if self.k is not None else table.k if table else 5
        lam = self.lam if self.lam is not None or table is None else table.lam
        return MethodOptions(k=k, device=self.device, gate=self.gate, lam=lam)


class Experiment:
    """One comparison's data. Features and fitted models are computed at first use, and kept."""

    def __init__(self, store: StoreFolder, name: str, options: ExperimentOptions, announce: Announce) -> None:
        """Sample the shots and say what is scored. Raises BadInput where too little is left to score."""
        self.store, self.name, self.options = store, name, options
        self.method_options = options.method_options
        self.training: Callable[[frozenset[Need], RouterInput], MethodData] = cache(self._training)
        """What a method that looks at `needs` is fitted on. Raises BadInput where the data lacks it."""
        self.test: Callable[[frozenset[Need], RouterInput], Pairs] = cache(self._test)
        """All test pairs as such a method reads them."""
        self.models: Callable[[str, RouterInput], Sequence[Model]] = cache(self._models)
        """A method's fitted model for each seed. Raises BadInput where the data lacks what it needs."""
        trained = self._trained = open_dataset(store, name)
        self.features: Features = only_features(store, options.features, trained.linked_features())
        self.target: Dataset = trained if options.route_on is None else open_dataset(store, options.route_on)
        self.table = _grouped(self.target, self.features, options.split)
        sample = sample_shots(
            self.table, "attribute", self._most_from_test, SHOT_SEED, shared=not self._budget_in_train
        )
        self.left_out = sample.left_out
        if not sample.group:
            raise BadInput(
                f"data set {self.target.name!r}, split {options.split!r}: no attribute has more than "
                f"{self._most_from_test} pairs, so none can have shots and be scored; lower `shots` or `budget`"
            )
        self.groups = tuple(sorted(set(sample.group)))
        self._sample = sample
        seen = self._seen("prompt_id")
        scored = pl.Series(sample.scored) & self.table["attribute"].is_in(self.groups)
        overlap = scored & self.table["prompt_id"].is_in(seen.implode())
        if overlap.any():
            announce(f"warning: {overlap.sum():,} test pairs have prompts of the train split, they are not scored")
        self.rows = torch.from_numpy(np.flatnonzero((scored & ~overlap).to_numpy()))
        if not len(self.rows):
            raise BadInput(
                f"data set {self.target.name!r}, split {options.split!r}: nothing is left to score besides the shots"
            )

    @property
    def seeds(self) -> range:
        """Return the seeds of every method."""
        return range(self.options.seeds)

    @cached_property
    def scored_group(self) -> torch.Tensor:
        """Return the group [n] of each scored pair, its place in `groups`."""
        return self._group_of(self.table)[self.rows]

    def sides(self, *, reads_contexts: bool) -> dict[str, torch.Tensor]:
        """Return what scored pairs [n] may share that makes a method's answers to them alike."""
        return sides_of(self.table[self.rows.numpy()], self._fitted_contexts if reads_contexts else None)

    @cached_property
    def _fitted_contexts(self) -> pl.Series:
        """Return the contexts that a method may have been fitted on."""
        seen = self._seen("context")
        if self._budget_in_train:
            return distinct_contexts([seen])
        return distinct_contexts([seen, self.table[self.budget_rows.flatten().numpy()]["context"]])

    @cached_property
    def validation_group(self) -> torch.Tensor:
        """Return the group [V] of each validation pair, its place in `groups`; −1 for attributes not scored."""
        return self._groups_of(self.training(frozenset(), "prompt").source.validation.table)

    @cached_property
    def shots(self) -> torch.Tensor:
        """Return the rows [A, shots] of the test pairs that each group's methods may adapt to."""
        return torch.stack([_first_of(self._sample, group, self.options.shots) for group in self.groups])

    @cached_property
    def budget_rows(self) -> torch.Tensor:
        """Return the test rows [A, budget] that a router may learn from where there is no train split."""
        assert not self._budget_in_train
        return torch.stack([_first_of(self._sample, group, self.options.budget) for group in self.groups])

    @property
    def budget_from(self) -> str:
        """Return which split a router's pairs come from."""
        return TRAIN if self._budget_in_train else self.options.split

    def _training(self, needs: frozenset[Need], router_input: RouterInput) -> MethodData:
        return open_method_data(
            self.store, self.name, needs, features=self.features.id, router_input=router_input, reward_input="plain"
        )

    def _test(self, needs: frozenset[Need], router_input: RouterInput) -> Pairs:
        reading = self.training(needs, router_input).reading
        loaded, pairs = reading.pairs(self.target, self.features, self.options.split, pl.lit(True))
        assert loaded.table["pair_id"].equals(self.table["pair_id"])
        return pairs

    def _models(self, method: str, router_input: RouterInput) -> Sequence[Model]:
        chosen = methods()[method]
        return chosen.fit(self.training(chosen.needs, router_input).training, self.method_options, self.seeds)

    def scored(self, needs: frozenset[Need], router_input: RouterInput) -> Pairs:
        """Return the scored pairs as a method reads them that looks at `needs`."""
        return self.test(needs, router_input).take(self.rows)

    def validation(self, needs: frozenset[Need], router_input: RouterInput) -> Pairs:
        """Return the validation pairs as a method reads them that looks at `needs`."""
        return self.training(needs, router_input).training.validation

    def _groups_of(self, table: pl.DataFrame) -> torch.Tensor:
        return self._group_of(table.with_columns(pl.col("attribute").fill_null(NO_ATTRIBUTE)))

    def routing(self, seed: int) -> pl.DataFrame:
        """Return the pairs with contexts [M] that a router may learn from under one seed.

        Raises BadInput where there are too few pairs, or no contexts.
        """
        split = self.budget_from
        table = _grouped(self.target, self.features, split)
        if self._budget_in_train:
            table = table.with_columns(pl.when(pl.col("part") == "fit").then("attribute").alias("attribute"))
            sample = sample_shots(table, "attribute", self.options.budget, seed, shared=True)
            short = {name: count for name, count in sample.left_out.items() if name in self.groups}
            if short:
                named = ", ".join(f"{name} {count}" for name, count in short.items())
                raise BadInput(
                    f"budget is {self.options.budget}: data set {self.target.name!r} has fewer pairs to fit of {named}"
                    "; lower it"
                )
            rows = torch.from_numpy(sample.row)
        else:
            rows = self.budget_rows.flatten()
        chosen = table[rows.numpy()]
        bare = chosen.filter(pl.col("context").is_null())["attribute"].unique().sort()
        if len(bare):
            raise BadInput(
                f"data set {self.target.name!r}, split {split!r}: pairs of {', '.join(bare)} have no context to route "
                "by; embed with `contexts`"
            )
        return chosen

    @property
    def has_contexts(self) -> bool:
        """Say whether scored pairs have contexts."""
        return has_contexts(self.target, self.features, self.options.split)

    @cached_property
    def context_input(self) -> RouterInput:
        """Return how contexts are read: by themselves where all that is read has such vectors."""
        splits = [(open_dataset(self.store, self.name), TRAIN), (self.target, self.options.split)]
        found = {contexts_to_read(one, self.features, split) for one, split in splits if split in one.splits()}
        return "context" if found == {"context"} else "context+prompt"

    @cached_property
    def _budget_in_train(self) -> bool:
        return TRAIN in self.target.splits()

    @property
    def _most_from_test(self) -> int:
        return self.options.shots if self._budget_in_train else max(self.options.shots, self.options.budget)

    def _group_of(self, table: pl.DataFrame) -> torch.Tensor:
        places = {group: place for place, group in enumerate(self.groups)}
        codes = table["attribute"].replace_strict(places, default=-1, return_dtype=pl.Int64)
        return codes.to_torch()

    def _seen(self, column: str) -> pl.Series:
        """Return what all pairs that something was learned from have in a column."""
        sources = [self._trained] if self.target.name == self._trained.name else [self._trained, self.target]
        tables = [one.linked_pairs(self.features.id, TRAIN, [column]) for one in sources if TRAIN in one.splits()]
        return pl.concat(tables)[column].unique()


def _first_of(sample: ShotSample, group: str, count: int) -> torch.Tensor:
    """Return the first `count` rows sampled of a group."""
    mine = np.array([name == group for name in sample.group]) & (sample.rank < count)
    return torch.from_numpy(sample.row[mine])


def _grouped(dataset: Dataset, features: Features, split: str) -> pl.DataFrame:
    """Return a split's embedded pairs as shots are sampled from them, a missing attribute being one of its own."""
    columns = [
        "split",
        "part",
        "pair_id",
        "prompt_id",
        "attribute",
        "context",
        "user",
        "chosen_key",
        "chosen_context_key",
    ]
    return dataset.linked_pairs(features.id, split, columns).with_columns(pl.col("attribute").fill_null(NO_ATTRIBUTE))
