"""One group for all pairs of a unit: the mixture likelihood of who chose repeatedly, with closed-form gradients.

Letters: G settings, K heads, B pairs and V visits of a minibatch. A unit is a person, or a context; a visit is pairs of
one unit: all of them, or where they are many, one of the near-equal parts that an epoch cuts them into.

With S_k = Σ_i log σ(m_ik) over a unit's pairs, π the softmax of the mean of the pairs' router logits:
    NLL = −Σ_u c_u log Σ_k π_uk exp(S_uk),    KL = mean_u KL(π_u ‖ uniform),    loss = NLL + λ KL.
The sum over pairs stays inside: one pair says little of its group, ten say which. c_u is 1/N (every pair counts alike)
or 1/(U n_u) (every unit does). ρ ∝ π exp(β S) is a unit's posterior, β < 1 while it is annealed, and
    −log Σ_k π_k exp(S_k) = −Σ_k ρ_k S_k + KL(ρ ‖ π)    at β = 1.
A unit with v visits takes ρ from the pairs of each alone, 16 or more, which leave little doubt; its pairs then count as
they are, and the terms of its prior, which has to count once, by 1/v. Units of one pair each are the pair's mixture.
NLL is a mean over pairs and KL one over units: the more pairs a unit has, the more a given λ flattens its prior.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from micropref.heads.fitting.losses import Losses, Penalty
from micropref.heads.fitting.segments import Segments

ANNEALED_FROM = 0.05
"""Exponent of a unit's likelihood at the first step."""
ANNEALED_SHARE = 0.5
"""Of the steps, after which the exponent is 1."""


@dataclass(frozen=True, slots=True)
class Visits:
    """Which pairs of a minibatch are of one unit, and what they count."""

    pairs: Segments
    """Of the visits, side by side in the minibatch."""
    weight: torch.Tensor
    """[V] of a visit's negative log-likelihood in the loss."""
    share: torch.Tensor
    """[V] of its unit's prior: 1 over the unit's visits in an epoch."""


def annealed(step: int, steps: int) -> float:
    """Return the exponent at a step from 0: heads that start alike part one after the other as it rises to 1."""
    return min(1.0, ANNEALED_FROM + (1 - ANNEALED_FROM) * step / (ANNEALED_SHARE * steps))


def unit_losses(
    margins: torch.Tensor, logits: torch.Tensor, penalty: Penalty, visits: Visits, exponent: float
) -> Losses:
    """Return the losses of a minibatch of visits and derivatives by the margins and logits [G, K, B] of its pairs.

    Where all pairs share logits [G, K, 1], the derivatives by them are those of visits [G, K, V].
    """
    shared = logits.shape[2] == 1
    sizes = visits.pairs.sizes
    evidence = visits.pairs.sums(F.logsigmoid(margins))
    log_weights = torch.log_softmax(logits if shared else visits.pairs.sums(logits) / sizes, 1)
    weights = log_weights.exp()
    joint = log_weights + evidence
    posterior = torch.softmax(joint if exponent == 1 else log_weights + exponent * evidence, 1)
    expected = (posterior * evidence).sum(1)
    per_visit = torch.lerp(expected, torch.logsumexp(joint, 1), visits.share)
    of_units = visits.share / visits.share.sum()
    pulled = log_weights
    if penalty.of_batch is not None:
        log_mean = (weights * of_units).sum(2, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny).log()
        pulled = torch.where(penalty.of_batch, log_mean, log_weights)
    inner = (weights * pulled).sum(1, keepdim=True)
    d_prior = (weights - posterior) * (visits.weight * visits.share)
    d_prior += (pulled - inner) * weights * penalty.lam * of_units
    slopes = visits.pairs.spread(posterior * -visits.weight)
    return Losses(
        nll=-(per_visit * visits.weight).sum(1),
        kl=(inner * of_units).sum((1, 2)) + penalty.log_k,
        d_margins=torch.sigmoid(-margins).mul_(slopes),
        d_logits=d_prior if shared else visits.pairs.spread(d_prior / sizes),
    )
