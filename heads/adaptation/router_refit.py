"""Algorithm 1: a router re-fitted on a small budget of pairs with contexts, the reward heads frozen.

Letters: N pairs of the budget, D embedding width, K heads, h hidden units of the router, T temperatures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import get_args

import torch

from micropref.cache.errors import BadInput
from micropref.heads.adaptation.hedge import hedge, hedge_contexts
from micropref.heads.adaptation.whitening import whitening
from micropref.heads.choices import Anchor, Target
from micropref.heads.evaluation.metrics import nll
from micropref.heads.mixture import Router

Parts = dict[str, torch.Tensor]
"""Tensors of T routers by name, stacked in front: v1 [T, h, D], b1 [T, h], v2 [T, K, h], b2 [T, K]."""
FOLDS = 5
"""Parts of a budget's prompts, each held out once to choose τ."""
TAUS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Temperatures to choose among."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What the router learns from."""

    losses: torch.Tensor
    """ℓ [N, K] of the frozen heads, in nats."""
    router: torch.Tensor
    """[N, D'] what the router reads, such as the embedded context."""
    alone: torch.Tensor
    """[N, D'] how that varies with the prompts alone, which tells no context; zeros where it does not."""
    stage1: torch.Tensor
    """[N, K] log-weights of the run that is routed, as it reads these pairs."""
    group: torch.Tensor
    """[N] number of what each pair's context says: pairs of one number may word it differently."""
    prompt: torch.Tensor
    """[N] number of each pair's prompt: what is held out together."""

    def __len__(self) -> int:
        return len(self.losses)

    def take(self, rows: torch.Tensor) -> Budget:
        """Return the pairs at `rows`, numbers or a mask [N]."""
        return Budget(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(frozen=True, slots=True)
class RouteSetting:
    """How a router is re-fitted."""

    target: Target = "context"
    """What has soft labels of its own: every group of pairs whose contexts say the same, or every pair."""
    anchor: Anchor = "previous"
    """What the labels start from: the router as it is when an epoch starts, or stage 1's weights."""
    epochs: int = 10
    """Passes over the budget; labels are renewed before each."""
    batch: int = 32
    """Pairs of a minibatch."""
    lr: float = 1e-3
    """Learning rate of Adam, in whitened coordinates."""
    seed: int = 0
    """Seed of the order of pairs and of the folds."""

    def __post_init__(self) -> None:
        for name, choices in (("target", get_args(Target)), ("anchor", get_args(Anchor))):
            if getattr(self, name) not in choices:
                raise BadInput(f"{name} is {getattr(self, name)!r}: expected one of {', '.join(choices)}")
        for name, least in (("epochs", 1), ("batch", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise BadInput(f"{name} is {getattr(self, name)}: expected at least {least}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise BadInput(f"lr is {self.lr}: expected a finite number above 0, for example 0.001")


def refit_routers(start: Router, budget: Budget, setting: RouteSetting, taus: Sequence[float]) -> list[Router]:
    """Return the router after `setting.epochs` rounds of Hedge labels and cross-entropy to them, for each τ [T].

    All start from `start` and see the same minibatches; their descents share products and nothing else. Only the
    coordinates of the descent are whitened: what the routers read is the embedding itself. At τ = ∞ labels are what
    the router says already, so it stays as it is.
    """
    finite = [tau for tau in taus if math.isfinite(tau)]
    if not finite:
        return [start for _ in taus]
    white = whitening(budget.alone, budget.router)
    inputs = white.inputs(budget.router).float()
    parts = {
        name: part.float().repeat(len(finite), *[1] * part.ndim).requires_grad_()
        for name, part in white.into(start).parts().items()
    }
    optimizer = torch.optim.Adam(parts.values(), lr=setting.lr)
    generator = torch.Generator().manual_seed(setting.seed)
    for _ in range(setting.epochs):
        labels = _labels(parts, inputs, budget, setting, finite)
        for rows in torch.split(torch.randperm(len(budget), generator=generator), setting.batch):
            optimizer.zero_grad()
            cross_entropy = -(labels[:, rows] * _log_weights(parts, inputs[rows])).sum(2).mean(1)
            cross_entropy.sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    learned = (Router.of({name: part[place].detach() for name, part in parts.items()}) for place in range(len(finite)))
    refitted = iter([white.out_of(router).to(torch.float32) for router in learned])
    return [next(refitted) if math.isfinite(tau) else start for tau in taus]


def refit_router(start: Router, budget: Budget, setting: RouteSetting, tau: float) -> Router:
    """Return what `refit_routers` makes of `start` at one temperature."""
    return refit_routers(start, budget, setting, [tau])[0]


def fresh_router(log_weights: torch.Tensor, inputs: torch.Tensor, hidden: int, seed: int) -> Router:
    """Return a router [h] that gives every input [N, D] the same log-weights [K], to start from where there is none."""
    generator = torch.Generator().manual_seed(seed)
    width = inputs.shape[1]
    spread = 1 / (math.sqrt(width) * inputs.square().mean().sqrt().item())
    v1 = (torch.rand(hidden, width, generator=generator) * 2 - 1) * spread
    return Router(v1, torch.zeros(hidden), torch.zeros(len(log_weights), hidden), log_weights.clone())


@torch.no_grad()
def _labels(
    parts: Parts, inputs: torch.Tensor, budget: Budget, setting: RouteSetting, taus: Sequence[float]
) -> torch.Tensor:
    """Return w* [T, N, K] of every pair."""
    previous = setting.anchor == "previous"
    before = _log_weights(parts, inputs) if previous else budget.stage1.expand(len(taus), *budget.stage1.shape)
    if setting.target == "example":
        return hedge(before, budget.losses, torch.tensor(taus)[:, None, None]).exp()
    pairs = zip(before, taus, strict=True)
    return torch.stack([hedge_contexts(one, budget.losses, budget.group, tau) for one, tau in pairs]).exp()


def _log_weights(parts: Parts, inputs: torch.Tensor) -> torch.Tensor:
    """Return the log-weights [T, N, K] of stacked routers for inputs [N, D]."""
    hidden = inputs
    if "v1" in parts:
        hidden = torch.relu(inputs @ parts["v1"].mT + parts["b1"][:, None])
    return torch.log_softmax(hidden @ parts["v2"].mT + parts["b2"][:, None], 2)


def choose_tau(
    start: Router, budget: Budget, setting: RouteSetting, taus: Sequence[float] = TAUS
) -> tuple[float, dict[float, float]]:
    """Return the temperature of the lowest held-out NLL inside the budget, and every one's NLL.

    A budget's prompts are held out in turns. Raises BadInput for a budget of one prompt.
    """
    folds = list(_folds(budget, setting.seed))
    if not folds:
        raise BadInput(
            "the budget has one prompt, so none can be held out to choose tau: give `tau`, or a larger `budget`"
        )
    total = torch.zeros(len(taus), dtype=torch.float64)
    for held in folds:
        routers = refit_routers(start, budget.take(~held), setting, taus)
        total += torch.tensor([_mixture_nll(router, budget.take(held)) for router in routers]) * held.sum()
    scores = dict(zip(taus, (total / len(budget)).tolist(), strict=True))
    return min(scores, key=lambda tau: scores[tau]), scores


def _folds(budget: Budget, seed: int) -> Iterator[torch.Tensor]:
    """Yield masks [N] of held-out pairs that share out the prompts."""
    _, prompt = torch.unique(budget.prompt, return_inverse=True)
    prompts = int(prompt.max()) + 1
    fold = torch.randperm(prompts, generator=torch.Generator().manual_seed(seed)) % FOLDS
    return (fold[prompt] == number for number in range(min(FOLDS, prompts if prompts > 1 else 0)))


def _mixture_nll(router: Router, budget: Budget) -> float:
    """Return −mean log Σ_k π_k σ(m_k) over the budget."""
    log_weights = torch.log_softmax(router.logits(budget.router), 1)
    return nll(torch.logsumexp(log_weights - budget.losses, 1))
