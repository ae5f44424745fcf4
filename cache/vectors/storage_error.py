"""Vectors in the bits they are stored in, and what that does to differences of two of them.

n vectors, m pairs, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from micropref.cache.errors import Failure


def delta_error(exact: npt.NDArray[Any], stored: npt.NDArray[Any], sides: npt.NDArray[np.int64]) -> float | None:
    """Return the median over pairs of |Δ stored - Δ| / |Δ|; None where there is no pair.

    `exact` and `stored` [n, D]; `sides` [2, m] are the rows of each pair's two responses.
    """
    chosen, rejected = sides
    if not len(chosen):
        return None
    delta = exact[chosen] - exact[rejected]
    kept = stored[chosen].astype(np.float32) - stored[rejected].astype(np.float32)
    error = np.linalg.norm(kept - delta, axis=1) / np.maximum(np.linalg.norm(delta, axis=1), 1e-30)
    return float(np.median(error))


def as_stored(keys: Sequence[bytes], vectors: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return vectors [n, D] in the dtype they are stored in; `keys` [n] name them.

    Raises Failure where a stored value is not finite: float16 ends at 65504, bfloat16 does not.
    """
    with np.errstate(over="ignore"):  # what float16 cannot hold becomes infinite and is refused below
        stored = vectors.astype(dtype, copy=False)
    bad = np.flatnonzero(~np.isfinite(stored).all(axis=1))
    if len(bad):
        raise Failure(
            f"vector of key {keys[bad[0]].hex()} holds values that {dtype} cannot store "
            f"({len(bad)} of {len(keys)} rows); nothing was stored, embed with `store_dtype` float32"
        )
    return stored
