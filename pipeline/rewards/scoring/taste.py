"""By whose taste responses are scored: how a run's heads are weighed for a context, an attribute or a person.

G groups of candidates, K heads, D' width of what a router reads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import polars as pl
import torch

from micropref.cache.choices import TRAIN
from micropref.cache.datasets import Dataset, read_table
from micropref.cache.errors import BadInput
from micropref.cache.runs.data import open_run_data
from micropref.cache.runs.names import find_run
from micropref.cache.runs.records import Run, open_run
from micropref.cache.store import StoreFolder
from micropref.heads.adaptation.few_shot import Adapted
from micropref.heads.methods.base import NO_UNIT, Combine, Pairs, Scores
from micropref.pipeline.rewards.scoring.kept import KeptPeople, KnownPeople
from micropref.pipeline.training.method_runs import FittedRun, open_fitted


@dataclass(frozen=True)
class Taste:
    """By what heads are weighed; nothing given: as the run weighs them for the prompt alone."""

    context: str | None = None
    """A sentence that says what is wanted, which the run's router reads."""
    attribute: str | None = None
    """An attribute of the run's data: the mean weights of its train pairs."""
    user: str | None = None
    """A person that the run has weights for."""
    weights: tuple[float, ...] | None = None
    """[K] weights of the heads themselves; divided by their sum."""

    def __post_init__(self) -> None:
        given = self.weights or (1.0,)
        if self.weights == () or not (all(math.isfinite(one) and one >= 0 for one in given) and sum(given) > 0):
            raise BadInput(f"weights is {_listed(self.weights or ())}: expected numbers of at least 0, one above it")
        if self.weights is not None or self.attribute is not None:
            named = list(self.named)
            if len(named) > 1:
                raise BadInput(f"{named[0]} and {named[1]} are both given: expected one of them")

    def of_row(self, context: str | None, user: str | None) -> Taste:
        """Return the taste of a row with a context and user of its own, which go first; weights are for all rows."""
        if self.weights is not None or self.attribute is not None:
            return self
        return replace(self, context=context or self.context, user=user or self.user)

    @property
    def named(self) -> dict[str, str | tuple[float, ...]]:
        """What was given, by its name."""
        return {each.name: value for each in fields(self) if (value := getattr(self, each.name)) is not None}


@dataclass(frozen=True)
class Weighed:
    """How heads are weighed for one group of candidates."""

    log_weights: torch.Tensor
    """[K] float64."""
    combine: Combine
    """How they become one prediction for a pair."""
    divisor: torch.Tensor | None = None
    """[K] what a head's rewards are divided by first; None: nothing."""


class RewardHeads:
    """A run whose heads give a response by itself a reward: r_k = w_k · e, and whoever it has weights for."""

    def __init__(self, store: StoreFolder, run: str) -> None:
        """Open a run, or the weights of groups that `adapt` kept.

        Raises BadInput where there is none, or its heads compare two responses and reward none.
        """
        found = find_run(store, run)
        groups = found if "groups" in found.record else None
        self._store = store
        self.fitted: FittedRun = open_fitted(store, open_run(store, found.record["parent"]) if groups else found)
        heads = self.fitted.model.state().get("heads")
        if heads is None or heads.ndim != 2:
            raise BadInput(
                f"run {found.id} ({self.run.record['method']}): its heads give no reward to a response by itself; take "
                "a run of method mixture, static or single"
            )
        self.heads: torch.Tensor = heads.double()
        self.kept = KeptPeople(self.run, groups)
        """Whom the run itself has weights for."""
        self.people: KnownPeople = self.kept
        """Whom there are weights for: they go before those that training gave a person."""
        self._means: dict[str, torch.Tensor] = {}

    @property
    def run(self) -> Run:
        """Return the run whose heads these are."""
        return self.fitted.run

    @property
    def k(self) -> int:
        """Return how many heads there are."""
        return len(self.heads)

    @property
    def routed(self) -> bool:
        """Say whether weights depend on what a router or a gate reads."""
        unrouted = {"heads", "static", "penalties"}
        return "router" in self.fitted.reading.needs and not self.fitted.model.state().keys() <= unrouted

    @property
    def reads_contexts(self) -> bool:
        """Say whether a context changes a reward."""
        reading = self.fitted.reading
        return reading.heads_read_contexts or (self.routed and reading.contexts)

    @property
    def knows_people(self) -> bool:
        """Say whether there are weights for any person."""
        return self.people is not self.kept or self.fitted.reading.units is not None or self.kept.any()

    def check_given(self, taste: Taste) -> None:
        """Raise BadInput where the run cannot follow what a command names for all rows; rows may name a context."""
        if taste != Taste() and not (taste.context is None and self.fitted.reading.heads_read_contexts):
            self.check(taste)

    def check(self, taste: Taste) -> None:
        """Raise BadInput where the run cannot weigh its heads by this."""
        if taste.context is not None and not self.reads_contexts:
            raise BadInput(
                f"run {self.run.id} reads no contexts, so {taste.context!r} would change nothing; leave `context` out, "
                "or take a run that was trained or routed on contexts"
            )
        if taste.context is None and self.fitted.reading.heads_read_contexts:
            raise BadInput(f"the heads of run {self.run.id} read responses behind contexts: give a `context`")
        if taste.weights is not None and len(taste.weights) != self.k:
            raise BadInput(f"weights is {_listed(taste.weights)}: run {self.run.id} has {self.k} heads")
        if taste.attribute is not None:
            self._mean_weights(taste.attribute)
        if taste.user is not None:
            self._personal(taste.user)

    def weigh(self, tastes: list[Taste], router: torch.Tensor) -> list[Weighed]:
        """Return how heads are weighed for each of G groups, whose router reads the rows [G, D'] of `router`.

        A row of NaN stands for a group without the context that the router reads. Raises like `check`.
        """
        own = self._own(tastes, router)
        rows = (Scores(own.margins[[at]], own.log_weights[[at]], own.combine) for at in range(len(tastes)))
        return [self._weighed(taste, row) for taste, row in zip(tastes, rows, strict=True)]

    def personal(self, taste: Taste, own: Scores) -> Scores:
        """Return the run's scores of N pairs, by the weights of a person where the taste names one."""
        if taste.user is None or self._was_trained_on(taste.user):
            return own
        rows = torch.zeros(len(own.margins), dtype=torch.long)
        return self._personal(taste.user).scores(
            Scores(own.margins.double(), own.log_weights.double(), own.combine), rows
        )

    def divisor(self, taste: Taste) -> torch.Tensor | None:
        """Return what heads' rewards [K] are divided by for a taste; None: nothing."""
        adapted = None if taste.user is None else self._personal(taste.user)
        return None if adapted is None or adapted.scale is None else adapted.scale[0].double()

    def _own(self, tastes: list[Taste], router: torch.Tensor) -> Scores:
        """Return the run's own weights [G, K]."""
        reading = self.fitted.reading
        units = None
        if reading.units is not None:
            codes = {name: code for code, name in enumerate(reading.units.names)}
            units = torch.tensor([codes.get(self._unit(taste) or "", NO_UNIT) for taste in tastes])
        nothing = torch.zeros(len(tastes), self.heads.shape[1])
        pairs = Pairs(nothing, router, torch.zeros(len(tastes), dtype=torch.long), nothing, nothing, units)
        return self.fitted.model.scores(pairs)

    def _weighed(self, taste: Taste, own: Scores) -> Weighed:
        if taste.weights is not None:
            given = torch.tensor(taste.weights, dtype=torch.float64)
            return Weighed((given / given.sum()).log(), "linear")
        if taste.attribute is not None and not self._is_unit("attribute", taste.attribute):
            return Weighed(self._mean_weights(taste.attribute).log(), own.combine)
        if taste.user is None or self._was_trained_on(taste.user):
            return Weighed(own.log_weights[0].double(), own.combine)
        adapted = self._personal(taste.user)
        scores = adapted.scores(Scores(own.margins.double(), own.log_weights.double(), own.combine), torch.tensor([0]))
        divisor = None if adapted.scale is None else adapted.scale[0].double()
        return Weighed(scores.log_weights[0], scores.combine, divisor)

    def _unit(self, taste: Taste) -> str | None:
        """Return whose weights from training a taste asks for; None: nobody's."""
        kind = self.fitted.reading.units.kind if self.fitted.reading.units else "user"
        name: str | None = getattr(taste, kind)
        return None if kind == "user" and name is not None and not self._was_trained_on(name) else name

    def _is_unit(self, kind: str, name: str) -> bool:
        units = self.fitted.reading.units
        return units is not None and units.kind == kind and name in units.names

    def _was_trained_on(self, user: str) -> bool:
        """Say whether a person's weights are those of training: nothing was learned since, and nobody forgot them."""
        if not self._is_unit("user", user):
            return False
        return self.people.forgotten_at(user) is None and self.people(user) is None

    def _personal(self, user: str) -> Adapted:
        """Return what was learned of a person. Raises BadInput where nothing was."""
        found = self.people(user)
        if found is None and self._was_trained_on(user):
            return Adapted(torch.zeros(1, self.k, dtype=torch.float64), routed=True)
        if found is None:
            raise BadInput(
                f"run {self.run.id} has no weights for user {user!r}; learn them with `micropref ask` or `micropref "
                "adapt`, or leave `user` out"
            )
        return found

    def _mean_weights(self, attribute: str) -> torch.Tensor:
        """Return the run's mean weights [K] of an attribute's train pairs."""
        groups = self.kept.groups
        by_attribute = groups is not None and groups.record["settings"]["by"] == "attribute"
        if by_attribute and (found := self.kept.group(attribute)) is not None:
            return found.log_weights[0].exp().double()
        if attribute not in self._means:
            dataset = open_run_data(self._store, self.run)
            split = TRAIN if TRAIN in dataset.splits() else dataset.splits()[0]
            _, pairs = replace(self.fitted.reading, units=None).pairs(
                dataset, self.fitted.features, split, pl.col("attribute") == attribute
            )
            if not len(pairs):
                raise BadInput(
                    f"data set {dataset.name!r}, split {split!r}: no pair has the attribute {attribute!r} (there: "
                    f"{_attributes(dataset, split)})"
                )
            self._means[attribute] = self.fitted.model.scores(pairs).log_weights.double().exp().mean(0)
        return self._means[attribute]


def _attributes(dataset: Dataset, split: str) -> str:
    """Return the attributes of a split's pairs, the first eight."""
    tables = [read_table(part, "pairs", ["attribute"]) for part in dataset.of_split(split)]
    named = pl.concat(tables)["attribute"].drop_nulls().unique().sort().to_list()
    return ", ".join(named[:8]) + (", ..." if len(named) > 8 else "") if named else "none"


def _listed(weights: tuple[float, ...]) -> str:
    return ",".join(f"{one:g}" for one in weights)
