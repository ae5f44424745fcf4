"""Minibatches of whole units: each pair once an epoch, the pairs of a long unit in several visits.

Letters: N pairs, U units, V visits of an epoch, D embedding width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from heads.feed import Batch, Column
from heads.latent import Visits, run_places
from heads.settings import PairTensors, Weight
from heads.source import Source

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

    sizes: torch.Tensor
    """[V] pairs of each visit."""
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
        parts = -(-lengths // LONGEST)
        unit = torch.repeat_interleave(torch.arange(len(lengths)), parts)
        sizes = (lengths // parts)[unit] + (run_places(parts) < (lengths % parts)[unit])
        counted = torch.full_like(lengths, len(units)) if weight == "pair" else len(lengths) * lengths
        return cls(sizes, 1 / parts.double()[unit], 1 / counted.double()[unit], len(unit) == len(lengths))


class UnitFeed:
    """Minibatches of equally many visits of units in memory; how many pairs those have varies."""

    def __init__(
        self, data: Source, routed: bool, batch: int, weight: Weight, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Cut units into visits; minibatches have `batch` pairs on average, or fewer."""
        self._units = units_of(data)
        assert isinstance(data, PairTensors)
        self._cut = cut = Cut.of(self._units, weight)
        visits = len(cut.sizes)
        self.steps = min(visits, math.ceil(data.pairs / batch))
        self._taken = visits // self.steps
        exact = dtype if dtype == torch.float64 else torch.float32
        # A minibatch stands for all visits.
        self._weight, self._share = (cut.weight * visits / self._taken).to(exact), cut.share.to(exact)
        self._starts = cut.sizes.cumsum(0) - cut.sizes
        self._grouped = torch.argsort(self._units, stable=True)
        self._device = device
        self.size = int(cut.sizes.sort(descending=True).values[: self._taken].sum())
        inputs = [data.delta, data.router] if routed and data.router is not None else [data.delta]
        self._columns = [Column(rows, self.size, dtype, device, len(inputs)) for rows in inputs]

    def shuffled(self, generator: torch.Generator) -> Iterator[Batch]:
        """Yield an epoch's minibatches, and no pair twice; a long unit's visits have other pairs every time."""
        order = torch.randperm(len(self._cut.sizes), generator=generator)
        grouped = self._grouped
        if not self._cut.whole:
            drawn = torch.randperm(len(self._units), generator=generator)
            grouped = drawn[torch.argsort(self._units[drawn], stable=True)]
        # What an epoch's visits are is worked out at once: a step is short, and its calls would show.
        visits = order[: self.steps * self._taken].view(self.steps, -1).sort(1).values.flatten()
        sizes = self._cut.sizes[visits]
        place = torch.repeat_interleave(torch.arange(len(visits)), sizes)
        rows = grouped[self._starts[visits][place] + run_places(sizes)]
        pairs = sizes.view(self.steps, -1).sum(1).tolist()
        of_visits = (torch.split(part[visits], self._taken) for part in (self._cut.sizes, self._weight, self._share))
        of_pairs = (torch.split(part, pairs) for part in (rows, place % self._taken))
        for told in zip(*of_visits, *of_pairs, strict=True):
            yield self._batch(*told)

    def _batch(
        self, sizes: torch.Tensor, weight: torch.Tensor, share: torch.Tensor, rows: torch.Tensor, place: torch.Tensor
    ) -> Batch:
        """Return visits of so many pairs each, whose rows [B] lie side by side, with the visit of each row."""
        inputs = [column.gather(rows) for column in self._columns]
        visits = Visits(*(part.to(self._device) for part in (sizes, place, weight, share)))
        return Batch(inputs[0], inputs[1] if len(inputs) > 1 else None, visits)

    def differences(self, rows: torch.Tensor) -> Iterator[Batch]:
        """Yield Δ of the given pairs, in order, as many at a time as the largest minibatch has."""
        for start in range(0, len(rows), self.size):
            yield Batch(self._columns[0].gather(rows[start : start + self.size]), None)
