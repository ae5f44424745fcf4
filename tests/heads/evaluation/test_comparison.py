"""Comparing methods: a slow loop gives the same figures, and paired differences are tighter than the accuracies."""

import pytest
import torch

from micropref.heads.evaluation.comparison import compare, group_means


@pytest.fixture
def answers() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return right [3, 400], groups and clusters [400]; the second method is right wherever the first one is."""
    generator = torch.Generator().manual_seed(3)
    clusters = torch.randint(60, (400,), generator=generator)
    groups = torch.randint(3, (400,), generator=generator)
    first = (torch.rand(400, generator=generator) < 0.6).double()
    second = torch.maximum(first, (torch.rand(400, generator=generator) < 0.2).double())
    third = torch.randint(0, 3, (400,), generator=generator).double() / 2
    return torch.stack([first, second, third]), groups, clusters


def slow_accuracy(right: torch.Tensor, groups: torch.Tensor) -> list[float]:
    means = []
    for group in range(int(groups.max()) + 1):
        own = [float(value) for value, kind in zip(right, groups, strict=True) if kind == group]
        means.append(sum(own) / len(own))
    return [*means, sum(means) / len(means)]


def test_accuracies_and_differences_equal_a_slow_loop(answers: tuple[torch.Tensor, ...]) -> None:
    right, groups, clusters = answers
    found = compare(right, groups, clusters, reference=0, seed=0)
    for method in range(3):
        assert found.accuracy[method].tolist() == pytest.approx(slow_accuracy(right[method], groups))
    assert torch.allclose(found.difference, found.accuracy - found.accuracy[0])
    assert torch.allclose(group_means(right, groups), found.accuracy)


def test_intervals_equal_those_of_resampling_clusters_one_by_one(answers: tuple[torch.Tensor, ...]) -> None:
    right, groups, clusters = answers
    found = compare(right, groups, clusters, reference=0, seed=0, resamples=4000)
    generator = torch.Generator().manual_seed(99)
    names = clusters.unique()
    drawn = []
    for _ in range(400):
        sample = names[torch.randint(len(names), (len(names),), generator=generator)]
        rows = torch.cat([(clusters == name).nonzero().flatten() for name in sample])
        one, two = (slow_accuracy(right[method][rows], groups[rows]) for method in (0, 1))
        drawn.append([one[0], one[3], two[3] - one[3]])
    ends = torch.quantile(torch.tensor(drawn), torch.tensor([0.025, 0.975]), dim=0)
    mine = torch.stack(
        [
            torch.stack([low[0, 0], low[0, 3], difference[1, 3]])
            for low, difference in ((found.low, found.difference_low), (found.high, found.difference_high))
        ]
    )
    assert torch.allclose(mine.float(), ends, atol=0.02)


def test_differences_are_paired(answers: tuple[torch.Tensor, ...]) -> None:
    right, groups, clusters = answers
    found = compare(right, groups, clusters, reference=0, seed=0)
    assert (found.difference_low[0] == 0).all()
    assert (found.difference_high[0] == 0).all()
    assert (found.difference_low[1] >= 0).all()  # never wrong where the reference is right
    assert found.low[1, 3] < found.high[0, 3]  # while the intervals of the two accuracies overlap


def test_a_group_in_few_clusters_may_be_missed_by_a_resample() -> None:
    right = torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    found = compare(right, torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 2, 3]), reference=0, seed=0)
    assert found.accuracy[0].tolist() == [1.0, 0.0, 0.5]
    assert found.low[0].tolist() == [1.0, 0.0, 0.5]
    assert found.high[0].tolist() == [1.0, 0.0, 1.0]  # only the first group was drawn
