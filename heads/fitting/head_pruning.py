"""Heads that do nothing or repeat another one: finding them, and removing the repeated ones (MiCRo, appendix C.1).

Letters: N pairs, K heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from micropref.heads.mixture import Mixture, Router

DEAD_WEIGHT = 0.01
"""Mean weight below which a head that is never a pair's favourite is dead."""
DUPLICATE = 0.95
"""Correlation of predictions above which two heads are duplicates."""


@dataclass(frozen=True, slots=True)
class Hygiene:
    """What is wrong with a mixture's heads, by their numbers."""

    dead: tuple[int, ...]
    """Heads with a mean weight below DEAD_WEIGHT that are no pair's favourite."""
    duplicates: tuple[tuple[int, int, float], ...]
    """Two heads, the first the smaller number, and the correlation of their predictions, above DUPLICATE."""


def inspect_heads(margins: torch.Tensor, log_weights: torch.Tensor) -> Hygiene:
    """Return the dead and the duplicate heads, from margins and log-weights [N, K] of held-out pairs."""
    k = margins.shape[1]
    favourites = set(log_weights.argmax(1).tolist())
    mean = log_weights.double().exp().mean(0).tolist()
    dead = tuple(head for head in range(k) if mean[head] < DEAD_WEIGHT and head not in favourites)
    correlation = prediction_correlation(margins).tolist()
    pairs = [(a, b, correlation[a][b]) for a in range(k) for b in range(a + 1, k)]
    return Hygiene(dead, tuple(pair for pair in pairs if pair[2] > DUPLICATE))


def prediction_correlation(margins: torch.Tensor) -> torch.Tensor:
    """Return the correlation [K, K] of the heads' P(first ≻ second), from margins [N, K].

    Which response of a pair comes first is arbitrary, so every pair counts in both orders: the mean is then ½, and
    no correlation is due to all heads agreeing with most choices.
    """
    centred = F.normalize(torch.sigmoid(margins.double()) - 0.5, dim=0)
    return centred.T @ centred


def prune(
    mixture: Mixture, margins: torch.Tensor, log_weights: torch.Tensor, threshold: float
) -> tuple[Mixture, list[int]]:
    """Return the mixture without heads whose predictions correlate above the threshold with a kept one's, and those.

    Heads are kept in the order of their mean weight over the pairs of `margins` and `log_weights` [N, K]. A kept head
    takes over the weight of those removed for it: exactly where the weights are static, else in its router's bias, by
    the mean over pairs of log(1 + π_removed / π_kept).
    """
    log_weights = log_weights.double()
    correlation = prediction_correlation(margins)
    order = log_weights.exp().mean(0).argsort(descending=True, stable=True).tolist()
    heirs: dict[int, list[int]] = {}
    for head in order:
        alike = [kept for kept in heirs if correlation[head, kept] > threshold]
        if alike:
            heirs[max(alike, key=lambda kept: float(correlation[head, kept]))].append(head)
        else:
            heirs[head] = []
    kept = sorted(heirs)
    removed = sorted(set(order) - set(kept))
    if not removed:
        return mixture, []
    gains = [(torch.logsumexp(log_weights[:, [head, *heirs[head]]], 1) - log_weights[:, head]).mean() for head in kept]
    return _subset(mixture, kept, torch.stack(gains).float()), removed


def _subset(mixture: Mixture, kept: Sequence[int], gains: torch.Tensor) -> Mixture:
    """Return the mixture of the kept heads, the logits of each raised by its gain."""
    rows = list(kept)
    heads = mixture.heads[rows]
    if len(rows) == 1:
        return Mixture(heads)
    if mixture.router is not None:
        router: Router = replace(mixture.router, v2=mixture.router.v2[rows], b2=mixture.router.b2[rows] + gains)
        own = mixture.no_context
        return Mixture(heads, router, no_context=None if own is None else torch.log_softmax(own[rows] + gains, 0))
    # A mixture with neither weighs its heads alike, which is a static mixture of equal logits.
    logits = mixture.heads.new_zeros(mixture.k) if mixture.static is None else mixture.static
    return Mixture(heads, static=torch.log_softmax(logits[rows] + gains, 0))
