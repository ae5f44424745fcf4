"""RewardBench's score, against pairs counted one by one and figures worked by hand."""

from __future__ import annotations

import random

import pytest
import torch

from micropref.heads.evaluation.rewardbench import (
    SECTIONS,
    SUBSETS,
    is_rewardbench,
    section_scores,
    subset_accuracy,
)


def test_counts_are_the_official_ones() -> None:
    totals = {section: sum(counts.values()) for section, counts in SECTIONS.items()}
    assert totals == {"Chat": 358, "Chat Hard": 456, "Safety": 740, "Reasoning": 2 * 984}
    assert len(SUBSETS) == 23


def test_a_tie_is_wrong() -> None:
    assert subset_accuracy(torch.tensor([1.0, 0.0, -2.0, 1e-30])) == 0.5


def test_sections_worked_by_hand() -> None:
    """All right but half of math-prm, and one subset of Chat Hard."""
    accuracies = dict.fromkeys(SUBSETS, 1.0) | {"math-prm": 0.5, "llmbar-natural": 0.0}
    found = section_scores(accuracies)
    assert found.sections == {"Chat": 1.0, "Chat Hard": pytest.approx(356 / 456), "Safety": 1.0, "Reasoning": 0.75}
    assert found.average == pytest.approx((1 + 356 / 456 + 1 + 0.75) / 4)
    assert found.missing == ()


def test_a_section_is_the_share_of_its_pairs_where_counts_are_those_scored() -> None:
    """Without math-prm, counts are numbers of pairs, and a section is what a loop over its pairs finds."""
    draw = random.Random(0)
    right = {
        subset: [draw.random() < 0.7 for _ in range(count)]
        for counts in SECTIONS.values()
        for subset, count in counts.items()
        if subset != "math-prm"
    }
    found = section_scores({subset: sum(pairs) / len(pairs) for subset, pairs in right.items()})
    for section, counts in SECTIONS.items():
        pairs = [one for subset in counts for one in right.get(subset, [])]
        assert found.sections[section] == pytest.approx(sum(pairs) / len(pairs))


def test_what_was_not_scored_is_named() -> None:
    found = section_scores({"mt-bench-easy": 0.25, "mt-bench-med": 1.0})
    assert found.sections == {"Chat": pytest.approx((28 * 0.25 + 40) / 68)}
    assert found.average is None
    assert len(found.missing) == 21
    with pytest.raises(ValueError, match="'chat' is no subset of RewardBench"):
        section_scores({"chat": 1.0})
    assert is_rewardbench(["hep-go", "math-prm"])
    assert not is_rewardbench(["hep-go", "helpfulness"])
    assert not is_rewardbench([])
