"""The one-standard-error rule and the agreement of restarts, on numbers worked by hand."""

from __future__ import annotations

import pytest
import torch

from micropref.heads.evaluation.selection import (
    Candidate,
    agreeing_share,
    compare_sizes,
    smallest_equivalent,
    smallest_within_one_error,
)


def test_errors_are_over_prompts_and_differences_are_paired() -> None:
    best = torch.tensor([-0.2, -0.4, -0.6, -0.8])
    lost = torch.tensor([0.1, 0.1, 0.3, 0.3])
    prompts = torch.tensor([0, 0, 1, 1])
    small, large = compare_sizes({2: best - lost, 5: best}, prompts)
    assert (small.size, large.size) == (2, 5)
    assert small.nll == pytest.approx(0.7)
    assert large.nll_se == pytest.approx(0.2)  # two prompts with means .3 and .7
    assert small.behind == pytest.approx(0.2)
    assert small.behind_se == pytest.approx(0.1)  # two prompts with means .1 and .3
    assert (large.behind, large.behind_se) == (0, 0)


def test_the_rule_takes_the_smallest_within_the_error_of_the_best() -> None:
    sizes = [Candidate(1, 0.60, 0.03, 0.10, 0.001), Candidate(2, 0.519, 0.01, 0.019, 0.001),
             Candidate(4, 0.50, 0.02, 0.0, 0.0), Candidate(8, 0.501, 0.05, 0.001, 0.01)]  # fmt: skip
    assert smallest_within_one_error(sizes) == 2
    assert smallest_within_one_error(sizes[2:]) == 4
    assert smallest_within_one_error([sizes[0], sizes[2]]) == 4


def test_equivalent_means_within_slack_or_the_paired_error() -> None:
    sizes = [Candidate(64, 0.52, 0.01, 0.02, 0.01), Candidate(128, 0.506, 0.01, 0.006, 0.007),
             Candidate(256, 0.504, 0.01, 0.004, 0.001), Candidate(512, 0.5, 0.01, 0.0, 0.0)]  # fmt: skip
    assert smallest_equivalent(sizes, 0.005) == 128
    assert smallest_equivalent(sizes, 0.03) == 64
    assert smallest_equivalent([sizes[0], *sizes[2:]], 0.005) == 256


def test_restarts_agree_up_to_the_names_of_heads() -> None:
    best = torch.tensor([0, 0, 1, 1, 2, 2, 0, 1, 2, 0])
    renamed = (best + 1) % 3
    other = torch.zeros_like(best)
    assert agreeing_share([best, renamed, other], 3) == 0.5
    assert agreeing_share([best], 3) is None
