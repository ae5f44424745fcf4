"""Whether probabilities are honest: of pairs predicted with .8, is the likelier response chosen in 80 %.

N pairs, B bins with pairs.

Pairs are binned by the probability of the likelier response, which lies in [.5, 1]; in a bin the mean of these
probabilities stands next to the share of pairs whose likelier response was chosen.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from micropref.heads.evaluation.intervals import Sides, mean_intervals
from micropref.heads.evaluation.metrics import correct

BINS = 10
"""Of equal width, .05; the last holds 1 too."""


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """The pairs of one bin."""

    bin: int
    """0 to BINS − 1; bin b begins at .5 + .05 b."""
    n: int
    """Pairs in it."""
    mean_probability: float
    """Of the likelier response."""
    accuracy: float
    """Share of pairs whose likelier response was chosen; where both are equally likely, one half."""
    low: float
    """Lower limit of the 95 % interval of `accuracy`."""
    high: float


def calibration_bins(log_probability: torch.Tensor, sides: Sides) -> list[CalibrationBin]:
    """Return the bins that have pairs, ascending, from log P(chosen ≻ rejected) [N] and what pairs share.

    Example: two pairs with P(chosen) .9 and .1 lie in bin 8, whose accuracy is one half.
    """
    chosen = log_probability.double().exp()
    likelier = torch.maximum(chosen, 1 - chosen)
    # What rounding takes from .55, .6, ... must not move it a bin down.
    places = ((likelier - 0.5) * (2 * BINS) + 1e-9).floor().long().clamp(0, BINS - 1)
    right = correct(log_probability.double())[:, None]
    found = []
    for place in range(BINS):
        rows = (places == place).nonzero()[:, 0]
        if not len(rows):
            continue
        interval = mean_intervals(right[rows], {name: ids[rows] for name, ids in sides.items()}, "share")
        figures = (float(one) for one in (likelier[rows].mean(), interval.mean, interval.low, interval.high))
        found.append(CalibrationBin(place, len(rows), *figures))
    return found
