"""The scale of log-odds against a fine grid and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from micropref.heads.evaluation.metrics import nll
from micropref.heads.evaluation.scale import choose_scale, scaled_log_probability
from micropref.heads.methods.base import Scores


def loss(scale: float, odds: np.ndarray) -> float:
    return float(np.logaddexp(0, -scale * odds).mean())


def drawn(pairs: int, sharper: float, seed: int = 0) -> torch.Tensor:
    """Return log-odds that are `sharper` times the true ones, of pairs chosen by the true ones."""
    generator = torch.Generator().manual_seed(seed)
    true = torch.randn(pairs, generator=generator)
    chosen = torch.rand(pairs, generator=generator) < torch.sigmoid(true)
    return sharper * torch.where(chosen, true, -true)


@pytest.mark.parametrize("sharper", [1.3, 2.0, 5.0, 40.0])
def test_it_is_where_the_loss_is_lowest(sharper: float) -> None:
    odds = drawn(3000, sharper)
    found = choose_scale(odds)
    grid = min(np.linspace(0, 1, 4001), key=lambda scale: loss(scale, odds.double().numpy()))
    low, high = max(grid - 1e-3, 0), min(grid + 1e-3, 1)
    fine = minimize_scalar(loss, bounds=(low, high), args=(odds.double().numpy(),), options={"xatol": 1e-10})
    assert found == pytest.approx(fine.x, abs=1e-5)
    assert found == pytest.approx(1 / sharper, rel=0.15)
    assert nll(scaled_log_probability(odds, found)) < nll(scaled_log_probability(odds, 1.0))


def test_noise_has_none_and_then_every_pair_is_a_coin() -> None:
    noise = torch.randn(2000, generator=torch.Generator().manual_seed(1))
    against = noise - noise.mean() - 0.01
    assert choose_scale(against) == 0
    assert nll(scaled_log_probability(against, 0.0)) == math.log(2)
    assert choose_scale(torch.zeros(5)) == 0


def test_what_is_right_or_too_timid_stays_as_it_is() -> None:
    assert choose_scale(drawn(20_000, 1.0)) == pytest.approx(1, abs=0.05)
    assert choose_scale(drawn(3000, 0.5)) == 1
    assert choose_scale(torch.tensor([3.0, 900.0])) == 1


def test_it_is_never_worse_than_a_coin() -> None:
    for seed in range(200):
        odds = 30 * torch.randn(7, generator=torch.Generator().manual_seed(seed))
        assert nll(scaled_log_probability(odds, choose_scale(odds))) <= math.log(2)


@pytest.mark.parametrize("combine", ["probability", "linear"])
def test_log_odds_are_those_of_the_pair_probability(combine: str) -> None:
    scores = Scores(torch.tensor([[2.0, -1.0], [90.0, 80.0]]).double(), torch.tensor([0.25, 0.75]).log(), combine)  # type: ignore[arg-type]
    odds = scores.log_odds()
    p = 0.25 / (1 + math.exp(-2)) + 0.75 / (1 + math.e) if combine == "probability" else 1 / (1 + math.exp(0.25))
    assert float(odds[0]) == pytest.approx(math.log(p / (1 - p)), abs=1e-6)
    assert 80 < float(odds[1]) < 90  # where 1 − p rounds to 0
    torch.testing.assert_close(torch.nn.functional.logsigmoid(odds), scores.log_probability(), atol=1e-6, rtol=0)
