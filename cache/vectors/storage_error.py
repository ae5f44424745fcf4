"""What storing vectors in fewer bits does to differences of two of them.

n vectors, m pairs, D embedding width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


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
