"""What a head likes: how its margins go with the difference of a plain feature of the two responses.

N pairs, n of them that differ in the feature, K heads.

Which of two responses is called chosen is no property of theirs, so correlations are around zero and not around means:
    c = Σ m f / √(Σ m² Σ f²)
over the n pairs, m being a head's margin and f the feature's difference: both change sign with the pair's order, and c
does not. Both are signed ranks, sign(x) times the rank of |x|: with margins as they are a noise head of heavy tails
(t with 2 degrees of freedom, 300 pairs, 9 features) gets a claim in 11 of 100 cases if they are cut at their 99th
percentile, and in 5 if they are ranks.

A pair moves c by ψ/n, with ψ = m f/√(b d) − c/2 (m²/b + f²/d), b and d being the means of m² and f². So on Fisher's
scale artanh c the interval is that of the mean of artanh c + ψ/(1 − c²), with what pairs share (`intervals`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from scipy import stats

from micropref.heads.evaluation.intervals import Sides, mean_intervals

LEAST_PAIRS = 30
LEAST_CLUSTERS = 10
MOST = 1 - 1e-9
"""Largest correlation on Fisher's scale, which has none of 1."""


@dataclass(frozen=True, slots=True)
class Correlations:
    """How K heads' margins go with one feature; NaN where too few pairs or clusters differ in it."""

    n: int
    """Pairs that differ in the feature."""
    correlation: torch.Tensor
    """[K]."""
    low: torch.Tensor
    """[K] lower limits of the 95 % intervals."""
    high: torch.Tensor
    p_value: torch.Tensor
    """[K], two-sided, of no correlation."""
    given: torch.Tensor
    """[K] partial correlations, another feature taken out of both; NaN where none was given."""


def signed_ranks(values: torch.Tensor) -> torch.Tensor:
    """Return sign(x) times the rank of |x| among its column, over N, of columns [N, C] or a column [N].

    Equal sizes share the mean of their ranks; 0 stays 0.

    Example:
        >>> signed_ranks(torch.tensor([-3.0, 0.5, 1.0, 0.0])).tolist()
        [-1.0, 0.5, 0.75, 0.0]

    """
    ranks = torch.as_tensor(stats.rankdata(values.abs().numpy(), axis=0))
    return values.sign().double() * ranks / len(values)


def feature_correlations(
    ranks: torch.Tensor,
    feature: torch.Tensor,
    sides: Sides,
    given: torch.Tensor | None = None,
    needed: Iterable[str] = (),
) -> Correlations:
    """Return how margins go with a feature [N], from their signed ranks [N, K] over all pairs.

    `given` are the signed ranks [N] of a feature to take out. Of the sides `needed` the pairs that differ must have at
    least LEAST_CLUSTERS; pairs at least LEAST_PAIRS.
    """
    rows = feature.nonzero()[:, 0]
    shared = {name: ids[rows] for name, ids in sides.items()}
    few = len(rows) < LEAST_PAIRS or any(len(shared[name].unique()) < LEAST_CLUSTERS for name in needed)
    if few:
        unknown = torch.full((5, ranks.shape[1]), torch.nan, dtype=torch.float64)
        return Correlations(len(rows), *unknown)
    margins, own = ranks[rows].double(), signed_ranks(feature[rows])[:, None]
    products, squares, other = margins * own, margins.square(), own.square()
    size = (squares.mean(0) * other.mean(0)).sqrt()
    correlation = (products.mean(0) / size).clamp(-MOST, MOST)
    moved = products / size - correlation / 2 * (squares / squares.mean(0) + other / other.mean(0))
    found = mean_intervals(correlation.atanh() + moved / (1 - correlation.square()), shared)
    out = torch.full_like(correlation, torch.nan)
    if given is not None:
        out = _partial(correlation, around_zero(margins, given[rows][:, None]), around_zero(own, given[rows][:, None]))
    return Correlations(len(rows), correlation, found.low.tanh(), found.high.tanh(), found.p_value, out)


def around_zero(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return Σ a b/√(Σ a² Σ b²) over the columns of [N, C] and [N, C] or [N, 1]; NaN where one of them is all 0."""
    product = (first.double() * second.double()).sum(0)
    return product / (first.double().square().sum(0) * second.double().square().sum(0)).sqrt()


def head_correlations(ranks: torch.Tensor) -> torch.Tensor:
    """Return how alike heads' margins are [K, K], around zero, from their signed ranks [N, K]; NaN for a head of 0s."""
    products = ranks.T @ ranks
    sizes = products.diag().sqrt()
    return products.double() / (sizes[:, None] * sizes)


def _partial(both: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the correlation of two columns with a third taken out, from their own and those with the third."""
    left = (1 - first.square()).clamp_min(0) * (1 - second.square()).clamp_min(0)
    return torch.where(left > 1e-9, (both - first * second) / left.sqrt(), torch.nan).clamp(-1, 1)
