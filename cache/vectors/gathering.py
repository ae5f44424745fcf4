"""Vectors of a features id as float32 tensors: found by key, gathered a chunk at a time.

N vectors, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import torch

from micropref.cache.errors import Failure
from micropref.cache.vectors.features import Features
from micropref.cache.vectors.parquet_layout import Rows

CHUNK = 1 << 10
"""Vectors gathered at a time: few enough that they are still in a core's cache when they are converted."""


def gather_keys(features: Features, keys: pl.Series) -> torch.Tensor:
    """Return the vectors of keys [N] as [N, D] float32. Raises Failure where one is not in the store any more."""
    return gather_rows(features, positions_of(features, keys))


def positions_of(features: Features, keys: pl.Series) -> Rows:
    """Return the positions of keys [N]. Raises Failure where one is not in the store any more."""
    positions = features.locate(keys)
    lost = int((positions < 0).sum())
    if lost:
        raise Failure(
            f"features {features.id}: {lost} of {len(positions)} vectors are not in the store any more; "
            f"run the `micropref {'import-vectors' if features.imported else 'embed'}` of this data set again"
        )
    return positions


def gather_rows(features: Features, positions: Rows) -> torch.Tensor:
    """Return the vectors at positions [N] as [N, D]."""
    out, read = fresh_memory(len(positions), features.width), _reader(features)
    for start in range(0, len(positions), CHUNK):
        part = slice(start, start + CHUNK)
        out[part] = read(positions[part])
    return out


def gather_differences(features: Features, first: Rows, second: Rows) -> torch.Tensor:
    """Return the vectors at `first` [N] less those at `second` [N]."""
    out, read = fresh_memory(len(first), features.width), _reader(features)
    for start in range(0, len(first), CHUNK):
        part = slice(start, start + CHUNK)
        out[part] = read(first[part])
        out[part] -= read(second[part])
    return out


def _reader(features: Features) -> Callable[[Rows], torch.Tensor]:
    """Return what gathers vectors at up to CHUNK positions into memory that the next call uses again."""
    buffer = np.empty((CHUNK, features.row_bytes), np.uint8)
    return lambda positions: torch.from_numpy(features.gather(positions, buffer[: len(positions)]))


def fresh_memory(rows: int, width: int) -> torch.Tensor:
    """Return uninitialised float32 memory: numpy asks for it in large pages, first writes to small ones are slow."""
    return torch.from_numpy(np.empty((rows, width), np.float32))
