"""Calibration against scikit-learn's curve, and by hand."""

from __future__ import annotations

import pytest
import torch
from sklearn.calibration import calibration_curve

from micropref.heads.evaluation.calibration import BINS, calibration_bins
from micropref.heads.evaluation.intervals import mean_intervals


def alone(count: int) -> dict[str, torch.Tensor]:
    return {"prompts": torch.arange(count)}


def test_bins_are_those_of_scikit_learns_curve() -> None:
    made = torch.Generator().manual_seed(0)
    chosen = torch.rand(3000, generator=made, dtype=torch.float64)
    found = calibration_bins(chosen.log(), alone(len(chosen)))
    likelier = torch.maximum(chosen, 1 - chosen)
    right = (chosen > 0.5).double()
    # scikit-learn bins [0, 1]: of 20 bins the upper 10 are ours.
    share, mean = calibration_curve(right, likelier, n_bins=2 * BINS)
    assert [one.bin for one in found] == list(range(BINS))
    assert [one.accuracy for one in found] == pytest.approx(share)
    assert [one.mean_probability for one in found] == pytest.approx(mean)
    assert sum(one.n for one in found) == len(chosen)
    rows = (likelier >= 0.55) & (likelier < 0.6)
    expected = mean_intervals(right[rows][:, None], {"prompts": torch.arange(len(chosen))[rows]}, "share")
    assert (found[1].low, found[1].high) == pytest.approx((expected.low.item(), expected.high.item()))


def test_edges_ties_and_bins_without_pairs() -> None:
    chosen = torch.tensor([0.5, 0.5, 0.1, 0.9, 0.9, 0.55, 0.6, 1.0], dtype=torch.float64)
    found = {one.bin: one for one in calibration_bins(chosen.log(), alone(8))}
    assert sorted(found) == [0, 1, 2, 8, 9]
    assert (found[0].n, found[0].accuracy, found[0].mean_probability) == (2, 0.5, 0.5)
    assert (found[8].n, found[8].accuracy) == (3, pytest.approx(2 / 3))
    assert found[8].mean_probability == pytest.approx(0.9)
    assert (found[9].n, found[9].mean_probability, found[9].high) == (1, 1.0, 1.0)
    assert all(0 <= one.low <= one.accuracy <= one.high <= 1 for one in found.values())
