"""Few-shot adaptation: weights over frozen reward heads for one person, from a few of that person's choices.

Letters: G groups (people, attributes, contexts), n shots of each, N pairs to score, K heads.
Every method turns shots into `Adapted`; with no shots there is nothing to adapt to, and the run's own weights are used.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import torch

from micropref.heads.adaptation.hedge import head_losses, hedge
from micropref.heads.choices import AdaptMethod
from micropref.heads.methods.base import Combine, Scores

ADAPT_METHODS: tuple[AdaptMethod, ...] = get_args(AdaptMethod)
GRIDS: dict[AdaptMethod, tuple[float, ...]] = {
    "tempered": (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.5),
    "shrunk": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
}
"""Strengths to choose from on validation people: β of `tempered`, s² of `shrunk`."""
FIT_STEPS = 500
FIT_LR = 0.1


@dataclass(frozen=True, slots=True)
class Shots:
    """The choices that groups are adapted by, the same number of each, scored by the frozen heads."""

    margins: torch.Tensor
    """[G, n, K] of every head, chosen less rejected."""
    chosen: torch.Tensor | None = None
    """[G, n, K] every head's reward of the chosen response alone, which only `drm` reads."""
    log_prior: torch.Tensor | None = None
    """[G, n, K] the run's own log-weights for each choice, which only `shrunk` reads; None: uniform."""

    def first(self, n: int) -> Shots:
        """Return the first n shots of every group."""
        chosen, log_prior = (None if part is None else part[:, :n] for part in (self.chosen, self.log_prior))
        return Shots(self.margins[:, :n], chosen, log_prior)


@dataclass(frozen=True, slots=True)
class Adapted:
    """What was learned of G groups: how their weights differ from the run's, and how heads are combined."""

    log_weights: torch.Tensor
    """[G, K] log of weights that sum to 1."""
    scale: torch.Tensor | None = None
    """[G, K] what a head's margins are divided by; None: nothing."""
    routed: bool = False
    """The weights multiply those of the run for each pair; otherwise they replace them."""
    combine: Combine | None = None
    """How heads become one prediction; None: as in the run."""

    def scores(self, own: Scores, group: torch.Tensor) -> Scores:
        """Return what the run says of pairs with the weights of each pair's group [N] in place of its own."""
        weights = self.log_weights[group]
        if self.routed:
            weights = torch.log_softmax(own.log_weights + weights, 1)
        margins = own.margins if self.scale is None else own.margins / self.scale[group]
        return Scores(margins, weights, self.combine or own.combine)

    def state(self) -> dict[str, torch.Tensor]:
        """Return the tensors by name, as they are saved."""
        state = {"weights": self.log_weights.exp().float()}
        return state if self.scale is None else state | {"scale": self.scale.float()}


def adapt_groups(method: AdaptMethod, shots: Shots, strength: float = 1.0) -> Adapted:
    """Learn weights for every group by a method of its name.

    The strength is τ of `hedge`, β of `tempered` and s² of `shrunk`; the others have none.
    """
    if method == "hedge":
        return by_hedge(shots, strength)
    if method == "tempered":
        return by_tempered(shots, strength)
    if method == "shrunk":
        return by_shrunk(shots, strength)
    plain: dict[str, Callable[[Shots], Adapted]] = {
        "bayes": by_hedge,
        "hyre": by_hyre,
        "drm": by_drm,
        "fit": by_fit,
    }
    return plain[method](shots)


def by_hedge(shots: Shots, tau: float = 1.0) -> Adapted:
    """Hedge (Eq. 5 of the paper): w_k(x) ∝ π_k(x) exp(−Σ_i ℓ_ik / τ), π the run's weights of the scored pair.

    At τ = 1 this is Bayes' rule where a person is one head throughout and the router is the prior of which.
    """
    return Adapted(_from_uniform(shots, tau), routed=True)


def by_tempered(shots: Shots, beta: float) -> Adapted:
    """Hedge at τ = 1/β: w_k(x) ∝ π_k(x) Π_i σ(m_ik)^β; 0 learns nothing.

    Bayes' rule is sure of one head after a dozen choices; people who are blends of several want β < 1.
    """
    return by_hedge(shots, 1 / beta if beta else math.inf)


def by_shrunk(shots: Shots, variance: float) -> Adapted:
    """Blend rewards, no further from the router than s² allows: min_b Σ_i −log σ(m̄_i) + ‖b‖²/(2s²).

    m̄_i = Σ_k softmax(g_i + b)_k m_ik is the margin of the blended reward, g the router's logits.
    """
    prior = torch.zeros_like(shots.margins) if shots.log_prior is None else shots.log_prior

    def gradient(logits: torch.Tensor) -> torch.Tensor:
        weights = torch.softmax(prior + logits[:, None], 2)
        blended = (weights * shots.margins).sum(2, keepdim=True)
        pull = torch.sigmoid(-blended) * weights * (shots.margins - blended)
        return logits / variance - pull.sum(1)

    return Adapted(torch.log_softmax(_descend(shots, gradient), 1), routed=True, combine="linear")


def by_hyre(shots: Shots) -> Adapted:
    """HyRe (Lee et al. 2024): w_k ∝ exp(−Σ_i ℓ_ik), a uniform prior instead of the router.

    A departure: the paper adds rewards, Σ_k w_k r_k; here probabilities are, as a mixture of people has them.
    """
    return Adapted(_from_uniform(shots, 1.0))


def _from_uniform(shots: Shots, tau: float) -> torch.Tensor:
    """Return log-weights [G, K] of the likelihood alone."""
    losses = head_losses(shots.margins).sum(1)
    return hedge(torch.zeros_like(losses), losses, tau)


def by_drm(shots: Shots) -> Adapted:
    """Decomposed reward models (Luo et al. 2025): heads on one scale, weighted by their losses, summed linearly.

    s_k is the standard deviation (ddof 1; 1 where it is 0) of head k's rewards of all 2n responses, and
    w_k ∝ exp(−Σ_i −log σ(m_ik / s_k)). Margins are not centred: their mean is what says which response was chosen.
    Raises ValueError where the rewards of responses are not there.
    """
    if shots.chosen is None:
        raise ValueError("drm reads the rewards of responses, not margins alone")
    rewards = torch.cat([shots.chosen, shots.chosen - shots.margins], 1)
    spread = rewards.std(1)
    scale = torch.where(spread > 0, spread, 1.0)
    losses = head_losses(shots.margins / scale[:, None]).sum(1)
    return Adapted(torch.log_softmax(-losses, 1), scale, combine="linear")


def by_fit(shots: Shots) -> Adapted:
    """Fit weights by gradient, as LoRe does for a new user: min_b mean_i −log Σ_k softmax(b)_k σ(m_ik).

    Nothing pulls back to the run's weights. The gradient is π − mean_i ρ_i, ρ_i the posterior over heads of choice i.
    """
    log_right = -head_losses(shots.margins)

    def gradient(logits: torch.Tensor) -> torch.Tensor:
        log_weights = torch.log_softmax(logits, 1)
        posterior = torch.softmax(log_weights[:, None] + log_right, 2)
        return log_weights.exp() - posterior.mean(1)

    return Adapted(torch.log_softmax(_descend(shots, gradient), 1), combine="probability")


def _descend(shots: Shots, gradient: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Return logits b [G, K] that Adam finds from 0.

    Adam works entry by entry, so groups fitted together get the weights of groups fitted alone.
    """
    logits = torch.zeros_like(shots.margins[:, 0]).requires_grad_()
    adam = torch.optim.Adam([logits], lr=FIT_LR)
    for _ in range(FIT_STEPS):
        logits.grad = gradient(logits.detach())
        adam.step()
    return logits.detach()
