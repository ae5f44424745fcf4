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


@pytest.mark.parametrize("sharper", [0.2, 1.3, 2.0, 5.0, 40.0])
def test_it_is_shrunk_from_where_the_loss_is_lowest(sharper: float) -> None:
    """The minimum is scipy's, the sandwich error a sum over prompts by hand."""
    odds = drawn(900, sharper, seed=2)
    prompts = torch.arange(900) // 7 % 60
    bounds = (1e-4 / sharper, 20 / sharper)
    best = minimize_scalar(loss, bounds=bounds, args=(odds.double().numpy(),), options={"xatol": 1e-10}).x
    p = 1 / (1 + np.exp(best * odds.double().numpy()))
    score, curvature = odds.double().numpy() * p, np.mean(odds.double().numpy() ** 2 * p * (1 - p))
    sums = np.array([(score - score.mean())[prompts.numpy() == prompt].sum() for prompt in range(60)])
    error = math.sqrt((sums**2).sum()) / 900 / curvature
    shrunk = best * max(0.0, 1 - (2 * error / best) ** 2)
    assert choose_scale(odds, prompts) == pytest.approx(min(1.0, shrunk), rel=0.01)
    assert 1 / sharper == pytest.approx(best, abs=3 * error)
    if sharper > 1:
        assert nll(scaled_log_probability(odds, choose_scale(odds, prompts))) < nll(scaled_log_probability(odds, 1.0))


def test_a_close_call_is_no_signal_and_prompts_count_as_one() -> None:
    """A mean that is 2.8 standard errors of independent pairs above 0 is 1.4 of prompts whose four pairs agree."""
    once = torch.randn(50, generator=torch.Generator().manual_seed(3))
    once = (once - once.mean()) / once.std() + 1.4 / math.sqrt(50)
    odds, prompts = 0.1 * once.repeat_interleave(4), torch.arange(50).repeat_interleave(4)
    assert choose_scale(odds, prompts) == 0
    assert choose_scale(odds) > 0
    assert choose_scale(odds, torch.zeros(200, dtype=torch.int64)) == 1  # one prompt has no standard error


def test_what_selection_makes_of_noise_is_mostly_thrown_away() -> None:
    """The best of 50 predictions without signal, by validation: its scaled NLL on other pairs stays near a coin's."""
    generator = torch.Generator().manual_seed(0)
    shrunk, naive = [], []
    for _ in range(60):
        validation, test = (0.3 * torch.randn(50, 400, generator=generator) for _ in range(2))
        best = int(validation.mean(1).argmax())
        shrunk.append(nll(scaled_log_probability(test[best], choose_scale(validation[best]))))
        naive.append(nll(scaled_log_probability(test[best], 1.0)))
    assert np.mean(naive) > math.log(2) + 0.01
    assert np.mean(shrunk) < math.log(2) + 0.35 * (np.mean(naive) - math.log(2))


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
