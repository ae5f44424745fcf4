"""What methods fitted in stacks share: initial values by seed, scales, networks, checks of saved tensors.

Letters: S seeds, B rows, D width of the input, H hidden units, O outputs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import torch

from micropref.heads.fitting.scales import rms
from micropref.heads.methods.base import Pairs

Parts = dict[str, torch.Tensor]


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """Return one generator for each seed, to draw a method's initial values from in a fixed order."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def normal(own: Sequence[torch.Generator], *shape: int) -> torch.Tensor:
    """Return standard normal values [S, *shape], each seed's from its own generator."""
    return torch.stack([torch.randn(*shape, generator=generator) for generator in own])


def uniform(own: Sequence[torch.Generator], bound: float, *shape: int) -> torch.Tensor:
    """Return values [S, *shape] uniform on ±bound, each seed's from its own generator."""
    return (2 * torch.stack([torch.rand(*shape, generator=generator) for generator in own]) - 1) * bound


def network(own: Sequence[torch.Generator], widths: Sequence[int], prefix: str = "") -> Parts:
    """Return layers v0 [S, H, D], b0 [S, H], v1 ...: weights uniform on ±1/√inputs, biases 0."""
    parts: Parts = {}
    for layer, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        parts[f"{prefix}v{layer}"] = uniform(own, 1 / math.sqrt(inputs), outputs, inputs)
        parts[f"{prefix}b{layer}"] = torch.zeros(len(own), outputs)
    return parts


def affine(x: torch.Tensor, v: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return v x + b [S, B, O] of v [S, O, D], b [S, O] and rows [S, B, D], or [B, D] shared by all seeds."""
    if x.ndim == 2:  # one wide product instead of S narrow ones
        wide = torch.addmm(b.flatten(), x, v.flatten(0, 1).T)
        return wide.view(len(x), *b.shape).transpose(0, 1)
    return torch.baddbmm(b[:, None], x, v.mT)


def run_network(
    parts: Mapping[str, torch.Tensor],
    x: torch.Tensor,
    prefix: str = "",
    activation: Callable[[torch.Tensor], torch.Tensor] = torch.relu,
) -> torch.Tensor:
    """Return the outputs [S, B, O] of the layers under `prefix` for rows [S, B, D] or [B, D]."""
    for layer in itertools.count():
        x = affine(x, parts[f"{prefix}v{layer}"], parts[f"{prefix}b{layer}"])
        if f"{prefix}v{layer + 1}" not in parts:
            return x
        x = activation(x)
    raise AssertionError


def response_scale(pairs: Pairs) -> float:
    """Return the root mean square of all entries of all responses' embeddings."""
    chosen, rejected = (rms(part, "the responses' embedding") for part in pairs.responses())
    return math.hypot(chosen, rejected) / math.sqrt(2)


def one_seed(parts: Mapping[str, torch.Tensor], seed: int) -> Parts:
    """Return a copy on the CPU of the parts at one place of the stack."""
    return {name: part[seed].to("cpu", torch.float32, copy=True) for name, part in parts.items()}


def stacked(parts: Mapping[str, torch.Tensor]) -> Parts:
    """Return the parts of one model as a stack of one seed."""
    return {name: part[None] for name, part in parts.items()}


def checked(state: Mapping[str, torch.Tensor], expected: Mapping[str, str]) -> Parts:
    """Return the tensors of a state whose names are those expected, each with one letter for every dimension.

    The same letter stands for the same size in all of them. Raises ValueError for anything else.
    """
    if state.keys() != expected.keys():
        raise ValueError(f"found tensors {sorted(state)}, expected {sorted(expected)}")
    sizes: dict[str, int] = {}
    for name, letters in expected.items():
        shape = tuple(state[name].shape)
        if len(shape) != len(letters) or any(sizes.setdefault(x, n) != n for x, n in zip(letters, shape, strict=True)):
            raise ValueError(f"{name} has shape {list(shape)}, expected [{', '.join(letters)}] with {sizes}")
    return dict(state)
