"""Choosing among fitted models by held-out pairs: the smallest that the best does not beat by more than chance.

Letters: N pairs, R restarts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from micropref.heads.evaluation.intervals import standard_error
from micropref.heads.evaluation.metrics import nll, permutation_agreement

SAME = 0.8
"""Share of pairs on which two restarts have the same favourite head, heads renamed, for them to agree."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """The best model of one size compared with the best of all sizes."""

    size: int
    """K, or a width."""
    nll: float
    """Nats per held-out pair."""
    nll_se: float
    """Standard error of `nll`."""
    behind: float
    """Nats per pair lost against the best of all sizes."""
    behind_se: float
    """Standard error of `behind`, from paired differences: what makes pairs hard or easy cancels."""


def compare_sizes(log_probability: Mapping[int, torch.Tensor], clusters: torch.Tensor) -> list[Candidate]:
    """Return a candidate for each size, ascending, from the log-probabilities [N] of its best model.

    Errors are over clusters (prompts) [N].
    """
    best = max(log_probability.values(), key=lambda one: one.double().mean().item())
    found = []
    for size in sorted(log_probability):
        own = log_probability[size].double()
        lost = best.double() - own
        own_se, lost_se = standard_error(torch.stack([own, lost], 1), clusters).tolist()
        found.append(Candidate(size, nll(own), own_se, lost.mean().item(), lost_se))
    return found


def smallest_within_one_error(candidates: Sequence[Candidate]) -> int:
    """Return the smallest size whose NLL is within one standard error of the best one's NLL.

    The error is that of the best NLL, not of the paired difference: the latter is so small that heads which only
    sharpen a group's probabilities, by a thousandth of a nat and with certainty, would count as groups.
    """
    allowed = next(one.nll_se for one in candidates if one.behind == 0)
    return min(one.size for one in candidates if one.behind <= allowed)


def smallest_equivalent(candidates: Sequence[Candidate], slack: float) -> int:
    """Return the smallest size that loses at most `slack` nats to the best, or no more than chance may explain."""
    return min(one.size for one in candidates if one.behind <= max(slack, one.behind_se))


def agreeing_share(favourites: Sequence[torch.Tensor], k: int) -> float | None:
    """Return the share of the other restarts that agree with the first, the best, from favourite heads [N] of each.

    None for a single restart. One head always agrees.
    """
    best, *others = favourites
    if not others:
        return None
    return sum(permutation_agreement(best, other, k) >= SAME for other in others) / len(others)
