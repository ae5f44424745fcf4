"""Minibatches for a fit: one scale per input, rows gathered once into buffers that are reused.

Letters: N pairs, B pairs of a minibatch, D embedding width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from cache.errors import BadInput
from heads.latent import Visits
from heads.settings import PairTensors

DELTA, ROUTER = "the difference of chosen and rejected", "the router's input"
"""What the two inputs are called in errors."""
SCAN_ROWS = 4096
RESIDENT_SHARE = 0.6
"""Of an accelerator's free memory: features that need less move there once, others batch by batch."""
CONVERTED_BYTES = 4 << 30
"""Inputs that take less in the compute dtype are converted once on the CPU too, others batch by batch."""


@dataclass(frozen=True, slots=True)
class Scales:
    """Root mean square of all training entries of each input, one number each."""

    delta: float
    """Of the embedding differences."""
    router: float
    """Of the router's input; 1 where there is none."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of the features in the compute dtype, on the compute device, overwritten by the next batch."""

    delta: torch.Tensor
    """[B, D]"""
    router: torch.Tensor | None
    """[B, D']"""
    visits: Visits | None = None
    """Where units are taken whole; the pairs of each then lie side by side."""


def training_scales(train: PairTensors) -> Scales:
    """Return the rms of both inputs. Raises BadInput for rows that are not finite, or nothing but zeros."""
    return Scales(
        delta=rms(train.delta, DELTA),
        router=1.0 if train.router is None else rms(train.router, ROUTER),
    )


def rms(rows: torch.Tensor, what: str) -> float:
    """Return the root mean square of all entries of rows [N, D]. Raises BadInput where it is 0 or not finite."""
    squares = Squares(what)
    for part in torch.split(rows, SCAN_ROWS):
        squares.add(part)
    return squares.rms()


class Squares:
    """The root mean square of rows that come in parts."""

    def __init__(self, what: str) -> None:
        """Start with no rows; `what` names them in errors."""
        self._what = what
        self._total = 0.0
        self._rows = 0
        self._entries = 0

    def add(self, part: torch.Tensor) -> None:
        """Add rows [n, D]. Raises BadInput where one is not finite."""
        squares = torch.linalg.vector_norm(part, dtype=torch.float32).item() ** 2
        if not math.isfinite(squares):
            row = self._rows + int((~torch.isfinite(part.float()).all(1)).int().argmax())
            raise BadInput(
                f"{self._what} is not finite in row {row}: embed those texts again, in float32 if they overflow"
            )
        self._total += squares
        self._rows += len(part)
        self._entries += part.numel()

    def rms(self) -> float:
        """Return it. Raises BadInput where it is 0."""
        if self._total == 0:
            raise BadInput(f"{self._what} is zero in all {self._rows} rows: there is nothing to learn from")
        return math.sqrt(self._total / self._entries)


def batch_indices(pairs: int, batch: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Return an epoch's minibatches of row numbers, all of one size of at most `batch`.

    One size keeps every minibatch's weight equal; the few rows left over differ from epoch to epoch.
    Rows are sorted inside a minibatch: reading a mapped file forwards is cheaper, and sums do not care.
    """
    return _indices(pairs, batch_size(pairs, batch), generator)


def _indices(pairs: int, size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    order = torch.randperm(pairs, generator=generator)
    for start in range(0, pairs - size + 1, size):
        yield order[start : start + size].sort().values


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
    """Minibatches of pairs in memory."""

    def __init__(self, data: PairTensors, routed: bool, size: int, dtype: torch.dtype, device: torch.device) -> None:
        """Prepare buffers of `size` rows; the router's input is read only when some setting is `routed`."""
        self.pairs = data.pairs
        self.size = min(size, self.pairs)
        self.steps = self.pairs // self.size
        inputs = [data.delta, data.router] if routed and data.router is not None else [data.delta]
        self._columns = [Column(rows, self.size, dtype, device, len(inputs)) for rows in inputs]

    def shuffled(self, generator: torch.Generator) -> Iterator[Batch]:
        """Yield an epoch's minibatches in the order of `batch_indices`."""
        for index in _indices(self.pairs, self.size, generator):
            yield _batch([column.gather(index) for column in self._columns])

    def in_order(self) -> Iterator[Batch]:
        """Yield all pairs, in order."""
        for start in range(0, self.pairs, self.size):
            yield _batch([column.part(start, start + self.size) for column in self._columns])

    def whole(self) -> Batch:
        """Return all pairs in one batch."""
        assert self.size == self.pairs
        return next(self.in_order())


def _batch(inputs: list[torch.Tensor]) -> Batch:
    return Batch(inputs[0], inputs[1] if len(inputs) > 1 else None)


class Column:
    """One input: its rows, a buffer in their dtype, and one in the compute dtype where that differs."""

    def __init__(self, rows: torch.Tensor, size: int, dtype: torch.dtype, device: torch.device, inputs: int) -> None:
        needed = rows.numel() * dtype.itemsize * inputs
        accelerated = device.type == "cuda"
        if needed < (RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0] if accelerated else CONVERTED_BYTES):
            rows = rows.to(device, dtype)
        self._rows = rows
        self._gathered = torch.empty((size, rows.shape[1]), dtype=rows.dtype, device=rows.device)
        same = rows.dtype == dtype and rows.device.type == device.type
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
        return rows if self._computed is self._gathered else self._computed[: len(rows)].copy_(rows)
