"""How good a prediction is, and how sure one can be of it.

Letters: N pairs, C columns (heads, methods), U clusters (prompts or users), K heads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from scipy.optimize import linear_sum_assignment

TIE = 1e-6
"""Nats from log ½ within which a probability is ½: what float32 leaves of two equal rewards."""
BOOTSTRAP_SEED = 0
"""Seed of the resamples of every reported interval, recorded with the figures."""
RESAMPLES_AT_ONCE = 1 << 22
"""Drawn clusters held in memory at a time."""


def correct(log_probability: torch.Tensor) -> torch.Tensor:
    """Return 1 where P(chosen ≻ rejected) > ½, ½ where it is exactly ½, else 0; any shape.

    A single head's answer is that of the logsigmoid of its margin.
    """
    distance = log_probability + math.log(2)
    return torch.where(distance.abs() <= TIE, 0.5, (distance > 0).double())


def accuracy(log_probability: torch.Tensor) -> float:
    """Return the share of pairs [N] whose chosen response is the more probable one; ties count one half."""
    return correct(log_probability).mean().item()


def nll(log_probability: torch.Tensor) -> float:
    """Return the mean negative log-likelihood of the choices [N], in nats."""
    return -log_probability.double().mean().item()


def cluster_intervals(
    values: torch.Tensor, cluster_ids: torch.Tensor, seed: int, resamples: int = 2000
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return low and high [C] of 95 % bootstrap intervals of the columns' means.

    Values are [N, C], cluster ids [N] any integers. Whole clusters are drawn with replacement and a mean is a
    ratio of sums, so clusters weigh by their pairs. All columns see the same draws: the interval of a
    difference is that of a column of differences.
    """
    sums, sizes = _cluster_sums(values, cluster_ids)
    means = [(counts @ sums) / (counts @ sizes)[:, None] for counts in resampled_counts(len(sizes), seed, resamples)]
    low, high = torch.quantile(torch.cat(means), torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
    return low, high


def resampled_counts(clusters: int, seed: int, resamples: int) -> Iterator[torch.Tensor]:
    """Yield how often each of U clusters is drawn in bootstrap samples [R', U] of all of them, R' a bounded number."""
    generator = torch.Generator().manual_seed(seed)
    for part in torch.split(torch.arange(resamples), max(1, RESAMPLES_AT_ONCE // clusters)):
        drawn = torch.randint(clusters, (len(part), clusters), generator=generator)
        counts = torch.zeros(len(part), clusters, dtype=torch.float64)
        yield counts.scatter_add_(1, drawn, torch.ones_like(counts))


def standard_error(values: torch.Tensor, cluster_ids: torch.Tensor) -> torch.Tensor:
    """Return the standard error [C] of the columns' means of values [N, C] when clusters [N] are independent.

    Linearised ratio of sums, sqrt(U/(U−1) Σ_u (Σ_{i∈u} (v_i − mean))²) / N; infinite for a single cluster.
    """
    sums, sizes = _cluster_sums(values, cluster_ids)
    clusters, pairs = len(sizes), len(values)
    if clusters == 1:
        return torch.full((values.shape[1],), math.inf, dtype=torch.float64)
    residuals = sums - sizes[:, None] * (sums.sum(0) / pairs)
    return (residuals.square().sum(0) * clusters / (clusters - 1)).sqrt() / pairs


def _cluster_sums(values: torch.Tensor, cluster_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the columns' sums [U, C] and the number of pairs [U] of every cluster, in float64."""
    if values.ndim != 2 or len(values) == 0 or cluster_ids.shape != values.shape[:1]:
        raise ValueError(f"values {list(values.shape)} and cluster ids {list(cluster_ids.shape)} are not [N, C], [N]")
    _, cluster = torch.unique(cluster_ids, return_inverse=True)
    sizes = torch.bincount(cluster).double()
    sums = torch.zeros(len(sizes), values.shape[1], dtype=torch.float64)
    return sums.index_add_(0, cluster, values.double()), sizes


def effective_heads(log_weights: torch.Tensor) -> float:
    """Return exp of the entropy of the mean weights, from log-weights [N, K]: 1 to K heads in use."""
    mean = log_weights.double().exp().mean(0)
    return float(torch.special.entr(mean).sum().exp())


def permutation_agreement(first: torch.Tensor, second: torch.Tensor, k: int) -> float:
    """Return the share of pairs on which two assignments [N] to k heads agree, heads renamed at their best."""
    if first.shape != second.shape or len(first) == 0:
        raise ValueError(f"assignments have shapes {list(first.shape)} and {list(second.shape)}, expected one [N]")
    confusion = torch.bincount(first * k + second, minlength=k * k).view(k, k).numpy()
    rows, columns = linear_sum_assignment(confusion, maximize=True)
    return float(confusion[rows, columns].sum()) / len(first)
