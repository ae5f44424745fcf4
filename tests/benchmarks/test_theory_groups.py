"""Theorem 3.2: its four statements on simulated groups, and its quantities against loops over the definition."""

from __future__ import annotations

import math

import pytest
import torch

from tests.benchmarks.theory_groups import (
    Fitted,
    Floors,
    Groups,
    draw_groups,
    expected_cross_entropy,
    fit_models,
    floors,
)

SHARES = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
CLOSE = 0.01


def random_groups(diversity: float, pairs: int = 4000, width: int = 4, seed: int = 0) -> tuple[Groups, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return draw_groups(SHARES, width, diversity, 3.0, generator), torch.randn(pairs, width, generator=generator)


@pytest.fixture(scope="module", params=[0.0, 0.4, 1.0])
def measured(request: pytest.FixtureRequest) -> tuple[Floors, Fitted, float]:
    groups, new_pairs = random_groups(request.param)
    fitted = fit_models(groups, 8000, new_pairs, torch.Generator().manual_seed(1))
    return floors(groups.probability(new_pairs), SHARES), fitted, request.param


def test_statement_1_no_prediction_that_ignores_the_group_is_below_the_bound() -> None:
    groups, delta = random_groups(0.7, pairs=500)
    p = groups.probability(delta)
    below = floors(p, SHARES)
    for q in torch.linspace(1e-6, 1 - 1e-6, 1001, dtype=torch.float64):
        loss = expected_cross_entropy(p, q.log(), (1 - q).log()) @ SHARES
        assert (loss >= below.bound - 1e-12).all()
        assert (loss >= below.marginal - 1e-12).all()


def test_statements_1_and_2_hold_for_fitted_models_on_every_pair(measured: tuple[Floors, Fitted, float]) -> None:
    below, fitted, _ = measured
    for loss in (fitted.single, fitted.blind):
        assert (loss >= below.bound - 1e-6).all()
        assert (loss >= below.marginal - 1e-6).all()


def test_statement_3_a_group_blind_mixture_comes_down_to_h_marg(measured: tuple[Floors, Fitted, float]) -> None:
    below, fitted, diversity = measured
    assert fitted.blind.mean() - below.marginal.mean() < CLOSE
    assert fitted.blind.mean() <= fitted.single.mean() + CLOSE / 10
    if diversity == 1:
        assert fitted.single.mean() - below.marginal.mean() > CLOSE


def test_statement_4_only_heads_that_know_the_group_come_down_to_h_known(
    measured: tuple[Floors, Fitted, float],
) -> None:
    below, fitted, diversity = measured
    assert 0 <= fitted.knowing.mean() - below.known.mean() < CLOSE
    if diversity > 0:
        assert fitted.knowing.mean() + 5 * CLOSE < min(fitted.blind.mean(), below.bound.mean())


def test_the_chain_of_floors_holds_and_is_tight_where_it_should_be() -> None:
    for diversity in (0.2, 0.6, 1.0):
        groups, delta = random_groups(diversity, pairs=3000)
        below = floors(groups.probability(delta), SHARES)
        assert (below.known <= below.bound).all()
        assert (below.bound <= below.marginal + 1e-12).all()
    agreed = floors(torch.full((5, 3), 0.8, dtype=torch.float64), SHARES)
    assert torch.allclose(agreed.known, agreed.marginal)
    near_half = floors(torch.tensor([[0.51, 0.49, 0.5]], dtype=torch.float64), SHARES)
    gap, slack = near_half.marginal - near_half.known, near_half.marginal - near_half.bound
    assert slack < 1e-3 * gap


def test_floors_equal_a_loop_over_the_definition() -> None:
    groups, delta = random_groups(0.5, pairs=20)
    p, share = groups.probability(delta), [0.5, 0.3, 0.2]
    below = floors(p, SHARES)
    for i in range(20):
        row = p[i].tolist()
        mean = sum(w * value for w, value in zip(share, row, strict=True))
        known = sum(w * entropy(value) for w, value in zip(share, row, strict=True))
        variance = sum(w * (value - mean) ** 2 for w, value in zip(share, row, strict=True))
        information = sum(w * divergence(value, mean) for w, value in zip(share, row, strict=True))
        assert below.known[i].item() == pytest.approx(known, abs=1e-7)
        assert below.bound[i].item() == pytest.approx(known + 2 * variance, abs=1e-7)
        assert below.marginal[i].item() == pytest.approx(known + information, abs=1e-7)


def entropy(p: float) -> float:
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def divergence(p: float, q: float) -> float:
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def test_people_choose_as_their_groups_do() -> None:
    groups, _ = random_groups(1.0)
    delta = torch.randn(4, generator=torch.Generator().manual_seed(3)).expand(60_000, 4)
    group, chosen = groups.choose(delta, torch.Generator().manual_seed(4))
    p = groups.probability(delta[:1])[0]
    for number, share in enumerate(SHARES.tolist()):
        own = group == number
        assert own.double().mean().item() == pytest.approx(share, abs=0.01)
        kept = (chosen[own] == delta[own]).all(1).double().mean().item()
        assert kept == pytest.approx(p[number].item(), abs=0.02)


@pytest.mark.parametrize("diversity", [0.0, 0.3, 1.0])
def test_diversity_changes_agreement_and_not_sharpness(diversity: float) -> None:
    cosines = []
    for seed in range(60):
        groups, _ = random_groups(diversity, pairs=1, width=64, seed=seed)
        assert groups.tastes.norm(dim=1).tolist() == pytest.approx([3.0] * 3, rel=1e-5)
        cosines.append(torch.cosine_similarity(groups.tastes[0], groups.tastes[1], dim=0).item())
    assert sum(cosines) / 60 == pytest.approx(1 - diversity, abs=0.06)
