"""Re-fitting a router: against a plain loop, on planted contexts, and what must not change."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy.optimize import minimize
from torch.nn import functional as F

from micropref.cache.errors import BadInput
from micropref.heads.adaptation.hedge import head_losses, hedge
from micropref.heads.adaptation.router_refit import TAUS, choose_tau, fresh_router, refit_router, refit_routers
from micropref.heads.adaptation.router_ridge import corrected, ridge_rounds
from micropref.heads.adaptation.routing_budget import Budget, RouteSetting
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
    wording = torch.arange(pairs) % (4 * GROUPS)
    return Budget(head_losses(margins), router, alone, stage1, group, torch.arange(pairs) // 2, wording)


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
def test_adam_is_algorithm_1_step_by_step(target: Any, anchor: Any, hidden: int) -> None:
    budget, start = planted(2, 45), random_router(hidden=hidden)
    setting = RouteSetting(target, anchor, epochs=3, solver="adam", batch=20, lr=3e-3, seed=4)
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


@pytest.mark.parametrize("solver", ["ridge", "adam"])
def test_routers_fitted_together_are_those_fitted_alone(solver: Any) -> None:
    budget, start, setting = planted(3, 50), random_router(), RouteSetting(solver=solver)
    together = refit_routers(start, budget, setting, [0.5, math.inf, 5.0])
    for router, tau in zip(together, [0.5, math.inf, 5.0], strict=True):
        alone = refit_router(start, budget, setting, tau)
        assert torch.allclose(router.logits(budget.router), alone.logits(budget.router), atol=1e-4)
    assert together[1] is start


@pytest.mark.parametrize("solver", ["ridge", "adam"])
def test_a_planted_budget_teaches_the_contexts(solver: Any) -> None:
    start, test = random_router(), planted(11, 600)
    setting = RouteSetting(solver=solver)
    budget = planted(10, 150)
    tau, scores = choose_tau(start, budget, setting)
    routed = refit_router(start, budget, setting, tau)
    assert tau in scores
    assert set(scores) == set(TAUS)
    favourites = routed.logits(test.router).argmax(1)
    assert (favourites == test.group).double().mean() > 0.9
    ceiling = mean_nll(Router(None, None, torch.zeros(HEADS, WIDTH), torch.zeros(HEADS)), test)
    assert mean_nll(routed, test) < min(mean_nll(start, test), ceiling) - 0.2


def ridge_by_scipy(start: Router, budget: Budget, tau: float, ridge: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return V [K, D'] and b [K] in the coordinates of z, one set of labels from stage 1's weights, by L-BFGS."""
    z = dense_inputs(budget)
    labels = torch.empty(len(budget), HEADS, dtype=torch.float64)
    for i in range(len(budget)):
        same = budget.group == budget.group[i]
        labels[i] = hedge(budget.stage1[same].double().mean(0), budget.losses[same].double().sum(0), tau).exp()
    own = start.to(torch.float64).logits(budget.router)

    def loss(flat: Any) -> tuple[float, Any]:
        found = torch.tensor(flat).view(HEADS, WIDTH + 1).requires_grad_()
        value = (
            F.cross_entropy(own + z @ found[:, :-1].T + found[:, -1], labels) + ridge / 2 * found[:, :-1].square().sum()
        )
        value.backward()  # type: ignore[no-untyped-call]
        assert found.grad is not None
        return value.item(), found.grad.flatten().numpy()

    found = minimize(loss, torch.zeros(HEADS * (WIDTH + 1)).double().numpy(), jac=True, options={"gtol": 1e-9})
    flat = torch.tensor(found.x).view(HEADS, WIDTH + 1)
    return flat[:, :-1], flat[:, -1]


def dense_inputs(budget: Budget) -> torch.Tensor:
    """Return the centred, whitened inputs [N, D'], of mean square length 1."""
    prompts = budget.alone.double()
    covariance = torch.cov(prompts.T, correction=0)
    floor = SHRINKAGE * covariance.trace() / WIDTH
    values, vectors = torch.linalg.eigh(covariance + (floor or 1.0) * torch.eye(WIDTH))
    z = (budget.router.double() - budget.router.double().mean(0)) @ (vectors * values.rsqrt()) @ vectors.T
    return z / z.square().sum(1).mean().sqrt()


@pytest.mark.parametrize("hidden", [0, 16])
@pytest.mark.parametrize("alone", [True, False])
def test_the_ridge_is_the_optimum_that_scipy_finds(hidden: int, alone: bool) -> None:
    budget, start = planted(2, 45), random_router(hidden=hidden)
    if not alone:  # contexts read by themselves: pairs share inputs, and nothing varies with the prompt
        words = torch.randn(4 * GROUPS, WIDTH, generator=torch.Generator().manual_seed(5))
        budget = replace(budget, router=words[budget.wording], alone=torch.zeros(45, WIDTH))
    setting = RouteSetting(anchor="stage1", epochs=1)
    *_, (found,) = ridge_rounds(start, budget, setting, [2.0], ridge=0.03, steps=3000)
    v, b = ridge_by_scipy(start, budget, 2.0, 0.03)
    expected = start.logits(budget.router).double() + dense_inputs(budget) @ v.T + b
    difference = found.logits(budget.router).double() - expected
    # A shift that all heads share says nothing.
    assert (difference - difference.mean(1, keepdim=True)).abs().max() < 2e-3


def test_rounds_of_the_ridge_take_their_labels_from_the_router_before() -> None:
    budget, start = planted(2, 45), random_router()
    *_, (one,) = ridge_rounds(start, budget, RouteSetting(epochs=1), [3.0], ridge=0.03, steps=3000)
    relabelled = replace(budget, stage1=torch.log_softmax(one.logits(budget.router), 1))
    *_, (again,) = ridge_rounds(
        start, relabelled, RouteSetting(epochs=1, anchor="stage1"), [3.0], ridge=0.03, steps=3000
    )
    *_, (two,) = ridge_rounds(start, budget, RouteSetting(epochs=2), [3.0], ridge=0.03, steps=3000)
    weights = [torch.softmax(router.logits(budget.router), 1) for router in (one, again, two)]
    assert torch.allclose(weights[2], weights[1], atol=2e-3)
    assert not torch.allclose(weights[2], weights[0], atol=0.02)


@pytest.mark.parametrize("hidden", [0, 16])
def test_a_corrected_router_adds_the_logits(hidden: int) -> None:
    start, linear, inputs = random_router(hidden=hidden), random_router(1, hidden=0), planted(0, 30).router
    found = corrected(start, linear.to(torch.float64))
    assert torch.allclose(found.logits(inputs), start.logits(inputs) + linear.logits(inputs), atol=1e-5)
    assert all(part.dtype == torch.float32 for part in found.parts().values())


def of_words(seed: int, each: int, groups: int = GROUPS, margin: float = 2.0) -> Budget:
    """A budget whose router reads contexts by themselves: `each` wordings a group, five pairs of every one."""
    generator = torch.Generator().manual_seed(seed)
    wording = torch.arange(groups * each).repeat_interleave(5)
    group = wording % groups
    taste = torch.randn(groups, WIDTH, generator=torch.Generator().manual_seed(98))
    words = 2 * taste[torch.arange(groups * each) % groups] + torch.randn(groups * each, WIDTH, generator=generator)
    margins = torch.randn(len(wording), HEADS, generator=generator)
    margins[torch.arange(len(wording)), group] += margin
    uniform = torch.full((len(wording), HEADS), -math.log(HEADS))
    router = words[wording] + 7  # what all contexts share
    return Budget(
        head_losses(margins), router, torch.zeros_like(router), uniform, group, torch.arange(len(wording)) // 2, wording
    )


def test_new_wordings_go_to_the_head_of_their_group() -> None:
    budget, new = of_words(0, 5), of_words(1, 20)
    setting = RouteSetting()
    start = fresh_router(budget, setting)
    tau, _ = choose_tau(start, budget, setting)
    routed = refit_router(start, budget, setting, tau)
    assert routed.v1 is None
    assert (routed.logits(new.router).argmax(1) == new.group).double().mean() > 0.95
    rank = torch.linalg.matrix_rank(routed.v2.double() - routed.v2.double().mean(0), tol=1e-5)
    assert rank <= min(HEADS - 1, 5 * GROUPS - 1)


def test_bayes_rule_stays_unless_another_temperature_is_clearly_better() -> None:
    budget, setting = of_words(2, 3), RouteSetting()
    start = fresh_router(budget, setting)
    tau, scores = choose_tau(start, budget, setting)
    assert tau == 1.0
    assert set(scores) == set(TAUS)
    # Heads that are sure and mostly wrong: the labels that move least are clearly better.
    many = of_words(2, 20)
    noise = torch.randn(len(many), HEADS, generator=torch.Generator().manual_seed(1))
    wrong = replace(many, losses=head_losses(8 * noise))
    by_pair = RouteSetting(target="example", anchor="stage1", epochs=1)
    tau, scores = choose_tau(start, wrong, by_pair, (0.01, 1.0, math.inf), 0.01)
    assert math.isinf(tau)
    assert scores[math.inf] == min(scores.values()) == pytest.approx(mean_nll(start, wrong), abs=1e-6)


def test_wordings_are_held_out_and_prompts_where_a_group_has_one() -> None:
    # Two wordings a group, so alike that either tells the other's group; a third of another group would not.
    budget, setting = of_words(3, 2), RouteSetting(epochs=1)
    start = fresh_router(budget, setting)
    tau = 1.0
    _, by_wording = choose_tau(start, budget, setting, (tau,))
    expected = torch.zeros(len(budget))
    for wording in range(2 * GROUPS):
        held = budget.wording == wording
        router = refit_router(start, budget.take(~held), setting, tau)
        said = torch.log_softmax(router.logits(budget.router[held]), 1) - budget.losses[held]
        expected[held] = -torch.logsumexp(said, 1)
    assert by_wording[tau] == pytest.approx(expected.mean().item(), abs=1e-5)
    one_each = replace(budget, wording=budget.group)
    _, by_prompt = choose_tau(start, one_each, setting, (tau,))
    assert by_prompt[tau] != pytest.approx(by_wording[tau], abs=1e-3)


def test_where_nothing_can_be_held_out_the_temperature_is_the_one_that_is_kept() -> None:
    budget, setting = of_words(4, 1), RouteSetting()
    single = replace(budget, prompt=torch.zeros_like(budget.prompt))
    assert choose_tau(fresh_router(single, setting), single, setting) == (1.0, {})
    # One prompt a group: a group that is held out as a whole cannot be scored.
    own = replace(budget, prompt=budget.group)
    assert choose_tau(fresh_router(own, setting), own, setting, (*TAUS, math.inf), math.inf) == (math.inf, {})


@pytest.mark.parametrize("solver", ["ridge", "adam"])
def test_a_fresh_router_gives_every_input_the_mean_weights(solver: Any) -> None:
    budget, setting = planted(6, 60), RouteSetting(solver=solver, seed=3)
    router = fresh_router(budget, setting)
    expected = budget.stage1.exp().mean(0).log().expand(60, HEADS)
    assert torch.allclose(torch.log_softmax(router.logits(budget.router), 1), expected, atol=1e-6)
    routed = refit_router(router, budget, setting, 3.0)
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
        ({"solver": "sgd"}, "solver is 'sgd': expected one of ridge, adam"),
        ({"batch": 0}, "batch is 0"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"lr": math.nan}, "lr is nan"),
        ({"batch": 8, "lr": 0.1}, "batch and lr with `solver` ridge: only adam reads it; give that one too"),
    ],
)
def test_bad_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        RouteSetting(**options)
