"""The loss of the context-aware mixture (MiCRo, stage 1) and its derivatives in closed form.

Letters: G settings, K heads (padded to the largest), B pairs, D embedding width. Pairs lie last, because
every sum over heads then runs over long contiguous rows.

With m the margins, π the softmax of the logits and ρ_k ∝ π_k σ(m_k) the posterior of the heads:
    NLL = −mean_i log Σ_k π_ik σ(m_ik),    KL = mean_i Σ_k π_ik a_ik + log K,    loss = NLL + λ KL,
where a = log π pulls every pair's weights to uniform (prior "example") and a = log mean_i π only their
mean (prior "batch"). A static mixture has the same logits for every pair, a single reward has K = 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F  # noqa: N812 - the field's name for it

ABSENT_LOGIT = -1e9
"""Logit of a padded head: its weight is exactly 0, and finite so that 0 times its logarithm is 0."""


@dataclass(frozen=True, slots=True)
class Penalty:
    """The pull of the mixture weights to uniform, per setting."""

    lam: torch.Tensor
    """[G, 1, 1] λ."""
    of_batch: torch.Tensor
    """[G, 1, 1] true for the prior "batch"."""
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


def log_probability(margins: torch.Tensor, log_weights: torch.Tensor) -> torch.Tensor:
    """Return log Σ_k π_k σ(m_k) [G, B] of margins and log-weights [G, K, B]."""
    return torch.logsumexp(log_weights + F.logsigmoid(margins), 1)


def losses(margins: torch.Tensor, logits: torch.Tensor, penalty: Penalty) -> Losses:
    """Return NLL, KL and their derivatives by margins and logits [G, K, B]; padded heads have ABSENT_LOGIT."""
    pairs = margins.shape[2]
    log_weights = torch.log_softmax(logits, 1)
    joint = log_weights + F.logsigmoid(margins)
    log_p = torch.logsumexp(joint, 1, keepdim=True)
    posterior = (joint - log_p).exp()
    weights = log_weights.exp()
    smallest = torch.finfo(weights.dtype).tiny
    log_mean = weights.mean(2, keepdim=True).clamp_min(smallest).log()
    pulled = torch.where(penalty.of_batch, log_mean, log_weights)
    inner = (weights * pulled).sum(1, keepdim=True)
    d_kl = weights * (pulled - inner)
    return Losses(
        nll=-log_p.mean((1, 2)),
        kl=inner.mean((1, 2)) + penalty.log_k,
        d_margins=posterior * torch.sigmoid(-margins) / -pairs,
        d_logits=(weights - posterior + penalty.lam * d_kl) / pairs,
    )


def ridge(heads: torch.Tensor, strength: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ½ s ||W||² [G] and its derivative by the heads [G, K, D]; strength s is [G, 1, 1]."""
    gradient = strength * heads
    return (gradient * heads).sum((1, 2)) / 2, gradient
