"""Theorem 3.2 on groups whose tastes are known: what one reward cannot do better than, and what can.

Letters: N pairs, D embedding width, K groups. All entropies in nats per pair; h is binary entropy, σ logistic.

Responses come in random order. Group k prefers the first with p_k = σ(s_k) and makes a share π_k of the choices;
p̄ = Σ_k π_k p_k. A model that says q, whoever chooses, loses on average CE(q) = Σ_k π_k [h(p_k) + KL(p_k ‖ q)], so
    CE(q) ≥ H_marg = h(p̄) ≥ H_known + 2 Var_{k~π}(p_k),   H_known = Σ_k π_k h(p_k).
The first is tight at q = p̄; the 2 is Pinsker's, tight where every p_k is near ½. Below H_marg goes only what knows
the group: by a context, or by who the person is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.special import entr

from micropref.heads.fitting.fit import fit
from micropref.heads.fitting.settings import FitPlan, FitSetting, PairTensors
from micropref.heads.mixture import Mixture

RESTARTS = 4
"""Initialisations of the group-blind mixture, the best by validation NLL is kept."""
ONE_REWARD = FitSetting("single", 1, l2=1.0)
PLAN = FitPlan(solver="lbfgs", device="cpu")


@dataclass(frozen=True, slots=True)
class Groups:
    """People of known tastes."""

    tastes: torch.Tensor
    """[K, D] each group's reward: its margin is s_k = tastes_k · Δ."""
    shares: torch.Tensor
    """π [K] float64, the groups' shares of the choices."""

    def probability(self, delta: torch.Tensor) -> torch.Tensor:
        """Return p [N, K]: how probably a member of each group prefers the first response of pairs Δ [N, D]."""
        return torch.sigmoid((delta @ self.tastes.T).double())

    def choose(self, delta: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the group that judges each pair [N], and Δ [N, D] turned to chosen minus rejected."""
        group = torch.multinomial(self.shares, len(delta), replacement=True, generator=generator)
        probability = self.probability(delta)[torch.arange(len(delta)), group]
        first = torch.rand(len(delta), generator=generator) < probability
        return group, torch.where(first[:, None], delta, -delta)


@dataclass(frozen=True, slots=True)
class Floors:
    """Entropies [N] that bound a model's expected cross-entropy from below."""

    known: torch.Tensor
    """H_known: of a model that knows the group."""
    bound: torch.Tensor
    """H_known + 2 Var(p_k): the theorem's bound for a model that is not."""
    marginal: torch.Tensor
    """H_marg: the best that such a model can do."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """Expected cross-entropies [N] of models fitted on choices of other pairs."""

    single: torch.Tensor
    """One reward for everybody."""
    blind: torch.Tensor
    """A mixture of K rewards with weights that know nothing of the group."""
    knowing: torch.Tensor
    """A reward for each group, knowing which group chooses."""


def draw_groups(
    shares: torch.Tensor, width: int, diversity: float, sharpness: float, generator: torch.Generator
) -> Groups:
    """Return groups with `diversity` (0 to 1) of the variance of their tastes not shared.

    Margins of unit Gaussian pairs have standard deviation `sharpness` at every diversity: only agreement changes.
    """
    shared, own = (torch.randn(count, width, generator=generator) for count in (1, len(shares)))
    tastes = (1 - diversity) ** 0.5 * shared / shared.norm() + diversity**0.5 * own / own.norm(dim=1, keepdim=True)
    return Groups(sharpness * tastes / tastes.norm(dim=1, keepdim=True), shares)


def floors(probability: torch.Tensor, shares: torch.Tensor) -> Floors:
    """Return the floors of every pair, from p [N, K] and π [K]."""
    mean = probability @ shares
    known = (entr(probability) + entr(1 - probability)) @ shares
    variance = (probability - mean[:, None]).square() @ shares
    return Floors(known, known + 2 * variance, entr(mean) + entr(1 - mean))


def expected_cross_entropy(p: torch.Tensor, log_q: torch.Tensor, log_not_q: torch.Tensor) -> torch.Tensor:
    """Return −p log q − (1−p) log(1−q), any shape: the mean loss of a model that says q where p is true."""
    return -(p * log_q.double() + (1 - p) * log_not_q.double())


def fit_models(groups: Groups, pairs: int, new_pairs: torch.Tensor, generator: torch.Generator) -> Fitted:
    """Fit the three kinds of models on sampled choices of `pairs` new pairs; score them on Δ [N, D] by expectation."""
    k, width = groups.tastes.shape
    (group, fitting), (held_group, validation) = (
        groups.choose(torch.randn(count, width, generator=generator), generator) for count in (pairs, pairs // 4)
    )
    everybody = PairTensors(fitting, None), PairTensors(validation, None)
    mixtures = [FitSetting("static", k, lam=0.0, l2=1.0, seed=seed) for seed in range(RESTARTS)]
    p = groups.probability(new_pairs)
    mean = p @ groups.shares
    own = []
    for number in range(k):
        choices = PairTensors(fitting[group == number], None), PairTensors(validation[held_group == number], None)
        own.append(_loss(fit(*choices, [ONE_REWARD], PLAN)[0].mixture, new_pairs, p[:, number]))
    blind = min(fit(*everybody, mixtures, PLAN), key=lambda one: one.validation_nll)
    single = fit(*everybody, [ONE_REWARD], PLAN)[0]
    return Fitted(
        single=_loss(single.mixture, new_pairs, mean),
        blind=_loss(blind.mixture, new_pairs, mean),
        knowing=torch.stack(own, 1) @ groups.shares,
    )


def _loss(mixture: Mixture, new_pairs: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """Return the expected cross-entropy [N] of a mixture without a router; the other order's probability is 1 − q."""
    return expected_cross_entropy(
        p, mixture.log_probability(new_pairs, None), mixture.log_probability(-new_pairs, None)
    )
