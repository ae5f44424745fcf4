"""Features for a fit: one scale per input, minibatches gathered once into buffers that are reused.

Letters: N pairs, B pairs of a minibatch, D embedding width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from cache.errors import BadInput
from heads.settings import PairTensors

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


def training_scales(train: PairTensors) -> Scales:
    """Return the rms of both inputs. Raises BadInput for rows that are not finite, or nothing but zeros."""
    return Scales(
        delta=_rms(train.delta, "the difference of chosen and rejected"),
        router=1.0 if train.router is None else _rms(train.router, "the router's input"),
    )


def _rms(rows: torch.Tensor, what: str) -> float:
    total = 0.0
    for start in range(0, len(rows), SCAN_ROWS):
        part = rows[start : start + SCAN_ROWS]
        squares = torch.linalg.vector_norm(part, dtype=torch.float32).item() ** 2
        if not math.isfinite(squares):
            finite = torch.isfinite(part.float()).all(1)
            row = start + int((~finite).int().argmax())
            raise BadInput(f"{what} is not finite in row {row}: embed those texts again, in float32 if they overflow")
        total += squares
    if total == 0:
        raise BadInput(f"{what} is zero in all {len(rows)} rows: there is nothing to learn from")
    return math.sqrt(total / rows.numel())


def batch_indices(pairs: int, batch: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Yield an epoch's minibatches of row numbers, all of one size of at most `batch`.

    One size keeps every minibatch's weight equal; the few rows left over differ from epoch to epoch.
    Rows are sorted inside a minibatch: reading a mapped file forwards is cheaper, and sums do not care.
    """
    size = batch_size(pairs, batch)
    order = torch.randperm(pairs, generator=generator)
    for start in range(0, pairs - size + 1, size):
        yield order[start : start + size].sort().values


def batch_size(pairs: int, batch: int) -> int:
    """Return the common size of an epoch's minibatches."""
    return pairs // math.ceil(pairs / batch)


class Feed:
    """Gathers rows of the features. `rows` returns buffers that its next call overwrites."""

    def __init__(self, data: PairTensors, routed: bool, size: int, dtype: torch.dtype, device: torch.device) -> None:
        """Prepare buffers of `size` rows; the router's input is read only when some setting is `routed`."""
        self.pairs = len(data.delta)
        self.size = min(size, self.pairs)
        inputs = [data.delta, data.router] if routed and data.router is not None else [data.delta]
        self._columns = [_Column(rows, self.size, dtype, device, len(inputs)) for rows in inputs]

    def rows(self, index: torch.Tensor) -> Batch:
        """Return the rows of the numbers [B], B at most the buffers' size."""
        gathered = [column.gather(index) for column in self._columns]
        return Batch(gathered[0], gathered[1] if len(gathered) > 1 else None)

    def in_order(self) -> Iterator[Batch]:
        """Yield all rows, in order, each batch with the buffers' size but the last."""
        for index in torch.split(torch.arange(self.pairs), self.size):
            yield self.rows(index)


class _Column:
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
        gathered, computed = self._gathered[: len(index)], self._computed[: len(index)]
        torch.index_select(self._rows, 0, index.to(self._rows.device), out=gathered)
        if self._computed is not self._gathered:
            computed.copy_(gathered)
        return computed
