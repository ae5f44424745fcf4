"""Metrics against slow loops and numbers worked by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from micropref.heads.evaluation.metrics import (
    accuracy,
    correct,
    effective_heads,
    nll,
    permutation_agreement,
)
from micropref.heads.mixture import pair_log_probability


def test_exactly_one_half_counts_one_half() -> None:
    margins = torch.tensor([[0.0, 0.0, 0.0], [1e-4, 0.0, 0.0], [-1e-4, 0.0, 0.0]])
    log_weights = torch.log_softmax(torch.tensor([0.3, -2.0, 1.1]), 0).expand(3, 3)
    log_p = pair_log_probability(margins, log_weights)
    assert correct(log_p).tolist() == [0.5, 1.0, 0.0]
    assert accuracy(log_p) == 0.5
    assert correct(F.logsigmoid(torch.tensor([[0.0, 2.0], [-0.1, -30.0]]))).tolist() == [[0.5, 1.0], [0.0, 0.0]]


def test_nll_by_hand() -> None:
    assert nll(torch.tensor([0.5, 0.25]).log()) == pytest.approx(1.5 * math.log(2))


def test_effective_heads() -> None:
    one_hot = torch.eye(4)[[0, 1, 0, 1]].clamp_min(1e-30).log()
    assert effective_heads(one_hot) == pytest.approx(2.0)
    assert effective_heads(torch.zeros(3, 5) - math.log(5)) == pytest.approx(5.0)


def test_permutation_agreement_equals_trying_all_permutations() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randint(4, (2, 60), generator=generator)
    best = max((torch.tensor(p)[a] == b).double().mean().item() for p in itertools.permutations(range(4)))
    assert permutation_agreement(a, b, 4) == pytest.approx(best)
    assert permutation_agreement(a, (a + 1) % 4, 4) == 1.0


def test_wrong_shapes_raise() -> None:
    with pytest.raises(ValueError, match="expected"):
        permutation_agreement(torch.zeros(2), torch.zeros(3), 2)
