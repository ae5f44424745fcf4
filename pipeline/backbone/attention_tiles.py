"""Tiles: the attention of packed trees, cut into rectangles of few shapes: some queries and all keys that they see.

A tree's segments have as many shapes as texts. Cut, and rounded up to a few, those of equal shape are one product, and
the kernels of a shape, which are built when it is first met, serve every pack that follows.

Letters: T packed tokens, H query heads, G key heads, R = H / G query heads of each, C tiles of
n queries and c keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from micropref.pipeline.backbone.packing import Segment

_GRAIN = 32
"""Queries and keys come in multiples of it, or of an eighth of their number where that is more."""
_HEIGHT = 128
"""Most queries of a tile; as often halved as its scores are beyond the limit, down to the grain."""
_SCORES = 2**19
"""Scores written out at a time: more would leave a CPU's caches."""


@dataclass(frozen=True, eq=False)
class Tiles:
    """C tiles of one shape."""

    queries: Tensor
    """[C·R·n] rows of their queries among the R·T of a key head; a tile that is not full repeats its last."""
    results: Tensor
    """[C·R·n] rows that their results go to; those of repeated queries to row R·T, which nobody reads."""
    keys: Tensor
    """[C·c] packed rows of their keys, hidden ones behind those that are seen."""
    hidden: Tensor
    """[C, 1, n or 1, m] -inf where a query does not see one of the last m keys, else 0; all before them are seen."""


@dataclass(frozen=True, slots=True)
class _Tile:
    rows: np.ndarray
    """Packed rows of its queries."""
    places: np.ndarray
    """Places of its queries in the text."""
    keys: np.ndarray
    """Packed rows of its keys."""
    first: int
    """Place of its first key in the text."""
    shape: tuple[int, int]
    """n and c: its queries and keys rounded up."""


def cut_tiles(
    segments: Sequence[Segment], *, causal: bool, window: int | None, heads: int, shared: int, device: torch.device
) -> list[Tiles]:
    """Return all tiles of a pack for G `heads` of keys, each `shared` by R of queries.

    `causal`: a token sees those before it; else all of its text. `window`: those less than so many places away.
    """
    alike: dict[tuple[int, int], list[_Tile]] = {}
    for segment in segments:
        for tile in _cut(segment, causal, window, heads * shared):
            alike.setdefault(tile.shape, []).append(tile)
    tokens = max(segment.stop for segment in segments)
    found = []
    for (n, c), tiles in alike.items():
        together = max(1, _SCORES // (heads * shared * n * c))
        parts = (tiles[start : start + together] for start in range(0, len(tiles), together))
        found += [_stack(part, causal, window, shared, tokens, device) for part in parts]
    return found


def _cut(segment: Segment, causal: bool, window: int | None, heads: int) -> Iterable[_Tile]:
    path = np.concatenate([np.arange(*span) for span in segment.spans])
    lead = len(path) - (segment.stop - segment.start)  # tokens before the segment's own
    height = _HEIGHT
    while height > _GRAIN and heads * height * len(path) > _SCORES:
        height //= 2
    for start in range(lead, len(path), height):
        stop = min(start + height, len(path))
        first = 0 if window is None else max(0, start - window + 1)
        last = stop if causal else len(path) if window is None else min(len(path), stop + window - 1)
        places = np.arange(start, stop)
        shape = _rounded(stop - start), _rounded(last - first)
        yield _Tile(path[start:stop], places, path[first:last], first, shape)


def _stack(
    tiles: list[_Tile], causal: bool, window: int | None, shared: int, tokens: int, device: torch.device
) -> Tiles:
    n, c = tiles[0].shape
    rows = np.stack([_filled(tile.rows, n) for tile in tiles])
    real = np.arange(n) < np.array([len(tile.rows) for tile in tiles])[:, None]
    heads = tokens * np.arange(shared)[:, None]
    queries = rows[:, None] + heads
    results = np.where(real[:, None], queries, shared * tokens)
    return Tiles(
        queries=torch.from_numpy(queries.ravel()).to(device),
        results=torch.from_numpy(results.ravel()).to(device),
        keys=torch.from_numpy(np.concatenate([_filled(tile.keys, c) for tile in tiles])).to(device),
        hidden=_hidden(tiles, causal, window).to(device),
    )


def _hidden(tiles: list[_Tile], causal: bool, window: int | None) -> Tensor:
    n, c = tiles[0].shape
    # Without a window only the last keys are ever hidden: what rounding added, and what lies right of the diagonal.
    last = c if window is not None else min(c, _grain(c) + (n if causal else 0))
    places = np.stack([_filled(tile.places, n) for tile in tiles])[:, None, :, None]
    behind = np.array([tile.first + len(tile.keys) for tile in tiles])[:, None, None, None]
    keys = np.array([tile.first for tile in tiles])[:, None, None, None] + np.arange(c - last, c)
    hidden = keys >= behind
    if causal:
        hidden = hidden | (keys > places)
    if window is not None:
        hidden = hidden | (abs(keys - places) >= window)
    return torch.zeros(hidden.shape).masked_fill_(torch.from_numpy(hidden), float("-inf"))


def _filled(values: np.ndarray, length: int) -> np.ndarray:
    """Return `values` with the last repeated."""
    return np.pad(values, (0, length - len(values)), mode="edge")


def _rounded(number: int) -> int:
    grain = _grain(number)
    return -(-number // grain) * grain


def _grain(number: int) -> int:
    return max(_GRAIN, (1 << (number.bit_length() - 1)) // 8)
