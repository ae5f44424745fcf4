"""Predictions with the unit known and unknown, and what they are made of."""

from __future__ import annotations

import math

import pytest
import torch

from micropref.heads.adaptation.diagnosis import DiagnosisPlan, predict_units
from micropref.heads.adaptation.few_shot import GRIDS
from micropref.heads.fitting.fit import FitPlan, FitSetting, PairTensors, fit

PLAN = DiagnosisPlan(k=2, restarts=2, device="cpu")
WIDTH, UNITS = 6, 30


def pairs(count: int, seed: int, tastes: int) -> PairTensors:
    """Return pairs of units whose taste is one of so many opposite ones."""
    generator = torch.Generator().manual_seed(seed)
    delta = torch.randn(count, WIDTH, generator=generator)
    units = torch.arange(count) % UNITS
    sign = torch.where(units % tastes == 0, 1.0, -1.0)
    likes = torch.rand(count, generator=generator) < torch.sigmoid(3 * sign * delta[:, 0])
    return PairTensors(delta * (2 * likes.float() - 1)[:, None], None, units)


@pytest.mark.parametrize("tastes", [1, 2])
def test_knowing_the_unit_is_worth_something_where_there_are_groups(tastes: int) -> None:
    parts = [pairs(count, seed, tastes) for seed, count in enumerate((600, 150, 600))]
    found = predict_units(*parts, (1, 4), PLAN)
    gains = found.gains.mean(0)
    if tastes == 2:
        assert (gains > 0.2).all()
        assert found.beta > 0
        four, one, none = (float(part.mean()) for part in (found.by_count[4], found.by_count[1], found.nobody))
        assert float(found.unit.mean()) > four > one > none
    else:
        assert abs(float(gains[2])) < 0.01


def test_predictions_are_those_of_a_loop_over_the_same_fit() -> None:
    parts = [pairs(count, seed, 2) for seed, count in enumerate((240, 60, 40))]
    found = predict_units(*parts, (), PLAN)
    (single,) = fit(parts[0], parts[1], [FitSetting("single", 1)], FitPlan(solver="scikit-learn"))
    settings = [FitSetting("static", 2, seed=seed, latent="user") for seed in range(2)]
    candidates = fit(parts[0], parts[1], settings, FitPlan(epochs=1000, device="cpu"))
    mixture = min(candidates, key=lambda one: one.validation_nll).mixture
    prior = mixture.log_weights(None, 1)[0].exp().tolist()

    def right(delta: torch.Tensor) -> list[float]:
        return [1 / (1 + math.exp(-float(head @ delta))) for head in mixture.heads]

    def known(delta: torch.Tensor, unit: int) -> float:
        weights = list(prior)
        for other, whose in zip(parts[0].delta, parts[0].units.tolist(), strict=True):  # type: ignore[union-attr]
            if whose == unit:
                weights = [w * p**found.beta for w, p in zip(weights, right(other), strict=True)]
        return math.log(sum(w * p for w, p in zip(weights, right(delta), strict=True)) / sum(weights))

    assert found.beta in GRIDS["tempered"]
    for row, (delta, unit) in enumerate(zip(parts[2].delta, parts[2].units.tolist(), strict=True)):  # type: ignore[union-attr]
        # Units have eight pairs each here, so their neighbours by number are as good as any.
        others = [unit + step if unit + step < UNITS else unit - step for step in (1, 2, 3)]
        taken = sum(known(delta, other) for other in others) / 3
        cold = sum(w * p for w, p in zip(prior, right(delta), strict=True))
        alone = 1 / (1 + math.exp(-float(single.mixture.heads[0] @ delta)))
        assert float(found.unit[row]) == pytest.approx(known(delta, unit), abs=1e-4)
        assert float(found.other_unit[row]) == pytest.approx(taken, abs=1e-4)
        assert float(found.nobody[row]) == pytest.approx(math.log(cold), abs=1e-4)
        assert float(found.single[row]) == pytest.approx(math.log(alone), abs=1e-4)


def test_one_unit_has_no_other() -> None:
    parts = [PairTensors(one.delta, None, one.units * 0) for one in (pairs(40, seed, 1) for seed in range(3))]  # type: ignore[operator]
    with pytest.raises(ValueError, match="1 units: expected two or more"):
        predict_units(*parts, (), PLAN)
