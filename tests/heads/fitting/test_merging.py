"""Merged restarts: the mean of matched heads and routers, and the best alone where restarts disagree."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from micropref.heads.fitting.fit import fit, mean_nll
from micropref.heads.fitting.merging import MERGED, mean_mixture, merge_restarts
from micropref.heads.fitting.settings import FitPlan, FitSetting, Fitted
from micropref.heads.mixture import Mixture, Router
from tests.support.populations import GROUPS, Planted, plant

K, WIDTH, UNITS = 3, 6, 4


def mixture(seed: int, hidden: bool = True) -> Mixture:
    made = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=made)

    if hidden:
        return Mixture(normal(K, WIDTH), Router(normal(UNITS, WIDTH), normal(UNITS), normal(K, UNITS), normal(K)))
    return Mixture(normal(K, WIDTH), Router(None, None, normal(K, WIDTH), normal(K)))


@pytest.mark.parametrize("hidden", [True, False])
def test_the_mean_has_the_mean_margins_and_the_mean_logits(hidden: bool) -> None:
    mixtures = [mixture(seed, hidden) for seed in range(3)]
    orders = [torch.tensor(order) for order in ([0, 1, 2], [2, 0, 1], [1, 0, 2])]
    found = mean_mixture(mixtures, orders)
    rows = torch.randn(20, WIDTH, generator=torch.Generator().manual_seed(9))
    margins = sum(one.margins(rows)[:, order] for one, order in zip(mixtures, orders, strict=True)) / 3
    logits = (
        sum(one.router.logits(rows)[:, order] for one, order in zip(mixtures, orders, strict=True) if one.router) / 3
    )
    assert found.router is not None
    torch.testing.assert_close(found.margins(rows), margins)
    torch.testing.assert_close(found.router.logits(rows), logits)


def test_static_and_uniform_mixtures_stay_what_they_are() -> None:
    logits = torch.tensor([[0.2, 0.3, 0.5], [0.5, 0.2, 0.3]]).log()
    mixtures = [Mixture(torch.full((K, WIDTH), float(at)), static=logits[at]) for at in range(2)]
    found = mean_mixture(mixtures, [torch.arange(K), torch.tensor([1, 2, 0])])
    assert found.static is not None
    assert found.static.exp().tolist() == pytest.approx([0.2, 0.3, 0.5], abs=1e-6)
    assert found.heads.unique().tolist() == [0.5]
    assert mean_mixture([Mixture(one.heads) for one in mixtures], [torch.arange(K)] * 2).static is None


@pytest.fixture(scope="module")
def population() -> Planted:
    return plant(2000, 2000, 48, 1)


@pytest.fixture(scope="module")
def restarts(population: Planted) -> list[Fitted]:
    """Return the true mixture six times, each with errors of its own and its heads in another order."""
    plan = FitPlan(epochs=1, dtype="float32")
    form = fit(population.fit, population.validation, [FitSetting("mixture", GROUPS, hidden=0)], plan)[0]
    truth, made = population.truth, torch.Generator().manual_seed(3)
    assert truth.router is not None

    def near(part: torch.Tensor) -> torch.Tensor:
        return part + 0.7 * part.std() * torch.randn(part.shape, generator=made)

    found = []
    for _ in range(6):
        order = torch.randperm(GROUPS, generator=made)
        router = replace(truth.router, v2=near(truth.router.v2)[order])
        one = Mixture(near(truth.heads)[order], router)
        found.append(replace(form, mixture=one, validation_nll=mean_nll(one, population.validation)))
    return found


def test_a_mixture_merged_with_itself_in_other_orders_says_the_same(
    population: Planted, restarts: list[Fitted]
) -> None:
    one = restarts[0].mixture
    assert one.router is not None
    copies = []
    for seed in range(3):
        order = torch.randperm(GROUPS, generator=torch.Generator().manual_seed(seed))
        router = replace(one.router, v2=one.router.v2[order], b2=one.router.b2[order])
        copies.append(replace(restarts[0], mixture=Mixture(one.heads[order], router)))
    clusters = torch.arange(population.validation.pairs)
    merged, count = merge_restarts(copies, population.validation, clusters)
    assert count == 3
    test = population.test
    torch.testing.assert_close(
        merged.log_probability(test.delta, test.router), one.log_probability(test.delta, test.router)
    )


def test_merged_restarts_predict_new_contexts_better_than_the_best_of_them(
    population: Planted, restarts: list[Fitted]
) -> None:
    clusters = torch.arange(population.validation.pairs)
    merged, count = merge_restarts(restarts, population.validation, clusters)
    best = min(restarts, key=lambda one: one.validation_nll).mixture
    assert count == MERGED
    assert merged.k == GROUPS
    assert mean_nll(merged, population.test) < mean_nll(best, population.test) - 0.02


def test_the_best_stays_where_the_mean_is_worse_on_validation(population: Planted, restarts: list[Fitted]) -> None:
    best = min(restarts, key=lambda one: one.validation_nll)
    opposite = replace(
        best, mixture=replace(best.mixture, heads=-3 * best.mixture.heads), validation_nll=best.validation_nll + 1
    )
    found, count = merge_restarts([opposite, best], population.validation, torch.arange(population.validation.pairs))
    assert count == 1
    assert torch.equal(found.heads, best.mixture.heads)


def test_one_restart_and_one_head_are_returned_as_they_are(population: Planted, restarts: list[Fitted]) -> None:
    clusters = torch.arange(population.validation.pairs)
    assert merge_restarts(restarts[:1], population.validation, clusters) == (restarts[0].mixture, 1)


def test_weights_without_a_context_are_the_mean_of_matched_ones() -> None:
    logits = torch.tensor([[0.2, 0.3, 0.5], [0.5, 0.2, 0.3]]).log()
    mixtures = [replace(mixture(seed), no_context=logits[seed]) for seed in range(2)]
    found = mean_mixture(mixtures, [torch.arange(K), torch.tensor([1, 2, 0])])
    assert found.no_context is not None
    assert found.no_context.exp().tolist() == pytest.approx([0.2, 0.3, 0.5], abs=1e-6)
