"""Weights of pairs without a context, for a router that reads contexts.

Letters: N pairs, M of them without a context, K heads.

    π = argmax Σ_i log Σ_k π_k σ(m_ik) + PRIOR_PAIRS Σ_k π̄_k log π_k
over the M pairs, π̄ the mean weights of the others. The heads stay as they are, so this is concave; with no such pair
it is π̄ itself. In the fit these pairs read the mean of the contexts.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from micropref.heads.fitting.pair_source import Source, open_feed
from micropref.heads.mixture import Mixture, missing_rows

PRIOR_PAIRS = 10.0
"""What the mean weights of the other pairs count for, in pairs: a few pairs alone would choose one head."""
STEPS = 200


@torch.no_grad()
def with_no_context(mixture: Mixture, train: Source) -> Mixture:
    """Return a mixture with weights for pairs without a context, learned from the pairs to fit.

    One that has no router, or has such weights, stays as it is.
    """
    if mixture.router is None or mixture.no_context is not None:
        return mixture
    total = torch.zeros(mixture.k, dtype=torch.float64)
    margins = []
    for batch in open_feed(train, True).in_order():
        assert batch.router is not None
        missing = missing_rows(batch.router)
        weights = torch.softmax(mixture.router.logits(batch.router.nan_to_num()), 1).double()
        if batch.router_rows is not None:
            missing, weights = missing[batch.router_rows], weights[batch.router_rows]
        total += weights[~missing].sum(0)
        margins.append(mixture.margins(batch.delta[missing]))
    mean = total / total.sum() if total.sum() > 0 else torch.full_like(total, 1 / mixture.k)
    return replace(mixture, no_context=_learned(torch.cat(margins), mean).log().float())


def _learned(margins: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Return π [K] by expectation maximisation from margins [M, K], starting from the mean weights [K]."""
    likelihood = F.logsigmoid(margins.double()).exp()
    weights = mean
    for _ in range(STEPS if len(margins) else 0):
        joint = weights * likelihood
        weights = (joint / joint.sum(1, keepdim=True)).sum(0) + PRIOR_PAIRS * mean
        weights = weights / weights.sum()
    return weights.clamp_min(torch.finfo(torch.float32).tiny)
