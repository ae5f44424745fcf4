"""Weights of heads by unit, a user or an attribute: of known ones, of all others, of new ones from a few pairs.

Letters: N pairs, U units, K heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from micropref.cache.errors import BadInput
from micropref.heads.methods.adam import ALL_PAIRS, Recipe, Rows, descend
from micropref.heads.methods.base import NO_UNIT, Pairs, TrainingData
from micropref.heads.methods.stacking import Parts

FEW_SHOT = Recipe(lr=0.1, steps=500, batch=ALL_PAIRS, cosine=False)
"""LoRe's recipe for a unit that was not there to be fitted."""


@dataclass(frozen=True, slots=True)
class UnitWeights:
    """Log-weights of K heads, by unit."""

    known: torch.Tensor
    """[U, K] of the units that were fitted; each row's exponentials sum to 1."""
    unknown: torch.Tensor
    """[K] of all others: the mean of the known units' weights."""

    @classmethod
    def of_logits(cls, logits: torch.Tensor) -> UnitWeights:
        """Return the weights softmax(logits) of units [U, K]."""
        known = torch.log_softmax(logits, 1)
        # Not the softmax of the mean logits: those of a few saturated units would outweigh all others.
        return cls(known, torch.logsumexp(known, 0) - torch.tensor(float(len(known))).log())

    def of(self, pairs: Pairs) -> torch.Tensor:
        """Return log-weights [N, K] of pairs: their unit's where it is known."""
        if pairs.units is None:
            return self.unknown.expand(len(pairs), -1)
        rows = torch.cat([self.known, self.unknown[None]])
        is_known = (pairs.units >= 0) & (pairs.units < len(self.known))
        return rows[torch.where(is_known, pairs.units, len(self.known))]

    def state(self) -> Parts:
        """Return the tensors by name."""
        return {"known": self.known, "unknown": self.unknown}

    @classmethod
    def from_state(cls, state: Mapping[str, torch.Tensor]) -> UnitWeights:
        """Return what `state` returned, from among other tensors."""
        return cls(state["known"], state["unknown"])


def alone_where_unknown(codes: torch.Tensor, known: int) -> torch.Tensor:
    """Return the units [N], those of pairs with NO_UNIT being their own, coded in order behind the `known` ones."""
    unknown = codes == NO_UNIT
    return torch.where(unknown, known - 1 + unknown.cumsum(0), codes)


def pairs_of_units(data: TrainingData, title: str) -> Pairs:
    """Return the fit part's pairs whose unit is known. Raises BadInput where there are none."""
    units = data.fitting.units
    if units is None or not (units >= 0).any():
        raise BadInput(f"{title} learns from annotators: no training pair names a user or an attribute")
    return data.fitting if (units >= 0).all() else data.fitting.take(units >= 0)


def known_pairs(pairs: Pairs, count: int) -> Pairs:
    """Return the pairs whose unit is one of the `count` that are fitted."""
    units = torch.full((len(pairs),), NO_UNIT) if pairs.units is None else pairs.units
    return pairs.take((units >= 0) & (units < count))


def per_unit(units: torch.Tensor) -> torch.Tensor:
    """Return 1 / n_u [N], n_u the pairs of a pair's unit, so that a sum counts all units [N] alike."""
    return 1 / torch.bincount(units)[units]


def few_shot(start: torch.Tensor, shots: Pairs, log_p: Callable[[torch.Tensor], torch.Tensor]) -> UnitWeights:
    """Return weights of new units, fitted from `start` [K] to shots whose units are coded from 0; none: all of one.

    `log_p` is log P of every shot [N] with its unit's weights [N, K]. Units without shots keep the start.
    """
    if len(shots) == 0:
        return UnitWeights(start.new_empty(0, len(start)), start)
    units = torch.zeros(len(shots), dtype=torch.long) if shots.units is None else shots.units
    if (units < 0).any():
        raise ValueError("shots need the code of their unit, from 0")
    share = per_unit(units)

    def loss(parts: Parts, _: Rows) -> torch.Tensor:
        return -(share * log_p(torch.softmax(parts["logits"][0, units], 1))).sum()[None]

    logits = start.expand(1, int(units.max()) + 1, -1)
    fitted = descend({"logits": logits}, loss, len(shots), FEW_SHOT)["logits"][0]
    return UnitWeights(torch.log_softmax(fitted, 1), start)
