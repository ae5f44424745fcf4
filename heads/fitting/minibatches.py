"""Minibatches for a fit: rows gathered once into buffers that are reused, the router's input centred.

Letters: N pairs, B pairs of a minibatch, D embedding width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from micropref.heads.fitting.group_losses import Visits
from micropref.heads.fitting.segments import ROUND, Runs, Segments
from micropref.heads.fitting.settings import PairTensors
from micropref.heads.mixture import missing_rows

SCAN_ROWS = 4096
"""Rows converted at a time."""
SIDE_BY_SIDE = 8
"""Pairs that share the router's input and are taken together at most,"""
LEAST_RUNS = 64
"""and how many such runs a minibatch has at least, if it is that large: its pairs should differ."""
RESIDENT_SHARE = 0.6
"""Of an accelerator's free memory: features that need less move there once, others batch by batch."""
CONVERTED_BYTES = 4 << 30
"""Inputs that take less in the compute dtype are converted once on the CPU too, others batch by batch."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of the features in the compute dtype, on the compute device, overwritten by the next batch."""

    delta: torch.Tensor
    """[B, D]"""
    router: torch.Tensor | None
    """[B, D'], centred in a fit; where pairs share rows the distinct ones, and some that nobody reads behind them."""
    readers: Segments | None = None
    """The pairs that read each row of `router`; None where row n is pair n's."""
    visits: Visits | None = None
    """Where units are taken whole; the pairs of each then lie side by side."""

    @property
    def router_rows(self) -> torch.Tensor | None:
        """Return the row of `router` that each pair reads [B]; None where row n is pair n's."""
        return None if self.readers is None else self.readers.place


def batch_indices(pairs: int, batch: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Return an epoch's minibatches of row numbers, all of one size of at most `batch`."""
    return minibatches(torch.randperm(pairs, generator=generator), batch_size(pairs, batch))


def minibatches(order: torch.Tensor, size: int) -> Iterator[torch.Tensor]:
    """Cut an epoch's order of rows [N] into minibatches of one size.

    One size keeps every minibatch's weight equal; the few rows left over differ from epoch to epoch.
    Rows are sorted inside a minibatch: reading a mapped file forwards is cheaper, and sums do not care.
    """
    for start in range(0, len(order) - size + 1, size):
        yield order[start : start + size].sort().values


def sharing_runs(read: torch.Tensor | None, size: int) -> Runs | None:
    """Return the pairs in runs that read the same row [N] and lie side by side in minibatches of a size.

    None where nobody shares.
    """
    return None if read is None else Runs.of(read, min(SIDE_BY_SIDE, max(1, size // LEAST_RUNS)))


def shuffled_order(pairs: int, runs: Runs | None, generator: torch.Generator) -> torch.Tensor:
    """Return the pairs in a random order [N], those of a run side by side."""
    order = torch.randperm(pairs if runs is None else len(runs.sizes), generator=generator)
    return order if runs is None else runs.taken(order)[0]


def batch_size(pairs: int, batch: int) -> int:
    """Return the common size of an epoch's minibatches."""
    return pairs // math.ceil(pairs / batch)


class Epochs(Protocol):
    """What AdamW reads minibatches from. A batch lasts until the next one."""

    steps: int
    """Minibatches of an epoch."""

    def shuffled(self, generator: torch.Generator) -> Iterator[Batch]:
        """Yield an epoch's minibatches, and no pair twice."""
        ...


class Batches(Epochs, Protocol):
    """The same for all purposes; minibatches all have B pairs."""

    pairs: int
    """N"""
    size: int
    """B"""

    def in_order(self) -> Iterator[Batch]:
        """Yield all pairs, in order, each batch with B of them but the last."""
        ...

    def whole(self) -> Batch:
        """Return all pairs in one batch, which asks for B = N."""
        ...


class Feed:
    """Minibatches of pairs in memory.

    Pairs that share the router's input are taken side by side, by settings without a router too: what a setting is
    fitted to does not depend on the other settings.
    """

    def __init__(
        self,
        data: PairTensors,
        routed: bool,
        size: int,
        dtype: torch.dtype,
        device: torch.device,
        centre: torch.Tensor | None = None,
    ) -> None:
        """Prepare buffers of `size` rows; the router's input is read only when some setting is `routed`.

        Its `centre` [D'] is subtracted, and is what pairs without a context read.
        """
        self.pairs = data.pairs
        self.size = min(size, self.pairs)
        self.steps = self.pairs // self.size
        self._runs = sharing_runs(data.router_rows, self.size)
        self._inputs = Inputs(data, routed, self.size, dtype, device, centre)

    def shuffled(self, generator: torch.Generator) -> Iterator[Batch]:
        """Yield an epoch's minibatches, those of `minibatches`."""
        for index in minibatches(shuffled_order(self.pairs, self._runs, generator), self.size):
            yield self._inputs.gather(index)

    def in_order(self) -> Iterator[Batch]:
        """Yield all pairs, in order."""
        for start in range(0, self.pairs, self.size):
            yield self._inputs.part(start, min(start + self.size, self.pairs))

    def whole(self) -> Batch:
        """Return all pairs in one batch."""
        assert self.size == self.pairs
        return next(self.in_order())


class Inputs:
    """Both inputs of pairs in memory. What they return lasts until they are asked again."""

    def __init__(
        self,
        data: PairTensors,
        routed: bool,
        size: int,
        dtype: torch.dtype,
        device: torch.device,
        centre: torch.Tensor | None = None,
    ) -> None:
        """Prepare buffers of `size` rows; the router's input is read only when it is `routed`."""
        inputs = [data.delta, data.router] if routed and data.router is not None else [data.delta]
        self._delta = Column(data.delta, size, dtype, device, len(inputs))
        self._router, self._router_rows = None, data.router_rows
        if len(inputs) > 1:
            most = size if data.router_rows is None else min(size, len(inputs[1])) + ROUND
            self._router = Column(inputs[1], most, dtype, device, len(inputs), centre)
        self._device = device

    def differences(self, index: torch.Tensor) -> torch.Tensor:
        """Return Δ of the pairs of these numbers."""
        return self._delta.gather(index)

    def gather(self, index: torch.Tensor) -> Batch:
        """Return the pairs of these numbers."""
        return self._batch(self._delta.gather(index), index)

    def part(self, start: int, stop: int) -> Batch:
        """Return the pairs from start to stop."""
        return self._batch(self._delta.part(start, stop), slice(start, stop))

    def _batch(self, delta: torch.Tensor, pairs: torch.Tensor | slice) -> Batch:
        if self._router is None:
            return Batch(delta, None)
        if self._router_rows is not None:
            rows, *read = torch.unique(self._router_rows[pairs], return_inverse=True, return_counts=True)
            readers = Segments.of_readers(*read)
            rows = torch.cat([rows, rows[-1:].expand(len(readers.sizes) - len(rows))])
            return Batch(delta, self._router.gather(rows), readers.to(self._device))
        if isinstance(pairs, slice):
            return Batch(delta, self._router.part(pairs.start, pairs.stop))
        return Batch(delta, self._router.gather(pairs))


class Column:
    """One input: its rows, a buffer in their dtype, and one in the compute dtype where that differs."""

    def __init__(
        self,
        rows: torch.Tensor,
        size: int,
        dtype: torch.dtype,
        device: torch.device,
        inputs: int,
        centre: torch.Tensor | None = None,
    ) -> None:
        needed = rows.numel() * dtype.itemsize * inputs
        accelerated = device.type == "cuda"
        self._centre = centre
        same = rows.dtype == dtype and rows.device.type == device.type
        if needed < (RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0] if accelerated else CONVERTED_BYTES):
            if centre is not None and not same:
                parts = torch.split(rows, SCAN_ROWS)
                rows = torch.cat([centred(part, centre).to(device, dtype) for part in parts])
                self._centre = None
            rows, same = rows.to(device, dtype), True
        if self._centre is not None:
            self._centre = self._centre.to(rows.device, rows.dtype if same else torch.float32)
        self._lacking = self._centre is not None and bool(missing_rows(rows).any())
        self._rows = rows
        self._gathered = torch.empty((size, rows.shape[1]), dtype=rows.dtype, device=rows.device)
        self._computed = self._gathered if same else torch.empty_like(self._gathered, dtype=dtype, device=device)

    def gather(self, index: torch.Tensor) -> torch.Tensor:
        """Return the rows of these numbers."""
        gathered = self._gathered[: len(index)]
        torch.index_select(self._rows, 0, index.to(self._rows.device), out=gathered)
        return self._converted(gathered)

    def part(self, start: int, stop: int) -> torch.Tensor:
        """Return the rows from start to stop."""
        return self._converted(self._rows[start:stop])

    def _converted(self, rows: torch.Tensor) -> torch.Tensor:
        if self._centre is not None and self._computed is self._gathered:
            less = torch.sub(rows, self._centre, out=self._computed[: len(rows)])
            return less.nan_to_num_() if self._lacking else less
        if self._centre is not None:
            return self._computed[: len(rows)].copy_(centred(rows, self._centre))
        return rows if self._computed is self._gathered else self._computed[: len(rows)].copy_(rows)


def centred(rows: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
    """Return rows [N, D] less their centre [D], 0 where a row of NaN stands for pairs without a context."""
    less = rows - centre.to(torch.float64 if rows.dtype == torch.float64 else torch.float32)
    return less.nan_to_num_()
