"""95 % intervals of means of pairs that share people, prompts or wordings: clustered both ways, with t limits.

N pairs, C columns, A groups whose means are averaged.

Pairs of one person are alike, and so are pairs of one prompt. With V_people the variance if only pairs of one person
were alike, V_prompts the same for prompts and V_both for pairs that share both,
    V = V_people + V_prompts − V_both            (Cameron, Gelbach and Miller 2011)
and so on for three sides, by inclusion and exclusion. A side each of whose clusters lies in one cluster of another
side adds nothing and is dropped. Limits are those of t, its degrees of freedom Satterthwaite's for a sum of variances.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from scipy import special

from micropref.heads.evaluation.cluster_variance import ClusterVariance, Residuals, cluster_variance

RULE = "two-way t"
"""How intervals are made, recorded with the figures."""
LEVEL = 0.95
Z = 1.959963984540054
"""The normal quantile of LEVEL."""
Scale = Literal["share", "difference", "free"]
"""What a column's values are: shares within [0, 1], differences of shares within [-1, 1], or any numbers."""
Sides = Mapping[str, torch.Tensor]
"""What pairs may share → number of it [N]: users, prompts, wordings."""


@dataclass(frozen=True, slots=True)
class Intervals:
    """Means of columns [C] and how sure they are."""

    mean: torch.Tensor
    low: torch.Tensor
    """Lower limit; infinite where a column of no bounds has one cluster."""
    high: torch.Tensor
    error: torch.Tensor
    """Standard error; infinite for one cluster."""
    p_value: torch.Tensor
    """Two-sided, of the hypothesis that the mean is 0."""
    clusters: dict[str, int]
    """Clusters of each side that the intervals are over, and of those that have a single one."""


def fewest(found: Iterable[Intervals]) -> dict[str, int]:
    """Return how many clusters each side has where it has the fewest."""
    least: dict[str, int] = {}
    for one in found:
        for name, count in one.clusters.items():
            least[name] = min(count, least.get(name, count))
    return least


def limits(found: torch.Tensor) -> list[float | None]:
    """Return limits as tables have them, None where there is none."""
    return [limit if math.isfinite(limit) else None for limit in found.tolist()]


def mean_intervals(
    values: torch.Tensor, sides: Sides, scale: Scale = "free", groups: torch.Tensor | None = None
) -> Intervals:
    """Return 95 % intervals of the means of values [N, C]; with `groups` [N], of the means over groups of their means.

    Clusters weigh by their pairs. Columns without variance have Wilson's interval for as many independent pairs as the
    side with the fewest has clusters, unequal ones counting for less.
    """
    _check(values, sides, groups)
    with _one_thread():
        return _mean_intervals(values.double(), sides, scale, groups)


def _mean_intervals(values: torch.Tensor, sides: Sides, scale: Scale, groups: torch.Tensor | None) -> Intervals:
    mean, residuals = _residuals(values, groups)
    clusters = {name: _numbered(ids) for name, ids in sides.items()}
    kept = independent_sides(clusters)
    variance, freedom = _combined(residuals, [clusters[name] for name in kept])
    error = variance.sqrt() / len(values)
    margin = torch.as_tensor(special.stdtrit(freedom.numpy(), (1 + LEVEL) / 2)) * error
    p_value = 2 * torch.as_tensor(special.stdtr(freedom.numpy(), -(mean / error).abs().numpy()))
    low, high = mean - margin, mean + margin
    least, most = residuals.weighed.aminmax(dim=0)
    constant = torch.maximum(-least, most) <= 1e-12
    if scale != "free":
        alone = constant | error.isinf() | (error <= 1e-9)
        size = effective_size(residuals, list(clusters.values()))
        wilson_low, wilson_high, wilson_p = _wilson(mean, size, scale)
        low, high = torch.where(alone, wilson_low, low), torch.where(alone, wilson_high, high)
        p_value = torch.where(alone, wilson_p, p_value)
        bound = 0.0 if scale == "share" else -1.0
        low, high = low.clamp(bound, 1.0), high.clamp(bound, 1.0)
    counted = {name: _count(ids) for name, ids in clusters.items() if name in kept or _count(ids) == 1}
    return Intervals(mean, low, high, error, p_value, counted)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: there are thousands of small steps, and where cores are shared each waits for the others.

    On two busy cores two threads took 20 times as long as one, on idle ones as long.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def independent_sides(clusters: Sides) -> list[str]:
    """Return the names of the sides of two clusters or more that lie in no other side; else that with the most."""
    kept = [name for name, ids in clusters.items() if _count(ids) > 1]
    for name in list(kept):
        others = (clusters[other] for other in kept if other != name)
        if any(_lies_in(clusters[name], other) for other in others):
            kept.remove(name)
    return kept or [max(clusters, key=lambda name: _count(clusters[name]))]


def effective_size(residuals: Residuals, clusters: list[torch.Tensor]) -> float:
    """Return for how many independent pairs the pairs stand if those of a cluster are copies, by the worst side."""
    weights = residuals.weights[residuals.group]
    totals = (torch.bincount(ids, weights=weights) for ids in clusters)
    return min(float(total.sum().square() / total.square().sum()) for total in totals)


def standard_error(values: torch.Tensor, cluster_ids: torch.Tensor) -> torch.Tensor:
    """Return the standard error [C] of the columns' means of values [N, C] when clusters [N] are independent."""
    return mean_intervals(values, {"clusters": cluster_ids}).error


def holm(p_values: list[float]) -> list[float]:
    """Return p-values adjusted for their number: those at most 5 % are all true with 95 % confidence (Holm 1979)."""
    adjusted, worst = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        worst = max(worst, (len(p_values) - place) * p_values[index])
        adjusted[index] = min(1.0, worst)
    return adjusted


def _residuals(values: torch.Tensor, groups: torch.Tensor | None) -> tuple[torch.Tensor, Residuals]:
    group = torch.zeros(len(values), dtype=torch.int64) if groups is None else _numbered(groups)
    sizes = torch.bincount(group).double()
    sums = torch.zeros(len(sizes), values.shape[1], dtype=torch.float64).index_add_(0, group, values)
    means = sums / sizes[:, None]
    if len(sizes) == 1:  # all weights are 1, and no copies are needed of what pairs have in common
        return means[0], Residuals(values - means[0], group, sizes)
    found = Residuals(values - means[group], group, sizes)
    return means.mean(0), Residuals(found.weighed * found.weights[group][:, None], group, sizes)


def _combined(residuals: Residuals, sides: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return N² times the variances [C] and their degrees of freedom; infinite variances for one cluster."""
    columns = residuals.weighed.shape[1]
    if _count(sides[0]) == 1:
        return torch.full((columns,), torch.inf, dtype=torch.float64), torch.ones(columns, dtype=torch.float64)
    alone = [cluster_variance(residuals, ids) for ids in sides]
    variance = torch.stack([one.variance for one in alone]).sum(0)
    for many in range(2, len(sides) + 1):
        for several in itertools.combinations(sides, many):
            shared = several[0]
            for ids in several[1:]:
                shared = _crossed(shared, ids)
            variance = variance + (-1) ** (many + 1) * cluster_variance(residuals, shared).variance
    return _positive(variance, alone)


def _positive(variance: torch.Tensor, alone: list[ClusterVariance]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return variances and degrees of freedom; of the largest side alone where the sum is negative."""
    variances, freedoms = torch.stack([one.variance for one in alone]), torch.stack([one.freedom for one in alone])
    largest, place = variances.max(0)
    freedom = variance.square() / (variances.square() / freedoms).sum(0)
    negative = variance <= 0
    own = freedoms.gather(0, place[None])[0]
    return torch.where(negative, largest, variance), torch.where(negative, own, freedom).nan_to_num(1.0).clamp_min(1.0)


def _wilson(mean: torch.Tensor, size: float, scale: Scale) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return Wilson's limits of means, and p-values of 0, for so many independent pairs."""
    share = mean if scale == "share" else (mean + 1) / 2
    middle = (share + Z**2 / (2 * size)) / (1 + Z**2 / size)
    half = Z / (1 + Z**2 / size) * (share * (1 - share) / size + Z**2 / (4 * size**2)).clamp_min(0).sqrt()
    low, high = middle - half, middle + half
    if scale == "difference":
        # Pairs that all agree are a share of differing ones of 0, whose Wilson limit bounds the difference either way.
        agree, most = mean == 0, Z**2 / (size + Z**2)
        low, high = torch.where(agree, -most, 2 * low - 1), torch.where(agree, most, 2 * high - 1)
    p_value: torch.Tensor = torch.special.erfc(mean.abs() * (size / 2) ** 0.5)
    return low, high, p_value


def _numbered(ids: torch.Tensor) -> torch.Tensor:
    """Return ids [N] as numbers from 0 without gaps, in their order."""
    low, high = (int(end) for end in ids.aminmax())
    if low >= 0 and high < 4 * len(ids):  # counting is ten times as fast as sorting
        return ((torch.bincount(ids) > 0).cumsum(0) - 1)[ids]
    numbers: torch.Tensor = torch.unique(ids, return_inverse=True)[1]
    return numbers


def _crossed(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return _numbered(first * _count(second) + second)


def _lies_in(inner: torch.Tensor, outer: torch.Tensor) -> bool:
    """Say whether all pairs of each inner cluster [N] are in one outer cluster [N]."""
    one = torch.zeros(_count(inner), dtype=torch.int64)
    one[inner] = outer  # that of any of its pairs
    return bool((one[inner] == outer).all())


def _count(ids: torch.Tensor) -> int:
    return int(ids.max()) + 1


def _check(values: torch.Tensor, sides: Sides, groups: torch.Tensor | None) -> None:
    others = [*sides.values(), *([] if groups is None else [groups])]
    if values.ndim != 2 or len(values) == 0 or not sides or any(ids.shape != values.shape[:1] for ids in others):
        shapes = [list(ids.shape) for ids in others]
        raise ValueError(f"values {list(values.shape)} and cluster ids {shapes} are not [N, C], [N]")
