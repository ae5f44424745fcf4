"""Algorithm 1: a router re-fitted on a small budget of pairs with contexts, the reward heads frozen.

Letters: N pairs of the budget, D embedding width, K heads, h hidden units of the router, T temperatures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from micropref.heads.adaptation.router_ridge import ridge_rounds
from micropref.heads.adaptation.routing_budget import Budget, RouteSetting, soft_labels
from micropref.heads.adaptation.whitening import whitening
from micropref.heads.evaluation.intervals import mean_intervals
from micropref.heads.mixture import Router

Parts = dict[str, torch.Tensor]
"""Tensors of T routers by name, stacked in front: v1 [T, h, D], b1 [T, h], v2 [T, K, h], b2 [T, K]."""
FOLDS = 10
"""Parts of a budget's wordings at most, each held out once to choose τ."""
BAYES = 1.0
"""The temperature at which labels follow Bayes' rule: what is taken where held-out pairs do not say otherwise."""
TAUS = (0.3, BAYES, 3.0, 10.0, 30.0, 100.0)
"""Temperatures to choose among."""
HIDDEN = 128
"""Units of a new router that adam fits."""
BATCH, RATE = 32, 1e-3
"""Pairs of a minibatch of adam, and its learning rate."""


def refit_routers(start: Router, budget: Budget, setting: RouteSetting, taus: Sequence[float]) -> list[Router]:
    """Return the router after `setting.epochs` rounds of Hedge labels and cross-entropy to them, for each τ [T].

    All start from `start`. At τ = ∞ labels are what the router says already, so it stays as it is.
    """
    finite = [tau for tau in taus if math.isfinite(tau)]
    if not finite:
        return [start for _ in taus]
    *_, last = _rounds(start, budget, setting, finite)
    refitted = iter(last)
    return [next(refitted) if math.isfinite(tau) else start for tau in taus]


def refit_rounds(start: Router, budget: Budget, setting: RouteSetting, tau: float) -> Iterator[Router]:
    """Yield `start`, and what it is after each round at one temperature, the last as `refit_router` returns it."""
    yield start
    if math.isfinite(tau):
        yield from (router for (router,) in _rounds(start, budget, setting, [tau]))


def _rounds(start: Router, budget: Budget, setting: RouteSetting, taus: Sequence[float]) -> Iterator[list[Router]]:
    """Yield the routers of all finite temperatures after each round."""
    rounds = ridge_rounds if setting.solver == "ridge" else _adam_rounds
    return rounds(start, budget, setting, taus)


def refit_router(start: Router, budget: Budget, setting: RouteSetting, tau: float) -> Router:
    """Return what `refit_routers` makes of `start` at one temperature."""
    return refit_routers(start, budget, setting, [tau])[0]


def fresh_router(budget: Budget, setting: RouteSetting) -> Router:
    """Return a router that gives every input the run's mean weights over the budget, for the solver to start from.

    It is linear for the ridge; for adam it has hidden units, drawn by the setting's seed.
    """
    log_weights, width = budget.mean_weights(), budget.router.shape[1]
    if setting.solver == "ridge":
        return Router(None, None, torch.zeros(len(log_weights), width), log_weights)
    generator = torch.Generator().manual_seed(setting.seed)
    spread = 1 / (math.sqrt(width) * budget.router.square().mean().sqrt().item())
    v1 = (torch.rand(HIDDEN, width, generator=generator) * 2 - 1) * spread
    return Router(v1, torch.zeros(HIDDEN), torch.zeros(len(log_weights), HIDDEN), log_weights)


def _adam_rounds(start: Router, budget: Budget, setting: RouteSetting, taus: Sequence[float]) -> Iterator[list[Router]]:
    """Fit all weights of the router by Adam, one pass over the budget a round, as the paper does.

    All temperatures see the same minibatches; their descents share products and nothing else. Only the coordinates of
    the descent are whitened: what the routers read is the embedding itself.
    """
    white = whitening(budget.alone, budget.router)
    inputs = white.inputs(budget.router).float()
    parts = {
        name: part.float().repeat(len(taus), *[1] * part.ndim).requires_grad_()
        for name, part in white.into(start).parts().items()
    }
    optimizer = torch.optim.Adam(parts.values(), lr=setting.lr or RATE)
    generator = torch.Generator().manual_seed(setting.seed)
    for _ in range(setting.epochs):
        labels = soft_labels(_log_weights(parts, inputs), budget, setting, taus)
        for rows in torch.split(torch.randperm(len(budget), generator=generator), setting.batch or BATCH):
            optimizer.zero_grad()
            cross_entropy = -(labels[:, rows] * _log_weights(parts, inputs[rows])).sum(2).mean(1)
            cross_entropy.sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        now = {name: part.detach().clone() for name, part in parts.items()}
        learned = (Router.of({name: part[place] for name, part in now.items()}) for place in range(len(taus)))
        yield [white.out_of(router).to(torch.float32) for router in learned]


def _log_weights(parts: Parts, inputs: torch.Tensor) -> torch.Tensor:
    """Return the log-weights [T, N, K] of stacked routers for inputs [N, D]."""
    hidden = inputs
    if "v1" in parts:
        hidden = torch.relu(inputs @ parts["v1"].mT + parts["b1"][:, None])
    return torch.log_softmax(hidden @ parts["v2"].mT + parts["b2"][:, None], 2)


def choose_tau(
    start: Router, budget: Budget, setting: RouteSetting, taus: Sequence[float] = TAUS, kept: float = BAYES
) -> tuple[float, dict[float, float]]:
    """Return a temperature, and the held-out NLL inside the budget of every one; none where nothing can be held out.

    `kept`, one of `taus`, is taken unless the 95 % interval of another's lead, over wordings and prompts, is above 0: a
    small budget holds out too little to tell temperatures apart, and the best of several by chance costs more than
    Bayes' rule. Wordings are held out in turns, for new ones are what a router meets; prompts where a group has one
    wording alone.
    """
    unit = budget.wording if _several_each(budget.wording, budget.group) else budget.prompt
    nll = torch.zeros(len(budget), len(taus), dtype=torch.float64)
    scored = torch.zeros(len(budget), dtype=torch.bool)
    for held in _folds(unit, setting.seed):
        learned = budget.take(~held)
        # Nothing can be known of a group that is held out as a whole.
        held = held & torch.isin(budget.group, learned.group)
        if held.any():
            routers = refit_routers(start, learned, setting, taus)
            nll[held] = torch.stack([_pair_nll(router, budget.take(held)) for router in routers], 1)
            scored |= held
    if not scored.any():
        return kept, {}
    nll = nll[scored]
    scores = dict(zip(taus, nll.mean(0).tolist(), strict=True))
    best = min(scores, key=lambda tau: scores[tau])
    lead = nll[:, [taus.index(kept)]] - nll[:, [taus.index(best)]]
    sides = {"wordings": budget.wording[scored], "prompts": budget.prompt[scored]}
    clear = float(mean_intervals(lead, sides, "difference").low) > 0
    return (best if clear else kept), scores


def _several_each(unit: torch.Tensor, group: torch.Tensor) -> bool:
    """Say whether every group [N] has two units [N] or more."""
    return all(len(set(unit[group == one].tolist())) > 1 for one in set(group.tolist()))


def _folds(unit: torch.Tensor, seed: int) -> Iterator[torch.Tensor]:
    """Yield masks [N] of held-out pairs that share out the units [N]; none of a single one."""
    names, place = torch.unique(unit, return_inverse=True)
    fold = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)) % FOLDS
    return (fold[place] == number for number in range(min(FOLDS, len(names) if len(names) > 1 else 0)))


def _pair_nll(router: Router, budget: Budget) -> torch.Tensor:
    """Return −log Σ_k π_k σ(m_k) of each pair of the budget [N]."""
    log_weights = torch.log_softmax(router.logits(budget.router), 1)
    return -torch.logsumexp(log_weights - budget.losses, 1).double()
