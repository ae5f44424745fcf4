"""One setting's weights before and after a fit: how they start, and the mixture they become.

Letters: K heads, h hidden units, D embedding width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from micropref.heads.fitting.scales import Scales
from micropref.heads.fitting.settings import FitSetting
from micropref.heads.mixture import Mixture, Router

Parts = dict[str, torch.Tensor]
"""By name: heads [K, D], an ensemble's frozen prior [K, D], b2 [K], and a router's v1 [h, D], b1 [h], v2 [K, h]."""


def initial_weights(setting: FitSetting, width: int, router_width: int, dtype: torch.dtype) -> Parts:
    """Return a setting's first weights: uniform within ±1/√inputs by its own seed, biases zero."""
    generator = torch.Generator().manual_seed(setting.seed)

    def uniform(outputs: int, inputs: int) -> torch.Tensor:
        return (torch.rand(outputs, inputs, generator=generator) * 2 - 1).to(dtype) / math.sqrt(inputs)

    k, units = setting.k, setting.hidden or setting.k
    parts = {"heads": uniform(k, width), "b2": torch.zeros(k, dtype=dtype)}
    if setting.method == "ensemble":
        parts["prior"] = uniform(k, width)
    if setting.routed:
        parts["v1"] = uniform(units, router_width)
        parts["b1"] = torch.zeros(units, dtype=dtype)
        parts["v2"] = uniform(k, units) if setting.hidden else torch.eye(k, dtype=dtype)
    return parts


def as_mixture(setting: FitSetting, weights: Parts, scales: Scales) -> Mixture:
    """Return the weights as a float32 mixture on the CPU, the inputs' scales and the router's centre folded in."""
    parts = {name: part.cpu() for name, part in weights.items()}
    heads = parts["heads"] + parts["prior"] if "prior" in parts else parts["heads"]
    heads = (heads / scales.delta).float()
    if setting.routed:
        v1 = parts["v1"].double() / (scales.router if scales.sizes is None else scales.sizes)
        shift = 0 if scales.centre is None else v1 @ scales.centre
        if setting.hidden == 0:
            return Mixture(heads, Router(None, None, v1.float(), (parts["b2"] - shift).float()))
        b1 = (parts["b1"] - shift).float()
        return Mixture(heads, Router(v1.float(), b1, parts["v2"].float(), parts["b2"].float()))
    if setting.method == "static":
        return Mixture(heads, static=torch.log_softmax(parts["b2"], 0).float())
    return Mixture(heads)


def padded(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Stack tensors of one rank, each padded with zeros behind to the largest of every dimension."""
    shape = [max(sizes) for sizes in zip(*(part.shape for part in parts), strict=True)]
    stacked = parts[0].new_zeros(len(parts), *shape)
    for target, part in zip(stacked, parts, strict=True):
        target[tuple(slice(size) for size in part.shape)] = part
    return stacked
