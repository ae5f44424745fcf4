"""What a fit lowers: losses of margins and router logits with their derivatives, in closed form or by autograd.

Letters: G settings, K heads (padded to the largest), B pairs, D embedding width. Pairs lie last, because
every sum over heads then runs over long contiguous rows.

Mixture (MiCRo, stage 1), with m the margins, π the softmax of the logits and ρ_k ∝ π_k σ(m_k) the posterior of the
heads:
    NLL = −mean_i log Σ_k π_ik σ(m_ik),    KL = mean_i Σ_k π_ik a_ik + log K,    loss = NLL + λ KL,
where a = log π pulls every pair's weights to uniform (prior "example") and a = log mean_i π only their
mean (prior "batch"). A static mixture has the same logits for every pair, a single reward has K = 1.

Ensemble: NLL = −mean_i mean_k log σ(m_ik). Every head answers for every pair, whatever the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from micropref.heads.choices import FitMethod

ABSENT_LOGIT = -1e9
"""Logit of a padded head: its weight is exactly 0, and finite so that 0 times its logarithm is 0."""


@dataclass(frozen=True, slots=True)
class Penalty:
    """The KL penalty towards uniform mixture weights, per setting."""

    lam: torch.Tensor
    """[G, 1, 1] λ."""
    of_batch: torch.Tensor | None
    """[G, 1, 1] true for the prior "batch"; None where no setting has it."""
    log_k: torch.Tensor
    """[G] log of the number of heads that are not padding."""


@dataclass(frozen=True, slots=True)
class Losses:
    """Parts of the loss and its derivatives."""

    nll: torch.Tensor
    """[G] nats per pair."""
    kl: torch.Tensor
    """[G] KL(π ‖ uniform) in nats, from 0 to log K."""
    d_margins: torch.Tensor
    """[G, K, B] derivative of NLL + λ KL by the margins."""
    d_logits: torch.Tensor
    """[G, K, B] the same by the router's logits; sum over pairs where the logits are shared."""


Objective = Callable[[torch.Tensor, torch.Tensor, Penalty], Losses]
"""Of margins [G, K, B] and logits [G, K, B], or [G, K, 1] where all pairs share them; padded heads have margin 0 and
ABSENT_LOGIT, and get no derivative."""
Formula = Callable[[torch.Tensor, torch.Tensor, Penalty], tuple[torch.Tensor, torch.Tensor]]
"""NLL and KL [G] of the same, differentiable."""


def log_probability(margins: torch.Tensor, log_weights: torch.Tensor) -> torch.Tensor:
    """Return log Σ_k π_k σ(m_k) [G, B] of margins and log-weights [G, K, B]."""
    return torch.logsumexp(log_weights + F.logsigmoid(margins), 1)


def mixture_losses(margins: torch.Tensor, logits: torch.Tensor, penalty: Penalty) -> Losses:
    """Return the mixture's losses, derivatives in closed form.

    Example: σ(m) = (¾, ¼) and π = (½, ½), so P = ½, ρ = (¾, ¼), and the derivatives are -ρ σ(-m) and π - ρ.
        >>> margins, logits = torch.tensor([[[3.0], [1 / 3]]]).log(), torch.zeros(1, 2, 1)
        >>> found = mixture_losses(margins, logits, Penalty(torch.zeros(1, 1, 1), None, torch.zeros(1)))
        >>> [round(float(one), 4) for one in (*found.nll, *found.d_margins.flatten(), *found.d_logits.flatten())]
        [0.6931, -0.1875, -0.1875, -0.25, 0.25]

    """
    pairs = margins.shape[2]
    log_weights = torch.log_softmax(logits, 1)
    weights = log_weights.exp()
    joint = F.logsigmoid(margins).add_(log_weights)
    log_p = torch.logsumexp(joint, 1)
    posterior = torch.softmax(joint, 1)
    pulled = log_weights
    if penalty.of_batch is not None:
        log_mean = weights.mean(2, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny).log()
        pulled = torch.where(penalty.of_batch, log_mean, log_weights)
    inner = (weights * pulled).sum(1, keepdim=True)
    d_kl = (pulled - inner).mul_(weights).mul_(penalty.lam)
    return Losses(
        nll=-log_p.mean(1),
        kl=inner.mean((1, 2)) + penalty.log_k,
        d_margins=torch.sigmoid(-margins).mul_(posterior).mul_(-1 / pairs),
        d_logits=(weights - posterior).add_(d_kl).mul_(1 / pairs),
    )


def by_autograd(formula: Formula) -> Objective:
    """Return the objective of a formula, its derivatives left to autograd: on tensors this small that is cheap."""

    def objective(margins: torch.Tensor, logits: torch.Tensor, penalty: Penalty) -> Losses:
        with torch.enable_grad():
            leaves = margins.detach().requires_grad_(), logits.detach().requires_grad_()
            nll, kl = formula(*leaves, penalty)
            total = (nll + penalty.lam.flatten() * kl).sum()
            d_margins, d_logits = torch.autograd.grad(total, leaves, materialize_grads=True)
        return Losses(nll.detach(), kl.detach(), d_margins, d_logits)

    return objective


def ensemble_formula(
    margins: torch.Tensor, logits: torch.Tensor, penalty: Penalty
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean Bradley-Terry loss of the heads [G], and no KL: an ensemble learns no weights."""
    present = (logits > ABSENT_LOGIT / 2).to(margins.dtype)
    per_pair = (present * F.softplus(-margins)).sum(1) / penalty.log_k.exp()[:, None]
    return per_pair.mean(1), torch.zeros_like(penalty.log_k)


OBJECTIVES: Mapping[FitMethod, Objective] = {
    "mixture": mixture_losses,
    "static": mixture_losses,
    "single": mixture_losses,
    "ensemble": by_autograd(ensemble_formula),
}
"""What each method lowers. Neighbours in a stack that lower the same share one call."""


def ridge(heads: torch.Tensor, strength: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ½ s ||W||² [G] and its derivative by the heads [G, K, D]; strength s is [G, 1, 1]."""
    gradient = strength * heads
    return (gradient * heads).sum((1, 2)) / 2, gradient
