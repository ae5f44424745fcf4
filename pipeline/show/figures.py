"""Figures as text: each kind has one form, the same in every report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

FEW = 30
"""Clusters below which an interval over them is rough."""
SURE = 0.95
"""Scales above this are not worth a line."""


def accuracy(value: float) -> str:
    """Return an accuracy or NLL of its own."""
    return f"{value:.4f}"


def with_interval(value: float, low: float | None, high: float | None) -> str:
    """Return a figure and its 95 % interval, where that is known: 0.810 (0.789-0.829)."""
    return f"{value:.3f}" + ("" if low is None or high is None else f" ({low:.3f}-{high:.3f})")


def gain_with_interval(value: float, low: float | None, high: float | None) -> str:
    """Return a difference and its 95 % interval, where that is known, all signed: +0.012 (-0.003 to +0.027)."""
    return f"{value:+.3f}" + ("" if low is None or high is None else f" ({low:+.3f} to {high:+.3f})")


def over(clusters: Mapping[str, int]) -> str:
    """Return what intervals are over: users × prompts."""
    return " × ".join(clusters)


def few_clusters(clusters: Mapping[str, int]) -> list[str]:
    """Return the warning, if any, that there are too few users, prompts or wordings to trust intervals fully."""
    few = [counted(count, name.removesuffix("s")) for name, count in clusters.items() if 1 < count < FEW]
    single = [name.removesuffix("s") for name, count in clusters.items() if count == 1]
    rough = f"some intervals rest on {' and '.join(few)}: below {FEW} they are rough"
    silent = f"some rows have one {' and one '.join(single)}: their intervals say nothing about others"
    return [f"warning: {line}" for line, told in ((rough, few), (silent, single)) if told]


def with_error(value: float, error: float | None) -> str:
    """Return a figure with its standard error or deviation, where that is known: 0.8117 ± 0.0012."""
    return f"{value:.4f}" + (f" ± {error:.4f}" if error is not None and math.isfinite(error) else "")


def about_scale(record: Mapping[str, Any]) -> list[str]:
    """Return what a run's scale says of it, nothing where its probabilities are as sure as they may be."""
    scale = record.get("scale", 1.0)
    if scale == 0:
        return ["no signal: validation pairs do not tell it from a coin (NLL ln 2 = 0.6931), so every probability is ½"]
    if scale > SURE:
        return []
    return [f"too sure on validation pairs: for probabilities and NLL its log-odds are multiplied by {scale:.2f}"]


def counted(count: int, word: str) -> str:
    """Return a number of things, in the singular where it is one."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def weights_of(weights: Sequence[float]) -> str:
    """Return the weights of heads, the first head's first."""
    return " ".join(f"{weight:.2f}" for weight in weights)
