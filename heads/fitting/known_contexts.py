"""Which contexts resemble those that a router was fitted on: of others its weights are a guess.

C contexts, D embedding width. A context is known where the nearest fitted one is as near as fitted contexts mostly have
one among the others: each of them held out once says how near that is. Distances are 1 − cosine of the vectors as they
are: less their mean, contexts and other texts are hard to tell apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F  # noqa: N812 - the field's name for it

SHARE = 0.95
"""Of the fitted contexts, those that count as known when they are held out."""
LEAST = 3
"""Contexts from which on there is something to say."""
MOST = 1024
"""Contexts that are kept: of more, so many drawn at random stand for all."""
ROUNDING = 1e-3
"""Distance that rounding to half precision may make."""


@dataclass(frozen=True, slots=True)
class KnownContexts:
    """Contexts that a router was fitted on."""

    vectors: torch.Tensor
    """[C, D] of length 1."""
    threshold: float
    """Distance to the nearest up to which a context is known."""

    def knows(self, contexts: torch.Tensor) -> torch.Tensor:
        """Return which contexts [n], given as vectors [n, D], resemble a fitted one."""
        return _nearest(F.normalize(contexts.float(), dim=1), self.vectors.float()) <= self.threshold + ROUNDING


def known_contexts(vectors: torch.Tensor) -> KnownContexts | None:
    """Return what the vectors [C, D] of distinct fitted contexts tell; None where these are fewer than LEAST."""
    if len(vectors) < LEAST:
        return None
    kept = vectors
    if len(vectors) > MOST:
        kept = vectors[torch.randperm(len(vectors), generator=torch.Generator().manual_seed(0))[:MOST].sort().values]
    unit = F.normalize(kept.float(), dim=1)
    distances = 1 - unit @ unit.T
    held_out = distances.fill_diagonal_(torch.inf).min(1).values
    return KnownContexts(unit, float(held_out.quantile(SHARE)))


def _nearest(contexts: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    return (1 - contexts @ known.T).min(1).values
