"""Hard clusters of people: every unit belongs to the one reward head that explains its choices best.

Source: the mixture step of MaxMin-RLHF (Chakraborty et al. 2024), hard expectation maximisation.
Letters: N pairs, B pairs of a step, D embedding width, U units, K clusters, R fits (seeds x restarts).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from micropref.heads.evaluation.metrics import nll
from micropref.heads.fitting.hardware import resolve_device
from micropref.heads.fitting.scales import rms
from micropref.heads.methods.adam import Recipe, Rows, descend
from micropref.heads.methods.annotator_weights import alone_where_unknown
from micropref.heads.methods.base import NO_UNIT, MethodOptions, Need, Pairs, Scores, TrainingData
from micropref.heads.methods.stacking import Parts

RESTARTS = 8
ROUNDS = 10
STEPS = 40
"""Of a refit."""
BATCH = 2048
SPEED = 0.04
"""Learning rate times √D: steps then move margins alike at every width."""


@dataclass(frozen=True, slots=True)
class Clusters:
    """K heads and who belongs to which."""

    heads: torch.Tensor
    """[K, D]"""
    shares: torch.Tensor
    """[K] share of the fitted pairs in each cluster."""
    cluster: torch.Tensor
    """[U] cluster of each unit of the fitted pairs; empty where every pair was a unit of its own."""

    def __post_init__(self) -> None:
        if self.heads.ndim != 2 or self.shares.shape != self.heads.shape[:1] or self.cluster.ndim != 1:
            shapes = [list(part.shape) for part in (self.heads, self.shares, self.cluster)]
            raise ValueError(f"clusters have shapes {shapes}, expected heads [K, D], shares [K], cluster [U]")

    def scores(self, pairs: Pairs) -> Scores:
        """Score a known unit's pairs by its head, all others by every head, weighted with the clusters' shares."""
        log_weights = self.shares.log().expand(len(pairs), -1)
        if pairs.units is not None and len(self.cluster):
            known = pairs.units != NO_UNIT
            own = F.one_hot(self.cluster[pairs.units.clamp(min=0)], len(self.shares)).to(log_weights.dtype).log()
            log_weights = torch.where(known[:, None], own, log_weights)
        return Scores(pairs.delta @ self.heads.T, log_weights, "probability")

    def state(self) -> dict[str, torch.Tensor]:
        """Return heads, shares and clusters."""
        return {"heads": self.heads, "shares": self.shares, "cluster": self.cluster}


class MaxMin:
    """Alternate: unit u to argmax_k Σ_{i∈u} log σ(w_k · Δ_i); then K Bradley-Terry fits, each on its own units.

    A unit is a user; where the data names no users, every pair is one. Departures: a refit is STEPS steps of Adam from
    where the heads stand instead of a fit from scratch, the best round and the best of RESTARTS starts are those of
    the lowest validation NLL, and there is no policy to be trained for the worst-off cluster: pairs of people that
    were not fitted are predicted by Σ_k share_k σ(w_k · Δ). The lowest accuracy of any group is `eval`'s.
    """

    name: ClassVar[str] = "maxmin"
    title: ClassVar[str] = "MaxMin (hard EM)"
    supervision: ClassVar[str] = "pairs with users"
    needs: ClassVar[frozenset[Need]] = frozenset({"units"})
    options: ClassVar[frozenset[str]] = frozenset({"k", "device"})

    def fit(self, data: TrainingData, options: MethodOptions, seeds: Sequence[int]) -> list[Clusters]:
        """Fit all seeds' restarts side by side."""
        runs = _Runs.of(data, options)
        starts = [
            _start(options.k, runs.delta.shape[1], seed * RESTARTS + run) for seed in seeds for run in range(RESTARTS)
        ]
        heads = torch.stack(starts).to(runs.delta.device)
        best: list[tuple[float, Clusters]] = []
        for _ in range(ROUNDS):
            heads = runs.refit(heads, runs.assigned(heads))
            found = runs.clusters(heads)
            scored = [(nll(one.scores(data.validation).log_probability()), one) for one in found]
            best = [min(pair, key=lambda one: one[0]) for pair in zip(best or scored, scored, strict=True)]
        groups = (best[start : start + RESTARTS] for start in range(0, len(best), RESTARTS))
        return [min(group, key=lambda one: one[0])[1] for group in groups]

    def restore(self, state: Mapping[str, torch.Tensor]) -> Clusters:
        """Return saved clusters."""
        if set(state) != {"heads", "shares", "cluster"}:
            raise ValueError(f"found tensors {sorted(state)}, expected heads, shares and cluster")
        return Clusters(state["heads"], state["shares"], state["cluster"])


@dataclass(frozen=True, slots=True)
class _Runs:
    """The pairs of R fits of K heads, on the device."""

    delta: torch.Tensor
    """[N, D] divided by its rms."""
    units: torch.Tensor
    """[N] code of each pair's unit; a pair of nobody known is a unit of its own, behind the known ones."""
    known: int
    """Units that have a name."""
    scale: float
    """The rms."""

    @classmethod
    def of(cls, data: TrainingData, options: MethodOptions) -> _Runs:
        pairs, device = data.fitting, resolve_device(options.device)
        scale = rms(pairs.delta, "the difference of chosen and rejected")
        units, known = torch.full((len(pairs),), NO_UNIT), 0
        if data.unit_kind == "user" and pairs.units is not None:
            units, known = pairs.units, len(data.units)
        units = alone_where_unknown(units, known).to(device)
        return cls((pairs.delta / scale).to(device), units, known, scale)

    def margins(self, heads: torch.Tensor, rows: Rows) -> torch.Tensor:
        """Return the margins [B, R, K] of heads [R, K, D]."""
        delta = self.delta[rows]
        return (delta @ heads.flatten(0, 1).T).view(len(delta), *heads.shape[:2])

    @torch.no_grad()
    def assigned(self, heads: torch.Tensor) -> torch.Tensor:
        """Return the cluster [U, R] that explains each unit best."""
        explained = self.delta.new_zeros(int(self.units.max()) + 1, *heads.shape[:2])
        for start in range(0, len(self.delta), BATCH):
            rows = slice(start, start + BATCH)
            explained.index_add_(0, self.units[rows], F.logsigmoid(self.margins(heads, rows)))
        return explained.argmax(2)

    def refit(self, heads: torch.Tensor, cluster: torch.Tensor) -> torch.Tensor:
        """Return the heads after a refit, each on the pairs of the units [U, R] in its cluster."""

        def loss(parts: Parts, rows: Rows) -> torch.Tensor:
            own = cluster[self.units[rows]][:, :, None]
            return -F.logsigmoid(self.margins(parts["heads"], rows).gather(2, own)[:, :, 0]).mean(0)

        recipe = Recipe(SPEED / math.sqrt(heads.shape[2]), STEPS, BATCH)
        return descend({"heads": heads}, loss, len(self.delta), recipe)["heads"]

    def clusters(self, heads: torch.Tensor) -> list[Clusters]:
        """Return all fits as they stand, on the CPU."""
        cluster = self.assigned(heads)
        sizes = torch.stack([torch.bincount(run, minlength=heads.shape[1]) for run in cluster[self.units].T])
        kept = (heads / self.scale).cpu(), (sizes / len(self.delta)).cpu(), cluster[: self.known].T.cpu()
        return [Clusters(*(part.clone() for part in parts)) for parts in zip(*kept, strict=True)]


def _start(k: int, width: int, seed: int) -> torch.Tensor:
    """Return random heads [K, D]: whom each explains best is who it starts with."""
    return torch.randn(k, width, generator=torch.Generator().manual_seed(seed)) / math.sqrt(width)
