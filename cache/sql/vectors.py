"""Vectors as rows for SQL: float32, in pieces, and only if they fit.

n vectors of one features id, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa

from micropref.cache.errors import BadInput
from micropref.cache.sql.sandbox import MIB, SHARE, SqlLimits
from micropref.cache.sql.tables import Rows
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.features import Features
from micropref.cache.vectors.key_index import as_series
from micropref.cache.vectors.opening import open_features
from micropref.cache.vectors.parquet_layout import Rows as Positions

PIECE = 8192
FLOAT_BYTES = 4


def vector_type(store: StoreFolder) -> str:
    """Return FLOAT[D], or FLOAT[] where the features ids of a store differ in D or there is none."""
    widths = {features.width for features in _all_features(store)}
    return f"FLOAT[{widths.pop()}]" if len(widths) == 1 else "FLOAT[]"


def vector_table(store: StoreFolder, limits: SqlLimits) -> pa.Table | None:
    """Return features, key and vector of the first `limit_vectors` vectors of each features id; None without any.

    Raises BadInput with the size where they take more than half of the memory limit.
    """
    chosen = [(features, _positions(features, limits.limit_vectors)) for features in _all_features(store)]
    _check_size(chosen, limits)
    one_width = len({features.width for features, _ in chosen}) == 1
    pieces = []
    for features, positions in chosen:
        kind = pa.list_(pa.float32(), features.width if one_width else -1)
        named = _keys(features, positions)
        for start in range(0, len(positions), PIECE):
            piece = positions[start : start + PIECE]
            values = features.gather(piece).astype(np.float32, copy=False)
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), features.width)
            pieces.append(named.slice(start, PIECE).append_column("vector", vectors.cast(kind)))
    return pa.concat_tables(pieces) if pieces else None


def key_rows(store: StoreFolder, limits: SqlLimits) -> Rows:
    """Yield features and key of the same rows, the vectors left where they are."""
    for features in _all_features(store):
        yield _keys(features, _positions(features, limits.limit_vectors))


def _keys(features: Features, positions: Positions) -> pa.Table:
    """Return key and features id of the rows at positions [n]."""
    keys = features.keys().take(pa.array(positions))
    return pa.table({"key": keys, "features": pa.repeat(pa.scalar(features.id), len(positions))})


def _all_features(store: StoreFolder) -> Iterator[Features]:
    """Open all features. A query's process has the threads it was given, and memory for no others."""
    return (replace(open_features(store, name), readers=1) for name in store.names("features"))


def _positions(features: Features, limit: int | None) -> Positions:
    """Return the positions of distinct keys [n], each the first committed row of its key, in order."""
    return np.unique(features.locate(as_series(features.keys())))[:limit]


def _check_size(chosen: list[tuple[Features, Positions]], limits: SqlLimits) -> None:
    size = sum(len(positions) * features.width * FLOAT_BYTES for features, positions in chosen)
    if size > limits.bytes * SHARE:
        count = sum(len(positions) for _, positions in chosen)
        raise BadInput(
            f"embeddings: {count:,} vectors take {size / MIB:,.0f} MiB, more than half of the memory limit of "
            f"{limits.memory_mb:,} MiB; give `limit_vectors`, raise `memory_mb`, or leave `vector` out of the query"
        )
