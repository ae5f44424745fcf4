"""One number that keeps a fitted prediction from being surer than validation pairs allow.

Letters: N pairs; l_i log-odds of the pair probability, log p_i − log(1 − p_i).

    p' = σ(s l),    s = argmin over [0, 1] of mean_i −log σ(s l_i)
The loss is convex in s and log 2 at s = 0, so a scaled prediction is never worse on the pairs that chose s than one
that says ½ of every pair. It changes no order and no accuracy, and never makes a prediction surer.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F  # noqa: N812 - the field's name for it

HALVINGS = 50
"""Of the interval that holds s."""


def choose_scale(log_odds: torch.Tensor) -> float:
    """Return the s of the lowest NLL on validation pairs [N]: 0 where they hold no signal, 1 where all is well."""
    odds = log_odds.double()

    def slope(scale: float) -> float:
        return -(odds * torch.sigmoid(-scale * odds)).mean().item()

    low, high = 0.0, 1.0
    if slope(low) >= 0:
        return low
    if slope(high) <= 0:
        return high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return low


def scaled_log_probability(log_odds: torch.Tensor, scale: float) -> torch.Tensor:
    """Return log p' [N] in float64: what NLL, probabilities and calibration are of."""
    return F.logsigmoid(scale * log_odds.double())
