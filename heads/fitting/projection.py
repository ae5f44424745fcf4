"""Principal components: a fit on r < D numbers per embedding, folded back so that nothing downstream knows of it.

Letters: N pairs, D embedding width, r components. The basis is orthonormal: components keep their sizes, and the one
rms by which a fit divides each input rescales them all alike. Whitening would raise noise to the size of signal, and
so does AdamW, which moves every weight alike, where signal and noise have axes of their own: the axes are therefore
turned at random, so that each holds some of everything, as those of the embeddings do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from micropref.heads.fitting.pair_source import Source, open_feed
from micropref.heads.fitting.segments import Segments
from micropref.heads.fitting.settings import PairTensors
from micropref.heads.fitting.solvers import width_factor
from micropref.heads.mixture import Mixture

OVERSAMPLED = 32
"""Directions iterated in addition to the r wanted: the last of those converge sooner."""
ITERATIONS = 3


@dataclass(frozen=True, slots=True)
class Components:
    """Principal components of both inputs, most energy first; None where an input stays as it is."""

    delta: torch.Tensor | None
    """[D, R] orthonormal, float32"""
    router: torch.Tensor | None
    """[D', R] orthonormal, float32"""

    def projection(self, width: int, seed: int = 0) -> Projection:
        """Return the projection to the span of the first `width` components, its axes drawn by the seed."""
        generator = torch.Generator().manual_seed(seed)
        bases = [
            None
            if basis is None
            else basis[:, :width] @ torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
            for basis in (self.delta, self.router)
        ]
        return Projection(*bases)


@dataclass(frozen=True, slots=True)
class Projection:
    """Orthonormal axes for both inputs; None where an input stays as it is."""

    delta: torch.Tensor | None
    """[D, r] float32"""
    router: torch.Tensor | None
    """[D', r] float32"""

    def project(self, source: Source) -> PairTensors:
        """Return the pairs' components [N, r], float32, in memory whether the source is or not."""
        read, router, start = source.router_rows, None, 0
        delta = torch.empty(source.pairs, _width(source.width, self.delta))
        if source.router_width is not None:
            inputs = source.pairs if read is None else int(read.max()) + 1
            router = torch.zeros(inputs, _width(source.router_width, self.router))
        for batch in open_feed(source, router is not None).in_order():
            pairs = slice(start, start + len(batch.delta))
            delta[pairs] = _components(batch.delta, self.delta)
            if router is not None and batch.router is not None:
                rows = _components(batch.router, self.router)
                if read is None:
                    router[pairs] = rows
                else:
                    router[read[pairs]] = rows[batch.router_rows]
            start = pairs.stop
        units = source.units if isinstance(source, PairTensors) else None
        return PairTensors(delta, router, units, read)

    def fold(self, mixture: Mixture) -> Mixture:
        """Return the mixture that predicts from the embeddings themselves what this one does from components."""
        heads = _full_width(mixture.heads, self.delta)
        router = mixture.router
        if router is None:
            return Mixture(heads, static=mixture.static)
        if router.v1 is None:
            full = replace(router, v2=_full_width(router.v2, self.router))
        else:
            full = replace(router, v1=_full_width(router.v1, self.router))
        return replace(mixture, heads=heads, router=full)


def fit_projection(train: Source, width: int) -> Projection:
    """Return the projection of the training pairs to their `width` principal components."""
    return principal_components(train, width).projection(width)


def principal_components(train: Source, width: int, seed: int = 0) -> Components:
    """Return the training pairs' `width` principal components; an input no wider than that stays.

    Not centred: a reward has no bias, and the mean of the router's input is a direction like others. The pairs are
    read once.
    """
    delta = _Gram(train.width, width)
    router = _Gram(train.router_width or 0, width)
    for batch in open_feed(train, train.router_width is not None).in_order():
        delta.add(batch.delta)
        if batch.router is not None:
            router.add(batch.router, batch.readers)
    return Components(delta.basis(seed), router.basis(seed))


def rate_factor(full: Source, narrow: Source) -> float:
    """Return by how much a fit on components raises learning rates to go as far as the fit in full width would."""
    return _speed(full) / _speed(narrow)


def _speed(source: Source) -> float:
    """Return how far a step of AdamW moves a margin, in units of the learning rate and of the input's rms.

    It moves every weight by about its rate: the mean over the first pairs of Σ_d |Δ_d|, at most D, where the width
    leaves the rate as it is.
    """
    sample = next(open_feed(source, False).in_order()).delta
    sizes = sample.shape[1] * (sample.abs().mean() / sample.square().mean().sqrt()).item()
    return sizes * width_factor(source.width)


class _Gram:
    """rowsᵀ rows [D, D] of rows that come in parts, and its leading eigenvectors."""

    def __init__(self, full: int, width: int) -> None:
        self._width = width
        self._total = torch.zeros(full, full) if width < full else None

    def add(self, rows: torch.Tensor, readers: Segments | None = None) -> None:
        if self._total is not None:
            rows = rows.nan_to_num()  # pairs without a context have no part in it
            self._total.addmm_(rows.T, rows if readers is None else rows * readers.sizes[:, None])

    def basis(self, seed: int) -> torch.Tensor | None:
        """Return the eigenvectors [D, width] by subspace iteration and one Rayleigh-Ritz step; None for all of D."""
        if self._total is None:
            return None
        full = len(self._total)
        generator = torch.Generator().manual_seed(seed)
        start = torch.randn(full, min(full, self._width + OVERSAMPLED), generator=generator)
        subspace = torch.linalg.qr(start).Q
        for _ in range(ITERATIONS):
            subspace = torch.linalg.qr(self._total @ subspace).Q
        vectors: torch.Tensor = torch.linalg.eigh(subspace.T @ (self._total @ subspace)).eigenvectors
        leading: torch.Tensor = subspace @ vectors.flip(1)[:, : self._width]  # their eigenvalues ascend
        return leading


def _width(full: int, basis: torch.Tensor | None) -> int:
    return full if basis is None else basis.shape[1]


def _components(rows: torch.Tensor, basis: torch.Tensor | None) -> torch.Tensor:
    return rows if basis is None else rows @ basis


def _full_width(weights: torch.Tensor, basis: torch.Tensor | None) -> torch.Tensor:
    return weights if basis is None else weights @ basis.T
