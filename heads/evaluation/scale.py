"""One number that keeps a fitted prediction from being surer than validation pairs allow.

Letters: N pairs; l_i log-odds of the pair probability, log p_i − log(1 − p_i).

    p' = σ(s l),    ŝ = argmin over s ≥ 0 of mean_i −log σ(s l_i)
    s = min(1, ŝ (1 − (2 SE(ŝ) / ŝ)²)₊)

ŝ alone is too large where it is a close call: the same validation pairs chose the restart, the epoch, C or the head,
whose luck on these pairs it takes for signal. So it is shrunk as Breiman's non-negative garrote shrinks a coefficient
("Better subset regression using the nonnegative garrote", 1995): s is 0, no signal, where ŝ is within two standard
errors of 0, and ŝ itself far from there. SE is the sandwich of Huber and White, prompts being clusters.

The loss is convex in s and log 2 at s = 0, and s is at most ŝ: a scaled prediction is never worse on the pairs that
chose s than one that says ½ of every pair. It changes no order and no accuracy, and never makes a prediction surer.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from micropref.heads.evaluation.intervals import standard_error

HALVINGS = 60
"""Of the interval that holds ŝ."""
MOST = 1024.0
"""Where ŝ is not looked for any more: whatever is so timid is left as it is."""
ERRORS = 2.0
"""Standard errors above 0 up to which ŝ is taken for chance."""


def choose_scale(log_odds: torch.Tensor, clusters: torch.Tensor | None = None) -> float:
    """Return the s of validation pairs [N]: 0 where they hold no signal, 1 where all is well.

    `clusters` [N] are their prompts; without, pairs count as independent.
    """
    odds = log_odds.double()
    best = _best(odds)
    if best in (0.0, MOST):
        return min(1.0, best)
    wrong = torch.sigmoid(-best * odds)
    curvature = float((odds.square() * wrong * (1 - wrong)).mean())
    alone = torch.arange(len(odds)) if clusters is None else clusters
    error = float(standard_error((odds * wrong)[:, None], alone)[0]) / curvature if curvature else math.inf
    if not math.isfinite(error):  # one prompt tells nothing of others
        return min(1.0, best)
    return min(1.0, best * max(0.0, 1 - (ERRORS * error / best) ** 2))


def _best(odds: torch.Tensor) -> float:
    """Return ŝ, at most MOST."""

    def slope(scale: float) -> float:
        return -(odds * torch.sigmoid(-scale * odds)).mean().item()

    low, high = 0.0, 1.0
    if slope(low) >= 0:
        return low
    while slope(high) < 0:
        if high >= MOST:
            return MOST
        low, high = high, 2 * high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return low


def scaled_log_probability(log_odds: torch.Tensor, scale: float) -> torch.Tensor:
    """Return log p' [N] in float64: what NLL, probabilities and calibration are of."""
    return F.logsigmoid(scale * log_odds.double())
