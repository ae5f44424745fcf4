"""Fits with autograd: many seeds in one stack of tensors, Adam on minibatches that they share.

Letters: S seeds, N pairs. A loss per seed makes gradients that do not mix, and Adam works entry by entry: a
seed's result does not depend on the other seeds. Seeds differ in their initial values; the order of the pairs is
the same for all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch

from micropref.cache.errors import Failure
from micropref.heads.fitting.minibatches import batch_indices, batch_size
from micropref.heads.methods.stacking import Parts

Rows = torch.Tensor | slice
"""Pairs of one step: their numbers, or a slice that copies nothing where a step takes all."""

DATA_SEED = 0
ALL_PAIRS = 1 << 62
"""Batch of a recipe whose every step takes all pairs."""
CHUNK = 8192


@dataclass(frozen=True, slots=True)
class Recipe:
    """How far and how fast to go."""

    lr: float
    """Adam's learning rate at the start."""
    steps: int
    """Steps in all."""
    batch: int
    """Pairs of a step at most; fewer pairs are all taken in every step."""
    cosine: bool = True
    """Whether the learning rate falls to 0 along a cosine, or stays."""
    faster: Mapping[str, float] = field(default_factory=dict)
    """Learning rates at the start of the parts that have one of their own."""
    checks: int = 12
    """Times that a fit looks at the validation part."""


def descend(
    parts: Parts,
    loss: Callable[[Parts, Rows], torch.Tensor],
    pairs: int,
    recipe: Recipe,
    validation: Callable[[Parts], torch.Tensor] | None = None,
) -> Parts:
    """Minimise `loss`, [S] of the parts [S, ...] and the rows of a step, and return the parts.

    With `validation`, [S], every seed keeps its parts of the check where that was lowest; without, the last.
    Raises Failure when the parts are not finite in the end.
    """
    live = {name: part.detach().clone().requires_grad_() for name, part in parts.items()}
    rates = [recipe.faster.get(name, recipe.lr) for name in live]
    optimizer = torch.optim.Adam([{"params": [part], "lr": lr} for part, lr in zip(live.values(), rates, strict=True)])
    every = max(1, recipe.steps // recipe.checks)
    best = None if validation is None else _Best(live, validation)
    for step, rows in enumerate(itertools.islice(_steps(pairs, recipe.batch), recipe.steps)):
        if recipe.cosine:
            for group, lr in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = lr * (1 + math.cos(math.pi * step / recipe.steps)) / 2
        optimizer.zero_grad()
        torch.autograd.backward(loss(live, rows).sum())
        optimizer.step()
        if best is not None and ((step + 1) % every == 0 or step + 1 == recipe.steps):
            best.look(live)
    kept = live if best is None else best.parts
    if not all(part.isfinite().all() for part in kept.values()):
        raise Failure("the fit left the range of numbers: look for extreme features")
    return {name: part.detach() for name, part in kept.items()}


def averaged(loss: Callable[[Parts, Rows], torch.Tensor], pairs: int) -> Callable[[Parts], torch.Tensor]:
    """Return the mean of a loss [S] over all pairs, read CHUNK at a time: what a fit is validated by."""

    def mean(parts: Parts) -> torch.Tensor:
        starts = range(0, pairs, CHUNK)
        sums = [loss(parts, slice(start, start + CHUNK)) * min(CHUNK, pairs - start) for start in starts]
        return torch.stack(sums).sum(0) / pairs

    return mean


def _steps(pairs: int, batch: int) -> Iterator[Rows]:
    """Yield the rows of steps without end, epoch after epoch."""
    if batch_size(pairs, batch) == pairs:
        yield from itertools.repeat(slice(None))
    generator = torch.Generator().manual_seed(DATA_SEED)
    while True:
        yield from batch_indices(pairs, batch, generator)


class _Best:
    """Every seed's parts where its validation loss was lowest so far."""

    def __init__(self, parts: Parts, validation: Callable[[Parts], torch.Tensor]) -> None:
        self.parts = {name: part.detach().clone() for name, part in parts.items()}
        self._validation = validation
        self._lowest = torch.full((len(next(iter(parts.values()))),), math.inf)

    @torch.no_grad()
    def look(self, parts: Parts) -> None:
        found = self._validation(parts).float().cpu()
        better = found < self._lowest
        self._lowest = torch.where(better, found, self._lowest)
        for name, part in parts.items():
            self.parts[name][better.to(part.device)] = part.detach()[better.to(part.device)]
