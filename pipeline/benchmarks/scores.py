"""What a benchmark comes to: a score for each subset with its interval, sections of subsets, one score for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from micropref.heads.evaluation.intervals import limits, mean_intervals
from micropref.pipeline.benchmarks.items import ScoredItem


@dataclass(frozen=True)
class SubsetScore:
    """The score of one subset."""

    subset: str
    n: int
    """Rows of it."""
    expected: int | None
    """Rows that the published benchmark has of it; None: not known."""
    without_reward: int
    """Rows of it with a response that has no reward; they count as wrong."""
    accuracy: float | None
    """Its score; None where it has no rows, or the rule needs rows that are not there."""
    low: float | None
    """Lower end of the 95 % interval over prompts; None for a score that is no mean over rows."""
    high: float | None


@dataclass(frozen=True)
class BenchmarkScores:
    """The scores of a run on a benchmark."""

    subsets: list[SubsetScore]
    """In the benchmark's order; those without a row too."""
    sections: dict[str, float]
    """Section -> score, those of which a subset is there."""
    figures: dict[str, float] = field(default_factory=dict)
    """Further figures that the benchmark reports, by its own names."""
    overall: float | None = None
    """The one figure that is cited; None where a part of it is not there."""


def subset_score(
    subset: str, items: Sequence[ScoredItem], credited: Sequence[float], expected: int | None = None
) -> SubsetScore:
    """Return the score of a subset: the mean of what each row is credited with, from 0 for wrong to 1 for right."""
    missing = sum(not one.complete for one in items)
    if not items:
        return SubsetScore(subset, 0, expected, 0, None, None, None)
    numbers = {prompt: at for at, prompt in enumerate(dict.fromkeys(one.prompt for one in items))}
    prompts = torch.tensor([numbers[one.prompt] for one in items])
    found = mean_intervals(torch.tensor(credited, dtype=torch.float64)[:, None], {"prompts": prompts}, "share")
    (low,), (high,) = limits(found.low), limits(found.high)
    return SubsetScore(subset, len(items), expected, missing, sum(credited) / len(credited), low, high)


def of_subset(items: Sequence[ScoredItem], subset: str) -> list[ScoredItem]:
    """Return the rows of one subset."""
    return [one for one in items if one.subset == subset]


def mean_of_all(scores: Sequence[float | None]) -> float | None:
    """Return the mean of scores; None where one of them is not there."""
    there = [score for score in scores if score is not None]
    return sum(there) / len(there) if there and len(there) == len(scores) else None
