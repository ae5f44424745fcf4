"""Planted groups come back: held-out loss and routing against the truth that made the choices."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
import torch

from heads.fit import FitPlan, FitSetting, Fitted, PairTensors, fit, mean_nll
from heads.metrics import permutation_agreement, restart_agreement
from heads.mixture import Mixture, Router

PAIRS, HELD_OUT, K, WIDTH, SIGNAL = 24_000, 4_000, 4, 384, 32
NOISE = 0.1
"""Standard deviation in every direction of the width, where that of a signal direction is about 1."""
KINDS = 16
"""Contexts gather around so many centres,"""
WORDING = 0.5
"""each this far, in standard deviations of the centres, from its own."""
SHARPNESS = 6.0
"""Spread of the true router's logits: a context's likeliest group has weight .88 on average."""
STRENGTH = 3.0
"""Standard deviation of every true margin: a group's own reward is right about 84 % of its choices."""


@dataclass(frozen=True)
class Planted:
    """Pairs drawn from a known mixture, and that mixture."""

    fit: PairTensors
    validation: PairTensors
    test: PairTensors
    truth: Mixture


def plant(seed: int) -> Planted:
    """K groups with their own rewards; which one chooses depends on the context through a linear router.

    Differences and contexts each lie in a random SIGNAL-dimensional subspace of the width, plus NOISE.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    def spread(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        basis = torch.linalg.qr(normal(WIDTH, SIGNAL)).Q
        return rows @ basis.T + NOISE * normal(len(rows), WIDTH), basis

    pairs = PAIRS + HELD_OUT
    delta, reward_basis = spread(normal(pairs, SIGNAL))
    kind = torch.randint(KINDS, (pairs,), generator=generator)
    context, context_basis = spread(normal(KINDS, SIGNAL)[kind] + WORDING * normal(pairs, SIGNAL))
    heads = STRENGTH * torch.nn.functional.normalize(normal(K, SIGNAL)) @ reward_basis.T
    router = SHARPNESS * torch.linalg.qr(normal(SIGNAL, K)).Q.T @ context_basis.T
    truth = Mixture(heads, Router(None, None, router, torch.zeros(K)))
    group = torch.multinomial(truth.log_weights(context, pairs).exp(), 1, generator=generator)
    margin = truth.margins(delta).gather(1, group).squeeze(1)
    prefers = torch.rand(pairs, generator=generator) < torch.sigmoid(margin)
    delta *= (2 * prefers.float() - 1)[:, None]
    edges = [0, PAIRS * 9 // 10, PAIRS, pairs]
    parts = [PairTensors(delta[a:b], context[a:b]) for a, b in itertools.pairwise(edges)]
    return Planted(*parts, truth)


def favourite(mixture: Mixture, pairs: PairTensors) -> torch.Tensor:
    """The head with the largest weight, per pair."""
    return mixture.log_weights(pairs.router, len(pairs.delta)).argmax(1)


def by_loss(fitted: Fitted) -> float:
    """What restarts are chosen by."""
    return fitted.validation_nll


@pytest.fixture(scope="module")
def planted() -> Planted:
    return plant(seed=0)


def test_the_best_of_eight_restarts_finds_the_planted_groups(planted: Planted) -> None:
    settings = [FitSetting("mixture", K, lam=0.03, seed=seed) for seed in range(8)] + [FitSetting("single", 1)]
    *mixtures, single = fit(planted.fit, planted.validation, settings, FitPlan(device="cpu"))
    best = min(mixtures, key=by_loss)
    found = mean_nll(best.mixture, planted.test)
    assert found < mean_nll(planted.truth, planted.test) + 0.03
    assert mean_nll(single.mixture, planted.test) > found + 0.1
    agreement = permutation_agreement(favourite(planted.truth, planted.test), favourite(best.mixture, planted.test), K)
    assert agreement >= 0.9
    good = [favourite(fitted.mixture, planted.test) for fitted in sorted(mixtures, key=by_loss)[:3]]
    assert restart_agreement(good, K) >= 0.85
