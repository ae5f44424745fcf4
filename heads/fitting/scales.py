"""The size of a fit's two inputs and the mean of the router's: measured once, folded into the weights in the end.

Letters: N pairs, D embedding width, D' width of the router's input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from micropref.cache.errors import BadInput
from micropref.heads.fitting.settings import PairTensors
from micropref.heads.mixture import missing_rows

DELTA, ROUTER = "the difference of chosen and rejected", "the router's input"
"""What the two inputs are called in errors."""
SCAN_ROWS = 4096
ALIKE = 1e-3
"""Share of its rms that a centred input has at least, or all rows are taken for the same."""


@dataclass(frozen=True, slots=True)
class Scales:
    """Root mean square of all training entries of each input, one number each."""

    delta: float
    """Of the embedding differences."""
    router: float
    """Of the centred router's input; 1 where there is none."""
    centre: torch.Tensor | None = None
    """[D'] float64 mean of the router's input over pairs with a context; None: it is not centred."""
    sizes: torch.Tensor | None = None
    """[D'] float64 rms of the vector that each entry belongs to, where several stand side by side and `router` is 1."""


def training_scales(train: PairTensors) -> Scales:
    """Return the sizes of both inputs over pairs. Raises BadInput for rows not finite, or nothing but zeros."""
    delta = Moments(DELTA)
    _add(delta, train.delta, None)
    if train.router is None:
        return Scales(delta.rms(), 1.0)
    rows, router = train.router_rows, RouterMoments(train.router_parts or (train.router.shape[1],))
    counts = None if rows is None else torch.bincount(rows, minlength=len(train.router))
    _add(router, train.router, counts)
    return router.scales(delta.rms())


def rms(rows: torch.Tensor, what: str) -> float:
    """Return the root mean square of all entries of rows [N, D]. Raises BadInput where it is 0 or not finite."""
    moments = Moments(what)
    _add(moments, rows, None)
    return moments.rms()


def _add(moments: Moments | RouterMoments, rows: torch.Tensor, counts: torch.Tensor | None) -> None:
    for start in range(0, len(rows), SCAN_ROWS):
        part = slice(start, start + SCAN_ROWS)
        moments.add(rows[part], None if counts is None else counts[part])


class Moments:
    """The root mean square of rows that come in parts, about their mean or about 0."""

    def __init__(self, what: str, *, centred: bool = False) -> None:
        """Start with no rows; `what` names them in errors. Where they are `centred`, rows of NaN do not count."""
        self._what, self._centred = what, centred
        self._total = 0.0
        self._sum: torch.Tensor | None = None
        self._rows = 0
        self._counted = 0
        self._width = 1

    def add(self, part: torch.Tensor, counts: torch.Tensor | None = None) -> None:
        """Add rows [n, D], each `counts` [n] times. Raises BadInput where one is not finite."""
        weights = torch.ones(len(part), dtype=torch.float64) if counts is None else counts.cpu().double()
        rows = part
        if self._centred and (missing := missing_rows(part)).any():
            rows, weights = part[~missing], weights[~missing.cpu()]
        norms = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float32).cpu().double().square()
        squares = float(norms @ weights)
        if not math.isfinite(squares):
            bad = ~torch.isfinite(part.float()).all(1)
            if self._centred:
                bad &= ~missing_rows(part)
            raise BadInput(
                f"{self._what} is not finite in row {self._rows + int(bad.int().argmax())}: embed those texts again, "
                "in float32 if they overflow"
            )
        self._total += squares
        self._rows += len(part)
        self._counted += int(weights.sum())
        self._width = part.shape[1]
        if self._centred:
            added = weights @ rows.cpu().double()
            self._sum = added if self._sum is None else self._sum + added

    def mean(self) -> torch.Tensor | None:
        """Return the mean row [D]; None where they are not centred."""
        return None if self._sum is None else self._sum / max(1, self._counted)

    def rms(self) -> float:
        """Return it; rows that are all the same are divided by their own size. Raises BadInput where it is 0."""
        if self._counted and self._total == 0:
            raise BadInput(f"{self._what} is zero in all {self._rows} rows: there is nothing to learn from")
        if not self._counted:
            return 1.0
        raw = self._total / (self._counted * self._width)
        mean = self.mean()
        if mean is None:
            return math.sqrt(raw)
        spread = raw - float(mean.square().mean())
        return math.sqrt(spread if spread > ALIKE**2 * raw else raw)


class RouterMoments:
    """The moments of the router's input: of each of the vectors that stand side by side in it."""

    def __init__(self, widths: Sequence[int]) -> None:
        """Start with no rows of vectors of these widths."""
        self._widths = list(widths)
        self._parts = [Moments(ROUTER, centred=True) for _ in widths]

    def add(self, part: torch.Tensor, counts: torch.Tensor | None = None) -> None:
        """Add rows [n, D'], each `counts` [n] times. Raises BadInput where one is not finite."""
        for moments, columns in zip(self._parts, torch.split(part, self._widths, 1), strict=True):
            moments.add(columns, counts)

    def scales(self, delta: float) -> Scales:
        """Return the scales of both inputs, that of the differences being `delta`. Raises BadInput like `rms`."""
        sizes = [one.rms() for one in self._parts]
        means = [mean for one in self._parts if (mean := one.mean()) is not None]
        centre = torch.cat(means) if means else None
        if len(sizes) == 1:
            return Scales(delta, sizes[0], centre)
        each = torch.tensor(sizes, dtype=torch.float64).repeat_interleave(torch.tensor(self._widths))
        return Scales(delta, 1.0, centre, each)
