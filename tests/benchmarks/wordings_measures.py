"""Figures of `make bench-wordings`: over draws, over wordings, and the paired gain of one recipe over another.

S draws, C contexts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from micropref.heads.evaluation.metrics import correct, nll
from tests.benchmarks.wordings_draws import Draw
from tests.benchmarks.wordings_recipes import Prediction
from tests.benchmarks.wordings_vectors import GROUPS


@dataclass
class Tally:
    """A recipe's figures, draw by draw."""

    accuracy: list[float] = field(default_factory=list)
    """Of each draw."""
    nll: list[float] = field(default_factory=list)
    """Of each draw."""
    validation: list[float] = field(default_factory=list)
    """NLL of each draw's validation pairs, whose wordings are known."""
    without: list[float] = field(default_factory=list)
    """NLL of each draw when every pair gets the mean weights."""
    lost: list[float] = field(default_factory=list)
    """Share of each draw's groups whose accuracy is below one half."""
    right: list[torch.Tensor] = field(default_factory=list)
    """[C] right answers of each draw's wordings, summed,"""
    pairs: list[torch.Tensor] = field(default_factory=list)
    """[C] and how many pairs they are."""

    def add(self, said: Prediction, draw: Draw, contexts: int) -> None:
        """Add a draw."""
        right = correct(said.log_p)
        of_group = [right[draw.test.group == group].mean().item() for group in range(len(GROUPS))]
        self.accuracy.append(right.mean().item())
        self.nll.append(nll(said.log_p))
        self.validation.append(nll(said.validation) if len(said.validation) else float("nan"))
        self.without.append(nll(said.without))
        self.lost.append(sum(one < 0.5 for one in of_group) / len(GROUPS))
        zeros = torch.zeros(contexts, dtype=torch.float64)
        self.right.append(zeros.index_add(0, draw.test.context, right))
        self.pairs.append(torch.bincount(draw.test.context, minlength=contexts).double())

    def row(self) -> dict[str, float]:
        """Return the figures over draws, with an interval of the accuracy over draws and wordings."""
        low, high = interval(torch.stack(self.right), torch.stack(self.pairs))
        return {
            "accuracy": _mean(self.accuracy),
            "low": low,
            "high": high,
            "worst": min(self.accuracy),
            "lost": _mean(self.lost),
            "nll": _mean(self.nll),
            "over mean weights": _mean(self.nll) - _mean(self.without),
            "worst over": max(a - b for a, b in zip(self.nll, self.without, strict=True)),
            "validation": _mean(self.validation),
        }


def gain(one: Tally, other: Tally) -> tuple[float, float, float]:
    """Return the mean gain in accuracy of one recipe over another on the same pairs, with its interval."""
    pairs = torch.stack(one.pairs)
    right = torch.stack(one.right) - torch.stack(other.right)
    low, high = interval(right, pairs)
    return float(right.sum() / pairs.sum()), low, high


def interval(right: torch.Tensor, pairs: torch.Tensor, resamples: int = 1000) -> tuple[float, float]:
    """Return a 95 % interval of Σ right / Σ pairs, both [S, C], from draws and wordings resampled independently."""
    draws, contexts = right.shape
    of_draws = _resampled(draws, 0, resamples)
    of_contexts = _resampled(contexts, 1, resamples)
    sums = ((of_draws @ right) * of_contexts).sum(1)
    counts = ((of_draws @ pairs) * of_contexts).sum(1)
    low, high = torch.quantile(sums / counts, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def _resampled(clusters: int, seed: int, resamples: int) -> torch.Tensor:
    """Return how often each of `clusters` is drawn in bootstrap samples [resamples, clusters] of all of them."""
    drawn = torch.randint(clusters, (resamples, clusters), generator=torch.Generator().manual_seed(seed))
    counts = torch.zeros(resamples, clusters, dtype=torch.float64)
    return counts.scatter_add_(1, drawn, torch.ones_like(counts))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
