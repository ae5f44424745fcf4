"""The interface of every method: how it is fitted on cached features, scores pairs, and is saved.

Letters: N pairs, M rated responses, A attributes, D embedding width, K reward heads, S seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch

from micropref.cache.errors import BadInput
from micropref.cache.vectors.pair_features import taken_inputs
from micropref.heads.choices import ArmoGate
from micropref.heads.mixture import linear_margin, missing_rows, pair_log_odds, pair_log_probability

Need = Literal["router", "responses", "units", "ratings", "reward_head"]
"""router: the embedded prompt or context; responses: e(x, chosen) and e(x, rejected) besides their difference;
units: the annotators; ratings; the backbone's head."""
UnitKind = Literal["user", "attribute"]
"""The annotator: a user, or where the data names none, the attribute by which the pair was labelled."""
Combine = Literal["probability", "linear"]
"""How heads become one prediction: Σ_k π_k σ(m_k), or σ(Σ_k π_k m_k)."""
NO_UNIT = -1
"""Code of a pair whose unit is not known, or was not there to be fitted."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """N pairs as a method reads them; float32 on the CPU."""

    delta: torch.Tensor
    """Δ [N, D]: e(x, chosen) - e(x, rejected)."""
    router: torch.Tensor
    """[N, D'] what a router or a gate reads, such as the embedded context; a row of NaN: of pairs without one. Fewer
    rows where pairs share them."""
    clusters: torch.Tensor
    """[N] number of each pair's prompt: what is split and resampled together."""
    chosen: torch.Tensor | None = None
    """e(x, chosen) [N, D], where the method needs responses."""
    rejected: torch.Tensor | None = None
    """e(x, rejected) [N, D], where the method needs responses."""
    units: torch.Tensor | None = None
    """[N] code of the annotator (the user, or the attribute where the data has no users), NO_UNIT where not known."""
    router_rows: torch.Tensor | None = None
    """[N] row of `router` that each pair reads; None where row n is pair n's."""

    def __len__(self) -> int:
        return len(self.delta)

    def take(self, rows: torch.Tensor) -> Pairs:
        """Return the pairs at `rows`, numbers or a mask [N]."""
        chosen, rejected, units = (
            None if part is None else part[rows] for part in (self.chosen, self.rejected, self.units)
        )
        router, router_rows = taken_inputs(self.router, self.router_rows, rows)
        return Pairs(self.delta[rows], router, self.clusters[rows], chosen, rejected, units, router_rows)

    def router_inputs(self) -> torch.Tensor:
        """Return what a gate reads of each pair [N, D'], zeros where it has no context."""
        read = self.router.nan_to_num() if missing_rows(self.router).any() else self.router
        return read if self.router_rows is None else read[self.router_rows]

    def responses(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return e(x, chosen) and e(x, rejected) [N, D]. Raises ValueError where they were left out."""
        if self.chosen is None or self.rejected is None:
            raise ValueError("these pairs came without their responses, which this method reads")
        return self.chosen, self.rejected


@dataclass(frozen=True, slots=True)
class RatedResponses:
    """M responses with their ratings, where the data has any."""

    embedding: torch.Tensor
    """e(x, a) [M, D] float32."""
    ratings: torch.Tensor
    """[M, A] float32, NaN where a response was not rated on an attribute."""
    clusters: torch.Tensor
    """[M] number of each response's prompt, in no relation to that of pairs."""
    attributes: tuple[str, ...]
    """Names of the A columns."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What a method may be fitted on: the fit and validation part of a train split, never anything of a test split."""

    fitting: Pairs
    """Pairs to fit."""
    validation: Pairs
    """Pairs to choose by."""
    units: tuple[str, ...] = ()
    """Names of the units' codes, those of the fit part; empty where no method asked for units."""
    unit_kind: UnitKind | None = None
    """What the units are."""
    rated: RatedResponses | None = None
    """Ratings of train responses, where the method needs them."""
    reward_head: torch.Tensor | None = None
    """[1, D] the backbone's own `score.weight`, where the method needs it."""


@dataclass(frozen=True, slots=True)
class Scores:
    """A fitted method's scores of N pairs."""

    margins: torch.Tensor
    """[N, K] of every head; a method without heads has one column, the logit of its probability."""
    log_weights: torch.Tensor
    """[N, K] log of the heads' weights, which sum to 1."""
    combine: Combine
    """How the two become one prediction."""

    @classmethod
    def of_logit(cls, logit: torch.Tensor) -> Scores:
        """Return the scores of a method without heads, from the logit of its probability [N]."""
        return cls(logit[:, None], torch.zeros(len(logit), 1), "probability")

    def log_probability(self) -> torch.Tensor:
        """Return log P(chosen ≻ rejected) [N], in nats."""
        if self.combine == "probability":
            return pair_log_probability(self.margins, self.log_weights)
        return torch.nn.functional.logsigmoid(linear_margin(self.margins, self.log_weights))

    def log_odds(self) -> torch.Tensor:
        """Return log P(chosen ≻ rejected) − log P(rejected ≻ chosen) [N]: what a run's scale multiplies."""
        if self.combine == "probability":
            return pair_log_odds(self.margins, self.log_weights)
        return linear_margin(self.margins, self.log_weights)


class Model(Protocol):
    """A fitted method."""

    def scores(self, pairs: Pairs) -> Scores:
        """Score pairs of any split. Raises ValueError where they lack what the method needs."""
        ...

    def state(self) -> dict[str, torch.Tensor]:
        """Return its tensors by name, as they are saved: everything `restore` needs."""
        ...


@runtime_checkable
class Adaptable(Model, Protocol):
    """A fitted method with a way of its own to learn new units from a few of their pairs."""

    def adapted(self, shots: Pairs) -> Model:
        """Return the method as it is for the units that made these choices: `shots.units` are their codes from now on.

        Units are fitted apart from one another, all else is frozen. Shots without units are all of one, code 0.
        """
        ...


@dataclass(frozen=True, slots=True)
class MethodOptions:
    """What a user may change of a method's recipe; every method names in `options` those it uses."""

    k: int = 5
    """Reward heads, clusters or prototypes."""
    device: str = "auto"
    """auto: cuda where there is one, else cpu."""
    gate: ArmoGate = "small"
    """ARMO's gate: the published size (3 × 1024), or 1 × 128 for CPUs."""
    lam: float | None = None
    """λ of mixtures, the KL penalty towards uniform weights; None: what `train` has by default."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise BadInput(f"k is {self.k}: expected at least 1")
        if self.lam is not None and not (math.isfinite(self.lam) and self.lam >= 0):
            raise BadInput(f"lam is {self.lam}: expected a finite number of at least 0")


class Method(Protocol):
    """One compared method: fitted by `train --method` and by `compare`."""

    name: ClassVar[str]
    """As in `--method`."""
    title: ClassVar[str]
    """As in tables."""
    supervision: ClassVar[str]
    """What it learns from, in a table's few words."""
    needs: ClassVar[frozenset[Need]]
    """What it reads besides Δ; its data has none of the others, except `router`."""
    options: ClassVar[frozenset[str]]
    """Fields of MethodOptions that change it."""

    def fit(self, data: TrainingData, options: MethodOptions, seeds: Sequence[int]) -> Sequence[Model]:
        """Fit one model for each seed [S], together where that is faster. Raises BadInput where data is lacking."""
        ...

    def restore(self, state: Mapping[str, torch.Tensor]) -> Model:
        """Return the model whose `state` this is. Raises ValueError when names or shapes do not fit."""
        ...
