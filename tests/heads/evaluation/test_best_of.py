"""The value of the best of n responses, against every draw there is."""

from __future__ import annotations

import itertools

import pytest
import torch

from micropref.heads.evaluation.best_of import best_of_values, divergence


@pytest.mark.parametrize("ties", [False, True])
def test_the_mean_over_every_draw(ties: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    chooser, other = torch.rand(2, 7, generator=generator, dtype=torch.float64)
    if ties:
        chooser = (chooser * 3).round()
    found = best_of_values(chooser, other, [1, 2, 5, 7])
    for row, size in enumerate((1, 2, 5, 7)):
        best = [max(draw, key=lambda at: (float(chooser[at]), -at)) for draw in itertools.combinations(range(7), size)]
        assert found[row].tolist() == pytest.approx([float(chooser[best].mean()), float(other[best].mean())])


@pytest.mark.parametrize("size", [0, 3])
def test_a_size_out_of_range(size: int) -> None:
    with pytest.raises(ValueError, match="expected 1 to 2"):
        best_of_values(torch.zeros(2), torch.zeros(2), [size])


def test_the_divergence_of_one_and_of_two() -> None:
    assert divergence(1) == 0
    assert divergence(2) == pytest.approx(0.1931, abs=1e-4)
