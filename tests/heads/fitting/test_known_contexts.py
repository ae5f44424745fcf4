"""Contexts that resemble fitted ones, by hand-worked distances."""

from __future__ import annotations

import math

import pytest
import torch

from micropref.heads.fitting.known_contexts import MOST, known_contexts


def at(*degrees: float) -> torch.Tensor:
    """Vectors in a plane, of several lengths."""
    return torch.tensor([[math.cos(math.radians(one)), math.sin(math.radians(one))] for one in degrees])


def test_as_near_as_fitted_contexts_have_one_among_the_others() -> None:
    known = known_contexts(at(0, 10, 20, 30) * torch.tensor([[1.0], [2.0], [0.5], [3.0]]))
    assert known is not None
    assert known.threshold == pytest.approx(1 - math.cos(math.radians(10)), abs=1e-5)
    assert known.knows(5 * at(-9, 5, 39, 45, 90, 180)).tolist() == [True, True, True, False, False, False]


def test_one_context_far_from_the_others_does_not_widen_it() -> None:
    known = known_contexts(at(*range(0, 100, 2), 180))
    assert known is not None
    assert known.knows(at(99, 103, 140, 181)).tolist() == [True, False, False, True]


def test_two_contexts_say_nothing_and_many_are_sampled() -> None:
    assert known_contexts(at(0, 10)) is None
    many = torch.randn(MOST + 500, 8, generator=torch.Generator().manual_seed(1))
    known = known_contexts(many)
    assert known is not None
    assert len(known.vectors) == MOST
    assert known.knows(many).double().mean() > 0.94
    again = known_contexts(many)
    assert again is not None
    assert torch.equal(again.vectors, known.vectors)
