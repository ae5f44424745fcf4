"""Comparing methods: a slow loop gives the same figures, and paired differences are tighter than the accuracies."""

import pytest
import torch

from micropref.heads.evaluation.comparison import compare, group_means
from micropref.heads.evaluation.intervals import holm, mean_intervals


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
    found = compare(right, groups, [{"prompts": clusters}] * 3, reference=0)
    for method in range(3):
        assert found.accuracy[method].tolist() == pytest.approx(slow_accuracy(right[method], groups))
    assert torch.allclose(found.difference, found.accuracy - found.accuracy[0])
    assert torch.allclose(group_means(right, groups), found.accuracy)


def test_intervals_are_those_of_each_group_and_of_the_mean_over_groups(answers: tuple[torch.Tensor, ...]) -> None:
    right, groups, clusters = answers
    wordings = clusters % 20
    sides = [{"prompts": clusters}, {"prompts": clusters}, {"prompts": clusters, "wordings": wordings}]
    found = compare(right, groups, sides, reference=0)
    for method in range(3):
        for group in (0, 1, 2, None):
            rows = torch.ones(400, dtype=torch.bool) if group is None else groups == group
            column = 3 if group is None else group
            within = groups if group is None else None
            own = {name: ids[rows] for name, ids in sides[method].items()}
            one = mean_intervals(right[method][rows][:, None], own, "share", within)
            assert found.low[method, column].item() == pytest.approx(one.low[0].item())
            assert found.high[method, column].item() == pytest.approx(one.high[0].item())
            if method:
                gain = (right[method] - right[0])[rows][:, None]
                one = mean_intervals(gain, own, "difference", within)
                assert found.difference_low[method, column].item() == pytest.approx(one.low[0].item())
                assert found.difference_high[method, column].item() == pytest.approx(one.high[0].item())
    assert found.clusters["wordings"] <= 20
    assert found.clusters["prompts"] <= 60


def test_differences_are_paired(answers: tuple[torch.Tensor, ...]) -> None:
    right, groups, clusters = answers
    found = compare(right, groups, [{"prompts": clusters}] * 3, reference=0)
    assert (found.difference_low[0] == 0).all()
    assert (found.difference_high[0] == 0).all()
    assert (found.difference_low[1] >= 0).all()  # never wrong where the reference is right
    assert found.low[1, 3] < found.high[0, 3]  # while the intervals of the two accuracies overlap


def test_p_values_are_adjusted_for_all_methods_but_the_reference(answers: tuple[torch.Tensor, ...]) -> None:
    right, groups, clusters = answers
    found = compare(right, groups, [{"prompts": clusters}] * 3, reference=0)
    alone = [
        mean_intervals((right[method] - right[0])[:, None], {"prompts": clusters}, "difference", groups).p_value[0]
        for method in (1, 2)
    ]
    assert found.p_value == [1.0, *holm([float(value) for value in alone])]
    assert found.p_value[1] < 0.001


def test_a_group_of_one_pair_is_uncertain_by_itself() -> None:
    right = torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    sides = [{"prompts": torch.tensor([0, 1, 2, 3])}]
    found = compare(right, torch.tensor([0, 0, 0, 1]), sides, reference=0)
    assert found.accuracy[0].tolist() == [1.0, 0.0, 0.5]
    assert found.low[0, 0].item() == pytest.approx(3 / (3 + 1.96**2), abs=1e-3)
    assert found.high[0, 1].item() == pytest.approx(1.96**2 / (1 + 1.96**2), abs=1e-3)
    assert found.low[0, 2] < 0.2
    assert found.high[0, 2] > 0.8
