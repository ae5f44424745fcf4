"""Re-fitting a router: against a plain loop, on planted contexts, and what must not change."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from micropref.cache.errors import BadInput
from micropref.heads.adaptation.hedge import head_losses, hedge
from micropref.heads.adaptation.router_refit import (
    TAUS,
    Budget,
    RouteSetting,
    choose_tau,
    fresh_router,
    refit_router,
    refit_routers,
)
from micropref.heads.adaptation.whitening import REACH, SHRINKAGE, whitening
from micropref.heads.mixture import Router

WIDTH, HEADS, GROUPS = 24, 3, 3


def random_router(seed: int = 0, hidden: int = 16) -> Router:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) / math.sqrt(shape[-1])

    if hidden == 0:
        return Router(None, None, normal(HEADS, WIDTH), normal(HEADS))
    return Router(normal(hidden, WIDTH), normal(hidden), normal(HEADS, hidden), normal(HEADS))


def planted(seed: int, pairs: int, spread: float = 5.0, margin: float = 2.0) -> Budget:
    """Head k is right about group k and a coin elsewhere; inputs are mostly prompt, a little context."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randn(GROUPS, WIDTH, generator=torch.Generator().manual_seed(99))
    stretch = torch.logspace(0, -2, WIDTH) * spread
    group = torch.arange(pairs) % GROUPS
    alone = torch.randn(pairs, WIDTH, generator=generator) * stretch
    margins = torch.randn(pairs, HEADS, generator=generator)
    margins[torch.arange(pairs), group] = margin
    router = alone + words[group]
    stage1 = torch.log_softmax(random_router().logits(alone), 1)
    return Budget(head_losses(margins), router, alone, stage1, group, torch.arange(pairs) // 2)


def mean_nll(router: Router, budget: Budget) -> float:
    return -torch.logsumexp(torch.log_softmax(router.logits(budget.router), 1) - budget.losses, 1).mean().item()


def test_whitening_is_the_dense_inverse_square_root() -> None:
    budget = planted(0, 40)
    white = whitening(budget.alone, budget.router)
    prompts = budget.alone.double()
    covariance = torch.cov(prompts.T, correction=0)
    floor = SHRINKAGE * covariance.trace() / WIDTH
    values, vectors = torch.linalg.eigh(covariance + floor * torch.eye(WIDTH))
    dense = (budget.router.double() - budget.router.double().mean(0)) @ (vectors * values.rsqrt()) @ vectors.T
    expected = dense / dense.square().mean().sqrt() * REACH / WIDTH
    assert torch.allclose(white.inputs(budget.router), expected, atol=1e-9)


@pytest.mark.parametrize("hidden", [0, 16])
@pytest.mark.parametrize("prompts", [1, 5, 60])
def test_whitened_coordinates_change_no_answer(hidden: int, prompts: int) -> None:
    budget, router = planted(1, 60), random_router(hidden=hidden)
    white = whitening(budget.alone[:prompts], budget.router)
    inside = white.into(router)
    expected = router.logits(budget.router)
    assert torch.allclose(inside.logits(white.inputs(budget.router)).float(), expected, atol=1e-4)
    assert torch.allclose(white.out_of(inside).to(torch.float32).logits(budget.router), expected, atol=1e-4)


@pytest.mark.parametrize("target", ["context", "example"])
@pytest.mark.parametrize("anchor", ["previous", "stage1"])
@pytest.mark.parametrize("hidden", [0, 16])
def test_it_is_algorithm_1_step_by_step(target: Any, anchor: Any, hidden: int) -> None:
    budget, start = planted(2, 45), random_router(hidden=hidden)
    setting = RouteSetting(target, anchor, epochs=3, batch=20, lr=3e-3, seed=4)
    found = refit_router(start, budget, setting, 2.0)
    white = whitening(budget.alone, budget.router)
    inside, inputs = white.into(start), white.inputs(budget.router)
    weights = [part.clone().requires_grad_() for part in inside.parts().values()]

    def logits(rows: torch.Tensor) -> torch.Tensor:
        if hidden == 0:
            return F.linear(inputs[rows], weights[0], weights[1])
        return F.linear(F.relu(F.linear(inputs[rows], weights[0], weights[1])), weights[2], weights[3])

    optimizer = torch.optim.Adam(weights, lr=3e-3)
    generator = torch.Generator().manual_seed(4)
    everything = torch.arange(45)
    for _ in range(3):
        with torch.no_grad():
            before = torch.log_softmax(logits(everything), 1) if anchor == "previous" else budget.stage1.double()
            labels = torch.empty(45, HEADS, dtype=torch.float64)
            for i in range(45):
                same = everything[budget.group == budget.group[i]] if target == "context" else everything[i : i + 1]
                labels[i] = hedge(before[same].mean(0), budget.losses[same].double().sum(0), 2.0).exp()
        order = torch.randperm(45, generator=generator)
        for start_row in range(0, 45, 20):
            rows = order[start_row : start_row + 20]
            loss = F.cross_entropy(logits(rows), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    expected = logits(everything).detach().float()
    assert torch.allclose(found.logits(budget.router), expected, atol=2e-3)
    assert not torch.allclose(start.logits(budget.router), expected, atol=0.05)


def test_routers_fitted_together_are_those_fitted_alone() -> None:
    budget, start = planted(3, 50), random_router()
    together = refit_routers(start, budget, RouteSetting(), [0.5, math.inf, 5.0])
    for router, tau in zip(together, [0.5, math.inf, 5.0], strict=True):
        alone = refit_router(start, budget, RouteSetting(), tau)
        assert torch.allclose(router.logits(budget.router), alone.logits(budget.router), atol=1e-4)
    assert together[1] is start


def test_a_planted_budget_teaches_the_contexts() -> None:
    start, test = random_router(), planted(11, 600)
    setting = RouteSetting()
    budget = planted(10, 150)
    tau, scores = choose_tau(start, budget, setting)
    routed = refit_router(start, budget, setting, tau)
    assert scores[tau] == min(scores.values())
    assert set(scores) == set(TAUS)
    favourites = routed.logits(test.router).argmax(1)
    assert (favourites == test.group).double().mean() > 0.9
    ceiling = mean_nll(Router(None, None, torch.zeros(HEADS, WIDTH), torch.zeros(HEADS)), test)
    assert mean_nll(routed, test) < min(mean_nll(start, test), ceiling) - 0.2


def test_tau_is_chosen_by_what_was_held_out() -> None:
    # Heads that know nothing: the best labels are those that move least, whatever the training fit says.
    budget = planted(5, 60, margin=0.0)
    noise = replace(budget, losses=head_losses(4 * torch.randn(60, HEADS, generator=torch.Generator().manual_seed(1))))
    uniform = fresh_router(torch.zeros(HEADS), budget.router, 16, 0)
    tau, _ = choose_tau(uniform, noise, RouteSetting(target="example", anchor="stage1", lr=3e-3), (0.01, math.inf))
    assert math.isinf(tau)
    fitted = refit_router(uniform, noise, RouteSetting(target="example", anchor="stage1", lr=3e-3, epochs=200), 0.01)
    assert mean_nll(fitted, noise) < mean_nll(uniform, noise)


def test_a_fresh_router_gives_every_input_the_weights_it_was_given() -> None:
    budget, log_weights = planted(6, 60), torch.log_softmax(torch.tensor([1.0, 0.0, -2.0]), 0)
    router = fresh_router(log_weights, budget.router, 128, seed=3)
    assert torch.allclose(torch.log_softmax(router.logits(budget.router), 1), log_weights.expand(60, 3), atol=1e-6)
    routed = refit_router(router, budget, RouteSetting(), 3.0)
    assert (routed.logits(budget.router).argmax(1) == budget.group).double().mean() > 0.8


def test_nothing_handed_in_is_changed_and_the_same_call_gives_the_same_router() -> None:
    budget, start = planted(7, 40), random_router()
    before = {name: part.clone() for name, part in start.parts().items()}
    first, second = (refit_router(start, budget, RouteSetting(), 1.0) for _ in range(2))
    assert all(torch.equal(part, before[name]) for name, part in start.parts().items())
    assert all(torch.equal(part, second.parts()[name]) for name, part in first.parts().items())
    assert not any(part.requires_grad for part in first.parts().values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "pair"}, "target is 'pair': expected one of context, example"),
        ({"anchor": "none"}, "anchor is 'none'"),
        ({"epochs": 0}, "epochs is 0"),
        ({"batch": 0}, "batch is 0"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"lr": math.nan}, "lr is nan"),
    ],
)
def test_bad_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        RouteSetting(**options)


def test_one_prompt_leaves_none_to_choose_tau_by() -> None:
    budget = replace(planted(8, 6), prompt=torch.zeros(6))
    with pytest.raises(BadInput, match="give `tau`"):
        choose_tau(random_router(), budget, RouteSetting())
