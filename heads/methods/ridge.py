"""Ridge regression without intercept of several ratings on one matrix, not everything rated.

Letters: M responses, D embedding width, A attributes, P penalties.
"""

from __future__ import annotations

import torch

ALPHAS = tuple(10.0**power for power in range(-4, 5))
"""Candidates of the penalty α in ‖y − E w‖² + α ‖w‖²."""


def ridge_path(embedding: torch.Tensor, ratings: torch.Tensor, alphas: tuple[float, ...]) -> torch.Tensor:
    """Return the weights [P, A, D] for every penalty, float64, from rows [M, D] and ratings [M, A], NaN where unrated.

    Attributes that are rated on the same rows share one eigendecomposition, and penalties share it anyhow.
    """
    rated = ~ratings.isnan()
    weights = torch.empty(len(alphas), ratings.shape[1], embedding.shape[1], dtype=torch.float64)
    patterns, pattern = torch.unique(rated, dim=1, return_inverse=True)
    penalties = torch.tensor(alphas, dtype=torch.float64)[:, None, None]
    for number, rows in enumerate(patterns.unbind(1)):
        columns = (pattern == number).nonzero()[:, 0]
        known = embedding[rows].double()
        values, vectors = torch.linalg.eigh(known.T @ known)
        target = vectors.T @ (known.T @ ratings[rows][:, columns].double())
        # Rounding makes eigenvalues of a singular matrix slightly negative.
        solved = target / (values.clamp_min(0)[:, None] + penalties)
        weights[:, columns] = (vectors @ solved).mT
    return weights


def chosen_ridge(
    fitting: tuple[torch.Tensor, torch.Tensor], held_out: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weights [A, D] of rows and ratings, and each attribute's α [A] of least squared error on held-out ones.

    An attribute that nobody rated among the held-out rows takes the strongest penalty.
    """
    path = ridge_path(*fitting, ALPHAS)
    embedding, ratings = held_out
    errors = (embedding.double() @ path.mT - ratings.double()).square().nanmean(1)
    best = torch.where(errors.isnan(), torch.inf, errors).argmin(0)
    best = torch.where(errors.isnan().all(0), len(ALPHAS) - 1, best)
    return path[best, torch.arange(len(best))], torch.tensor(ALPHAS, dtype=torch.float64)[best]
