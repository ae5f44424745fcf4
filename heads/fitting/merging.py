"""One mixture made of several restarts of a setting: heads that mean the same are averaged, and so are the routers.

Letters: R restarts, N validation pairs, K heads, h hidden units, D embedding width.

A restart's router is sure of wordings that it never saw, each restart in its own way: their mean is surer only where
they agree. The mean of logits of R routers is one router whose hidden units are those of all, side by side.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from micropref.heads.evaluation.intervals import standard_error
from micropref.heads.fitting.pair_source import Source, score
from micropref.heads.fitting.settings import Fitted
from micropref.heads.mixture import Mixture, Router, pair_log_probability

MERGED = 4
"""Restarts that are merged, the best by validation."""


@torch.no_grad()
def merge_restarts(fitted: Sequence[Fitted], validation: Source, clusters: torch.Tensor) -> tuple[Mixture, int]:
    """Return a mixture with the K heads of one setting's restarts, and how many of these it is made of.

    It is made of the best MERGED by validation NLL; of the best alone where their mean is worse on the validation
    pairs by more than one standard error, paired and by cluster [N]: then restarts found different groups.
    """
    ranked = [one.mixture for one in sorted(fitted, key=lambda one: one.validation_nll)[:MERGED]]
    best = ranked[0]
    if len(ranked) == 1 or best.k == 1:
        return best, 1
    scores = [score(mixture, validation) for mixture in ranked]
    posteriors = [torch.softmax(weights + F.logsigmoid(margins), 1) for margins, weights in scores]
    merged = mean_mixture(ranked, [matched_heads(posteriors[0], other) for other in posteriors])
    worse = (pair_log_probability(*scores[0]) - pair_log_probability(*score(merged, validation))).double()
    within = float(worse.mean()) <= float(standard_error(worse[:, None], clusters))
    return (merged, len(ranked)) if within else (best, 1)


def matched_heads(first: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return for each head of one mixture the head [K] of another that answers for the same pairs.

    From their posteriors ρ [N, K]: the pairing with the largest Σ_i ρ_ij ρ'_ik in all, by the Hungarian method.

    Example: the other mixture has the same heads in another order.
        >>> first = torch.tensor([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0], [0.0, 0.2, 0.8]])
        >>> matched_heads(first, first[:, [2, 0, 1]]).tolist()
        [1, 2, 0]

    """
    _, places = linear_sum_assignment((first.T @ other).numpy(), maximize=True)
    return torch.from_numpy(places)


def mean_mixture(mixtures: Sequence[Mixture], places: Sequence[torch.Tensor]) -> Mixture:
    """Return the mean of R mixtures of one kind, whose heads and logits are taken in the order of `places` [R][K]."""
    pairs = list(zip(mixtures, places, strict=True))
    heads = torch.stack([mixture.heads[order] for mixture, order in pairs]).mean(0)
    routers = [(mixture.router, order) for mixture, order in pairs if mixture.router is not None]
    if routers:
        own = [mixture.no_context[order] for mixture, order in pairs if mixture.no_context is not None]
        return Mixture(heads, _mean_router(routers), no_context=_mean_log_weights(own))
    statics = [mixture.static[order] for mixture, order in pairs if mixture.static is not None]
    return Mixture(heads, static=_mean_log_weights(statics))


def _mean_log_weights(found: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """Return the log-weights [K] of the mean logits; None of none."""
    return torch.log_softmax(torch.stack(list(found)).mean(0), 0) if found else None


def _mean_router(routers: Sequence[tuple[Router, torch.Tensor]]) -> Router:
    """Return the router of the mean logits: [R h, D] hidden units, or one linear map."""
    v2 = [router.v2[order] / len(routers) for router, order in routers]
    b2 = torch.stack([router.b2[order] for router, order in routers]).mean(0)
    hidden = [(router.v1, router.b1) for router, _ in routers if router.v1 is not None and router.b1 is not None]
    if not hidden:
        return Router(None, None, torch.stack(v2).sum(0), b2)
    return Router(torch.cat([v1 for v1, _ in hidden]), torch.cat([b1 for _, b1 in hidden]), torch.cat(v2, 1), b2)
