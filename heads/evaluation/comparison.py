"""Methods side by side on the same pairs: accuracies by group, their intervals, differences to a reference.

Letters: M methods, S seeds, N pairs, A groups (attributes).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from micropref.heads.evaluation.intervals import Intervals, Scale, Sides, fewest, holm, mean_intervals


@dataclass(frozen=True, slots=True)
class Comparison:
    """Figures [M, A + 1] of every method on each group, and in the last column on the mean over groups."""

    accuracy: torch.Tensor
    """Share of pairs whose chosen response the method prefers, averaged over seeds."""
    low: torch.Tensor
    """Lower end of the 95 % interval of `accuracy`."""
    high: torch.Tensor
    """Upper end."""
    difference: torch.Tensor
    """`accuracy` less that of the reference."""
    difference_low: torch.Tensor
    """Lower end of the 95 % interval of `difference`, of paired differences."""
    difference_high: torch.Tensor
    """Upper end."""
    p_value: list[float]
    """[M] of no difference in the mean over groups, adjusted for all methods by Holm; 1 for the reference."""
    clusters: dict[str, int]
    """Clusters of each side that the intervals are over, the fewest of any figure."""


def compare(right: torch.Tensor, groups: torch.Tensor, sides: Sequence[Sides], reference: int) -> Comparison:
    """Compare methods by `right` [M, N], each pair's share of seeds that got it right.

    `groups` [N] are numbers from 0 to A − 1; `sides` [M] what pairs may share that makes a method's answers to them
    alike. A difference to the reference is over the method's own sides. Seeds are averaged first, so an interval is
    about new prompts (people, wordings) and not about new seeds.
    """
    right = right.double()
    accuracies = _intervals(right, groups, sides, "share")
    differences = _intervals(right - right[reference], groups, sides, "difference")
    accuracy = _stacked(one.mean for one in accuracies)
    low, high = (_stacked(getattr(one, end) for one in differences) for end in ("low", "high"))
    low[reference] = high[reference] = 0.0
    others = [place for place in range(len(right)) if place != reference]
    p_value = dict(zip(others, holm([float(differences[-1].p_value[place]) for place in others]), strict=True))
    return Comparison(
        accuracy=accuracy,
        low=_stacked(one.low for one in accuracies),
        high=_stacked(one.high for one in accuracies),
        difference=accuracy - accuracy[reference],
        difference_low=low,
        difference_high=high,
        p_value=[p_value.get(place, 1.0) for place in range(len(right))],
        clusters=fewest(accuracies),
    )


def group_means(right: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Return accuracies [S, A + 1] of `right` [S, N] on each group, and their mean in the last column."""
    sizes = torch.bincount(groups).double()
    sums = torch.zeros(len(right), len(sizes), dtype=torch.float64).index_add_(1, groups, right.double())
    means = sums / sizes
    return torch.cat([means, means.mean(1, keepdim=True)], 1)


def _intervals(values: torch.Tensor, groups: torch.Tensor, sides: Sequence[Sides], scale: Scale) -> list[Intervals]:
    """Return intervals of all methods' values [M, N] for each group, and last for the mean over groups."""
    found = [_of_methods(values, sides, scale, groups == number) for number in range(int(groups.max()) + 1)]
    return [*found, _of_methods(values, sides, scale, torch.ones_like(groups, dtype=torch.bool), groups)]


def _of_methods(
    values: torch.Tensor, sides: Sequence[Sides], scale: Scale, rows: torch.Tensor, groups: torch.Tensor | None = None
) -> Intervals:
    """Return intervals [M] on some pairs; methods that have the same sides are counted together."""
    figures = torch.full((5, len(values)), torch.nan, dtype=torch.float64)
    by_sides = {tuple(one): [place for place, other in enumerate(sides) if other.keys() == one.keys()] for one in sides}
    clusters = []
    for places in by_sides.values() if rows.any() else ():
        shared = {name: ids[rows] for name, ids in sides[places[0]].items()}
        one = mean_intervals(values[places][:, rows].T, shared, scale, groups)
        figures[:, places] = torch.stack([one.mean, one.low, one.high, one.error, one.p_value])
        clusters.append(one)
    mean, low, high, error, p_value = figures
    return Intervals(mean, low, high, error, p_value, fewest(clusters))


def _stacked(columns: Iterable[torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(columns), 1)
