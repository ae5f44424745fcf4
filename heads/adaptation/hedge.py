"""Hedge: mixture weights moved towards the heads that predict best, as far as a temperature allows (Eq. 5).

Letters: N pairs, K heads, C contexts. ℓ_ik = −log σ(m_ik) is head k's loss on pair i, τ the temperature.

    w* = argmin_w ⟨w, ℓ⟩ + τ KL(w ‖ w_prev),  so  w*_k ∝ w_prev,k exp(−ℓ_k / τ).

With summed losses, τ = 1 is Bayes' rule for "which head made these choices"; from uniform weights it is HyRe.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F  # noqa: N812 - the field's name for it


def head_losses(margins: torch.Tensor) -> torch.Tensor:
    """Return each head's loss ℓ [N, K] of margins [N, K], in nats."""
    return -F.logsigmoid(margins)


def hedge(log_weights: torch.Tensor, losses: torch.Tensor, tau: float | torch.Tensor) -> torch.Tensor:
    """Return the log of w* [..., K] for previous log-weights, losses [..., K] and temperatures that broadcast."""
    return torch.log_softmax(log_weights - losses / tau, -1)


def hedge_contexts(log_weights: torch.Tensor, losses: torch.Tensor, context: torch.Tensor, tau: float) -> torch.Tensor:
    """Return the log of one w* for each pair's context [N, K], from log-weights, losses [N, K] and its number [N].

    A context's losses are summed over its pairs and its previous log-weights averaged, so that KL counts once:
    averaging w* of single pairs instead would never be surer than one pair allows.
    """
    _, number, size = torch.unique(context, return_inverse=True, return_counts=True)
    totals = losses.new_zeros(2, len(size), losses.shape[1])
    prior, total = totals.index_add_(1, number, torch.stack([log_weights.to(losses.dtype), losses]))
    return hedge(prior / size[:, None], total, tau)[number]
