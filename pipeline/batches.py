"""Batches of texts of similar length, and the check that their vectors are numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cache.errors import Failure

TOKENS_PER_BATCH = 8192
"""Padded tokens in a batch: larger ones leave a CPU's caches and lose a fifth of the speed."""


def length_sorted_batches(
    lengths: Sequence[int] | npt.NDArray[np.int64], tokens_per_batch: int = TOKENS_PER_BATCH
) -> list[npt.NDArray[np.int64]]:
    """Return the indices of each batch, longest texts first, every index in exactly one batch.

    rows x longest row <= `tokens_per_batch`, except for a single text longer than that, which is alone.
    Longest first: a batch that does not fit into memory shows at once rather than at the end.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    batches = []
    start = 0
    while start < len(order):
        rows = max(1, tokens_per_batch // max(1, int(sizes[order[start]])))
        batches.append(order[start : start + rows])
        start += rows
    return batches


def require_finite(vectors: npt.NDArray[np.floating], names: Sequence[str]) -> None:
    """Check that every value of `vectors` [N, D] is a number; `names` [N] say whose each row is.

    Raises Failure naming the first row with a NaN or an infinity.
    """
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        row = int(bad[0])
        values = int((~np.isfinite(vectors[row])).sum())
        raise Failure(
            f"{names[row]}: {values} of {vectors.shape[1]} values of its vector are NaN or infinite "
            f"({len(bad)} of {len(vectors)} texts in this batch): compute and store in float32, or check the backbone"
        )
