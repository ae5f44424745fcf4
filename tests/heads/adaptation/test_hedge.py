"""Hedge against a worked example, a float64 loop, the optimisation problem it solves, and Bayes' rule."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from micropref.heads.adaptation.hedge import head_losses, hedge, hedge_contexts


def random_problem(seed: int, pairs: int = 12, heads: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    log_weights = torch.log_softmax(torch.randn(pairs, heads, generator=generator, dtype=torch.float64), 1)
    return log_weights, head_losses(3 * torch.randn(pairs, heads, generator=generator, dtype=torch.float64))


def test_an_example_worked_by_hand() -> None:
    # w = (1/2, 1/4, 1/4), losses (ln 2, 0, ln 4): weights (1/4, 1/4, 1/16), that is (4, 4, 1) / 9.
    weights = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    losses = torch.tensor([math.log(2), 0, math.log(4)], dtype=torch.float64)
    assert hedge(weights.log(), losses, 1.0).exp().tolist() == pytest.approx([4 / 9, 4 / 9, 1 / 9])
    # At τ = 1/2 losses count twice: (1/8, 1/4, 1/64), that is (8, 16, 1) / 25.
    assert hedge(weights.log(), losses, 0.5).exp().tolist() == pytest.approx([8 / 25, 16 / 25, 1 / 25])


def test_contexts_worked_by_hand() -> None:
    # Context 7 has pairs with weights (1/2, 1/2) and (1/8, 7/8): geometric mean (1, √7) / 4, losses sum to (ln 3, 0).
    log_weights = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.125, 0.875]], dtype=torch.float64).log()
    losses = torch.tensor([[math.log(3), 0], [0, math.log(9)], [0, 0]], dtype=torch.float64)
    found = hedge_contexts(log_weights, losses, torch.tensor([7, 2, 7]), 1.0).exp()
    first = (1 / 3) / (1 / 3 + math.sqrt(7))
    assert found[0].tolist() == found[2].tolist() == pytest.approx([first, 1 - first])
    assert found[1].tolist() == pytest.approx([0.9 / (0.9 + 0.1 / 9), 0.1 / 9 / (0.9 + 0.1 / 9)])


@pytest.mark.parametrize("tau", [0.2, 1.0, 7.0])
@pytest.mark.parametrize("seed", range(3))
def test_both_equal_a_loop(seed: int, tau: float) -> None:
    log_weights, losses = random_problem(seed)
    context = torch.tensor([4, 1, 1, 9, 4, 4, 1, 9, 9, 9, 4, 1])
    found = (
        hedge(log_weights.float(), losses.float(), tau).exp(),
        hedge_contexts(log_weights, losses, context, tau).exp(),
    )
    for i, number in enumerate(context):
        raw = [math.exp(log_weights[i, k]) * math.exp(-losses[i, k] / tau) for k in range(4)]
        assert found[0][i].tolist() == pytest.approx([value / sum(raw) for value in raw], rel=1e-4)
        same = [j for j in range(12) if context[j] == number]
        raw = [
            math.exp(sum(float(log_weights[j, k]) for j in same) / len(same))
            * math.exp(-sum(float(losses[j, k]) for j in same) / tau)
            for k in range(4)
        ]
        assert found[1][i].tolist() == pytest.approx([value / sum(raw) for value in raw], rel=1e-9)


@pytest.mark.parametrize("tau", [0.3, 1.0, 4.0])
def test_it_is_the_minimum_of_equation_5(tau: float) -> None:
    log_weights, losses = (part[0].numpy() for part in random_problem(5))

    def objective(logits: np.ndarray) -> float:
        weights = np.exp(logits) / np.exp(logits).sum()
        return float(weights @ losses + tau * weights @ (np.log(weights) - log_weights))

    best = minimize(objective, np.zeros(4), tol=1e-14)
    weights = np.exp(best.x) / np.exp(best.x).sum()
    found = hedge(torch.from_numpy(log_weights), torch.from_numpy(losses), tau).exp()
    assert found.tolist() == pytest.approx(weights.tolist(), abs=1e-5)


def test_at_temperature_1_it_is_bayes_and_from_uniform_weights_hyre() -> None:
    _, losses = random_problem(1)
    uniform = torch.full((12, 4), -math.log(4), dtype=torch.float64)
    likelihood = [math.prod(math.exp(-float(losses[i, k])) for i in range(12)) for k in range(4)]
    posterior = pytest.approx([value / sum(likelihood) for value in likelihood])
    assert torch.softmax(-losses.sum(0), 0).tolist() == posterior
    assert hedge(uniform[0], losses.sum(0), 1.0).exp().tolist() == posterior
    together = hedge_contexts(uniform, losses, torch.zeros(12), 1.0).exp()
    assert together[3].tolist() == posterior
    one_by_one = uniform[0]
    for loss in losses:
        one_by_one = hedge(one_by_one, loss, 1.0)
    assert one_by_one.exp().tolist() == posterior


def test_extreme_losses_and_temperatures_stay_finite() -> None:
    losses = head_losses(torch.tensor([[800.0, -800.0], [-800.0, -801.0]]))
    found = hedge(torch.zeros(2, 2), losses, 1e-3)
    assert torch.isfinite(found.exp()).all()
    assert found.exp().tolist() == [[1, 0], [1, 0]]
    assert hedge(torch.log_softmax(torch.tensor([1.0, 2.0]), 0), losses, math.inf).exp().sum().item() == pytest.approx(
        2
    )
