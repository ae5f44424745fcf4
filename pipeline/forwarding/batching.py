"""Batches of texts of similar length, and the check that their vectors are numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from micropref.cache.errors import Failure

TOKENS_PER_BATCH = 8192
"""Most tokens of a batch, padding included, where nothing else is asked for."""
_CPU_TOKENS = 2048
"""Enough for a CPU. What the layers of a larger batch work on leaves its caches, and memory of that size goes back to
the operating system after every layer, to be cleared again: up to a third of the speed."""


def good_batch(device: torch.device) -> int:
    """Return how many tokens of short texts to read together."""
    return _CPU_TOKENS if device.type == "cpu" else TOKENS_PER_BATCH


def length_sorted_batches(
    lengths: Sequence[int] | npt.NDArray[np.int64], tokens_per_batch: int
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


def not_finite(vectors: npt.NDArray[np.floating]) -> dict[int, str]:
    """Return the rows of `vectors` [N, D] that are not all numbers -> what is wrong with them."""
    finite = np.isfinite(vectors)
    bad = np.flatnonzero(~finite.all(axis=1))
    return {
        int(row): f"{int((~finite[row]).sum())} of {vectors.shape[1]} values of its vector are NaN or infinite"
        for row in bad
    }


def require_finite(vectors: npt.NDArray[np.floating], names: Sequence[str]) -> None:
    """Check that every value of `vectors` [N, D] is a number; `names` [N] say whose each row is.

    Raises Failure naming the first row with a NaN or an infinity.
    """
    bad = not_finite(vectors)
    for row, what in bad.items():
        raise Failure(
            f"{names[row]}: {what} ({len(bad)} of {len(vectors)} texts in this batch): compute and store "
            "in float32, check the backbone, or skip such rows with `on_bad` skip"
        )
