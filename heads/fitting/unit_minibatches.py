"""Minibatches of whole units: each pair once an epoch, the pairs of a long unit in several visits.

Letters: N pairs, U units, V visits of an epoch, D embedding width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from micropref.heads.choices import Weight
from micropref.heads.fitting.group_losses import Visits
from micropref.heads.fitting.minibatches import Batch, Inputs
from micropref.heads.fitting.pair_source import Source
from micropref.heads.fitting.segments import ROUND, Runs, Segments, near_equal
from micropref.heads.fitting.settings import PairTensors

LONGEST = 32
"""Pairs of a visit at most. Half as many already leave little doubt of a unit's group."""


def units_of(source: Source) -> torch.Tensor:
    """Return the code of each pair's unit [N]. Raises ValueError where there are none."""
    if not isinstance(source, PairTensors) or source.units is None:
        raise ValueError("these pairs came without their units")
    return source.units


@dataclass(frozen=True, slots=True)
class Cut:
    """How an epoch visits units: the same in all epochs, but for which pairs of a long unit each of its visits has."""

    runs: Runs
    """The pairs of the visits, in the order of their units."""
    share: torch.Tensor
    """[V] 1 over the visits of its unit."""
    weight: torch.Tensor
    """[V] c_u of its unit: 1/N where pairs count alike, 1/(U n_u) where units do."""
    whole: bool
    """Whether every unit has one visit."""

    @classmethod
    def of(cls, units: torch.Tensor, weight: Weight) -> Cut:
        """Cut units, from the codes of their pairs [N], into near-equal visits of LONGEST pairs at most."""
        _, lengths = torch.unique(units, return_counts=True)
        sizes, unit = near_equal(lengths, LONGEST)
        counted = torch.full_like(lengths, len(units)) if weight == "pair" else len(lengths) * lengths
        runs = Runs(torch.argsort(units, stable=True), sizes)
        return cls(runs, 1 / torch.bincount(unit).double()[unit], 1 / counted.double()[unit], len(unit) == len(lengths))


class UnitFeed:
    """Minibatches of equally many visits of units in memory; how many pairs those have varies."""

    def __init__(
        self,
        data: Source,
        routed: bool,
        batch: int,
        weight: Weight,
        dtype: torch.dtype,
        device: torch.device,
        centre: torch.Tensor | None = None,
    ) -> None:
        """Cut units into visits; minibatches have `batch` pairs on average, or fewer."""
        self._units = units_of(data)
        assert isinstance(data, PairTensors)
        self._cut = cut = Cut.of(self._units, weight)
        sizes = cut.runs.sizes
        visits = len(sizes)
        self.steps = min(visits, math.ceil(data.pairs / batch))
        self._taken = visits // self.steps
        exact = dtype if dtype == torch.float64 else torch.float32
        # A minibatch stands for all visits.
        self._weight, self._share = (cut.weight * visits / self._taken).to(exact), cut.share.to(exact)
        self._device = device
        self.size = int(sizes.sort(descending=True).values[: self._taken].sum()) + ROUND
        self._inputs = Inputs(data, routed, self.size, dtype, device, centre)

    def shuffled(self, generator: torch.Generator) -> Iterator[Batch]:
        """Yield an epoch's minibatches, and no pair twice; a long unit's visits have other pairs every time."""
        runs = self._cut.runs
        order = torch.randperm(len(runs.sizes), generator=generator)
        if not self._cut.whole:
            shuffled = torch.randperm(len(self._units), generator=generator)
            runs = replace(runs, entries=shuffled[torch.argsort(self._units[shuffled], stable=True)])
        # What an epoch's visits are is worked out at once: a step is short, and its calls would show.
        visits = order[: self.steps * self._taken].view(self.steps, -1).sort(1).values.flatten()
        rows, place = runs.taken(visits)
        sizes = runs.sizes[visits]
        pairs = sizes.view(self.steps, -1).sum(1).tolist()
        of_visits = (torch.split(part, self._taken) for part in (sizes, self._weight[visits], self._share[visits]))
        of_pairs = (torch.split(part, pairs) for part in (rows, place % self._taken))
        for arguments in zip(*of_visits, *of_pairs, strict=True):
            yield self._batch(*arguments)

    def _batch(
        self, sizes: torch.Tensor, weight: torch.Tensor, share: torch.Tensor, rows: torch.Tensor, place: torch.Tensor
    ) -> Batch:
        """Return visits of so many pairs each, whose rows [B] lie side by side, with the visit of each row.

        A last visit that counts nothing repeats a pair, so that B is a multiple of ROUND.
        """
        idle = ROUND - len(rows) % ROUND
        rows = torch.cat([rows, rows[-1:].expand(idle)])
        pairs = Segments(F.pad(sizes, (0, 1), value=idle), F.pad(place, (0, idle), value=len(sizes)))
        visits = Visits(pairs.to(self._device), *(F.pad(part, (0, 1)).to(self._device) for part in (weight, share)))
        return replace(self._inputs.gather(rows), visits=visits)

    def differences(self, rows: torch.Tensor) -> Iterator[Batch]:
        """Yield Δ of the given pairs, in order, as many at a time as the largest minibatch has."""
        for start in range(0, len(rows), self.size):
            yield Batch(self._inputs.differences(rows[start : start + self.size]), None)
