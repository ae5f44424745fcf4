"""Methods side by side on the same pairs: accuracies by group, their intervals, differences to a reference.

Letters: M methods, S seeds, N pairs, A groups (attributes), U clusters (prompts), R resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from micropref.heads.evaluation.metrics import resampled_counts


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
    """Lower end of the 95 % interval of `difference`, paired: both methods see the same resampled clusters."""
    difference_high: torch.Tensor
    """Upper end."""


def compare(
    right: torch.Tensor, groups: torch.Tensor, clusters: torch.Tensor, reference: int, seed: int, resamples: int = 2000
) -> Comparison:
    """Compare methods by `right` [M, N], each pair's share of seeds that got it right.

    `groups` [N] are numbers from 0 to A − 1, `clusters` [N] any integers. Whole clusters are drawn with replacement,
    the same for all methods and groups; seeds are averaged inside a cluster first, so an interval is about new
    prompts and not about new seeds. A group that a resample misses is left out of its mean over groups.
    """
    sums, sizes = _sums(right.double(), groups, clusters)
    accuracy = _accuracies(torch.ones(1, len(sizes), dtype=torch.float64), sums, sizes)[0]
    resampled = torch.cat(
        [_accuracies(counts, sums, sizes) for counts in resampled_counts(len(sizes), seed, resamples)]
    )
    low, high = _interval(resampled)
    difference_low, difference_high = _interval(resampled - resampled[:, reference : reference + 1])
    return Comparison(accuracy, low, high, accuracy - accuracy[reference], difference_low, difference_high)


def group_means(right: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Return accuracies [S, A + 1] of `right` [S, N] on each group, and their mean in the last column."""
    sizes = torch.bincount(groups).double()
    sums = torch.zeros(len(right), len(sizes), dtype=torch.float64).index_add_(1, groups, right.double())
    means = sums / sizes
    return torch.cat([means, means.mean(1, keepdim=True)], 1)


def _sums(right: torch.Tensor, groups: torch.Tensor, clusters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return sums of `right` [U, M, A] and counts of pairs [U, A] in every cluster and group."""
    _, cluster = torch.unique(clusters, return_inverse=True)
    total, kinds = int(cluster.max()) + 1, int(groups.max()) + 1
    cell = cluster * kinds + groups
    sizes = torch.bincount(cell, minlength=total * kinds).double().view(total, kinds)
    sums = torch.zeros(total * kinds, len(right), dtype=torch.float64).index_add_(0, cell, right.T)
    return sums.view(total, kinds, -1).transpose(1, 2), sizes


def _accuracies(counts: torch.Tensor, sums: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """Return accuracies [R, M, A + 1] where cluster u is drawn `counts` [R, U] times."""
    clusters, methods, kinds = sums.shape
    found = (counts @ sums.reshape(clusters, methods * kinds)).view(-1, methods, kinds)
    means = found / (counts @ sizes)[:, None]
    return torch.cat([means, means.nanmean(2, keepdim=True)], 2)


def _interval(resampled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    low, high = torch.nanquantile(resampled, torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
    return low, high
