"""Whitening of a router's input: coordinates in which prompts vary alike in every direction, and contexts stand out.

Letters: N rows, P prompts, D embedding width, R rank.

An embedded context and prompt e(q,x) varies mostly with the prompt, which says nothing of the context. With S the
covariance of prompts alone and c a share of its mean variance, z = (S + c I)^-½ (e − mean) shrinks those directions.
Few prompts span few directions, so with S = V Λ Vᵀ of rank R only V is kept: A = c^-½ (I + V (√(c/(Λ+c)) − 1) Vᵀ).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from micropref.heads.mixture import Router

SHRINKAGE = 0.3
"""c as a share of the mean variance of prompts."""
REACH = 384
"""D times the root mean square of z. A step of Adam moves every weight alike, so an output moves by as much as there
are inputs: with this a learning rate means the same at every width."""


@dataclass(frozen=True, slots=True)
class Whitening:
    """z = A (e − mean) / scale, with A symmetric; float64."""

    mean: torch.Tensor
    """[D] of the inputs."""
    directions: torch.Tensor
    """V [D, R], orthonormal."""
    stretch: torch.Tensor
    """√((Λ+c)/c) [R]: what A⁻¹ does along V, elsewhere nothing."""
    scale: float
    """What A (e − mean) is divided by."""

    def inputs(self, embedding: torch.Tensor) -> torch.Tensor:
        """Return z [N, D] of embeddings [N, D]."""
        return self._along(embedding.double() - self.mean, 1 / self.stretch) / self.scale

    def into(self, router: Router) -> Router:
        """Return, in float64, the router that says of z what `router` says of e."""
        weight, bias = _first_layer(router)
        return _with_first_layer(router, self._along(weight, self.stretch) * self.scale, bias + weight @ self.mean)

    def out_of(self, router: Router) -> Router:
        """Return, in float64, the router that says of e what `router` says of z."""
        weight, bias = _first_layer(router)
        weight = self._along(weight, 1 / self.stretch) / self.scale
        return _with_first_layer(router, weight, bias - weight @ self.mean)

    def _along(self, rows: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
        """Return rows [N, D] with their parts along V multiplied by factors [R]."""
        return rows + (rows @ self.directions * (factors - 1)) @ self.directions.T


def whitening(prompts: torch.Tensor, inputs: torch.Tensor) -> Whitening:
    """Return the whitening by embedded prompts [P, D] for a router's inputs [N, D].

    One prompt has no covariance: then nothing is shrunk.
    """
    centred = prompts.double() - prompts.double().mean(0)
    _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
    variance = singular.square() / len(prompts)
    floor = SHRINKAGE * variance.sum() / prompts.shape[1]
    stretch = torch.where(floor > 0, (1 + variance / floor).sqrt(), 1.0)
    mean = inputs.double().mean(0)
    unscaled = Whitening(mean, directions.T, stretch, 1.0)
    scale = unscaled.inputs(inputs).square().mean().sqrt().item() * inputs.shape[1] / REACH
    return Whitening(mean, directions.T, stretch, scale or 1.0)


def _first_layer(router: Router) -> tuple[torch.Tensor, torch.Tensor]:
    if router.v1 is None or router.b1 is None:
        return router.v2.double(), router.b2.double()
    return router.v1.double(), router.b1.double()


def _with_first_layer(router: Router, weight: torch.Tensor, bias: torch.Tensor) -> Router:
    if router.v1 is None:
        return Router(None, None, weight, bias)
    return Router(weight, bias, router.v2.double(), router.b2.double())
