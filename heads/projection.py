"""Principal components: a fit on r < D numbers per embedding, folded back so that nothing downstream knows of it.

Letters: N pairs, D embedding width, r components. The basis is orthonormal: components keep their sizes, and the one
rms by which a fit divides each input rescales them all alike. Whitening would raise noise to the size of signal.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from heads.mixture import Mixture
from heads.settings import PairTensors

BLOCK = 4096
"""Rows read at a time."""
OVERSAMPLED = 32
"""Directions iterated beside the r wanted: the last of those converge sooner."""
ITERATIONS = 3


@dataclass(frozen=True, slots=True)
class Projection:
    """Orthonormal bases of both inputs, most energy first; None where an input stays as it is."""

    delta: torch.Tensor | None
    """[D, r] float32"""
    router: torch.Tensor | None
    """[D', r] float32"""

    def narrowed(self, width: int) -> Projection:
        """Return the first components only."""
        cut = [None if basis is None else basis[:, :width].contiguous() for basis in (self.delta, self.router)]
        return Projection(*cut)

    def project(self, pairs: PairTensors) -> PairTensors:
        """Return the pairs' components [N, r], float32."""
        router = None if pairs.router is None else _components(pairs.router, self.router)
        return PairTensors(_components(pairs.delta, self.delta), router)

    def fold(self, mixture: Mixture) -> Mixture:
        """Return the mixture that predicts from the embeddings themselves what this one does from components."""
        heads = _full_width(mixture.heads, self.delta)
        router = mixture.router
        if router is None:
            return Mixture(heads, static=mixture.static)
        if router.v1 is None:
            return Mixture(heads, replace(router, v2=_full_width(router.v2, self.router)))
        return Mixture(heads, replace(router, v1=_full_width(router.v1, self.router)))


def fit_projection(train: PairTensors, width: int, seed: int = 0) -> Projection:
    """Return the bases of the training pairs' `width` principal components; an input no wider than that stays.

    Not centred: a reward has no bias, and the mean of the router's input is a direction like others.
    """
    inputs = (train.delta, train.router)
    return Projection(*(None if rows is None else _basis(rows, width, seed) for rows in inputs))


def speed(rows: torch.Tensor) -> float:
    """Return the mean over rows [N, D] of Σ_d |x_d|, in units of their rms: at most D.

    AdamW moves every weight by about its learning rate, so this times the rate is how far one step moves a margin:
    a fit on components needs a larger rate to go as far as one in full width.
    """
    sample = rows[:BLOCK].float()
    return sample.shape[1] * (sample.abs().mean() / sample.square().mean().sqrt()).item()


def _basis(rows: torch.Tensor, width: int, seed: int) -> torch.Tensor | None:
    """Return the leading eigenvectors [D, width] of rowsᵀ rows, by subspace iteration and one Rayleigh-Ritz step."""
    full = rows.shape[1]
    if width >= full:
        return None
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(full, min(full, width + OVERSAMPLED), generator=generator)
    subspace = torch.linalg.qr(start).Q
    for _ in range(ITERATIONS):
        subspace = torch.linalg.qr(_gram_product(rows, subspace)).Q
    vectors: torch.Tensor = torch.linalg.eigh(subspace.T @ _gram_product(rows, subspace)).eigenvectors
    basis: torch.Tensor = subspace @ vectors.flip(1)[:, :width]  # their eigenvalues ascend
    return basis


def _gram_product(rows: torch.Tensor, subspace: torch.Tensor) -> torch.Tensor:
    """Return rowsᵀ rows subspace [D, l], reading the rows once."""
    total = torch.zeros_like(subspace)
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK].float()
        total.addmm_(block.T, block @ subspace)
    return total


def _components(rows: torch.Tensor, basis: torch.Tensor | None) -> torch.Tensor:
    if basis is None:
        return rows
    out = torch.empty(len(rows), basis.shape[1])
    for start in range(0, len(rows), BLOCK):
        torch.mm(rows[start : start + BLOCK].float(), basis, out=out[start : start + BLOCK])
    return out


def _full_width(weights: torch.Tensor, basis: torch.Tensor | None) -> torch.Tensor:
    return weights if basis is None else weights @ basis.T
