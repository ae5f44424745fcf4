"""What the best of n responses is worth: by the reward that chose it, and by one that did not.

N responses to one prompt, S sizes.

The expected value of the best of n responses drawn without replacement from N needs no drawing. With responses in
ascending order of the reward that chooses, the one at rank i is the best of C(i−1, n−1) of the C(N, n) draws.
Source: the estimator of Nakano et al. 2021, "WebGPT" (arXiv 2112.09332), appendix I.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


def best_of_values(chooser: torch.Tensor, other: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """Return the expected values [S, 2] of the best of n responses: by the reward that chooses, and by the other.

    `chooser` and `other` are [N]; of equal rewards the first response is the best. Raises ValueError for a size that is
    not within 1 and N.

    Example:
        >>> best_of_values(torch.tensor([0.0, 1.0]), torch.tensor([5.0, 3.0]), [1, 2]).tolist()
        [[0.5, 4.0], [1.0, 3.0]]

    """
    count = len(chooser)
    if not all(1 <= size <= count for size in sizes):
        raise ValueError(f"sizes {list(sizes)}: expected 1 to {count}")
    # Stable, so that of equals the first comes last and wins.
    order = chooser.double().flip(0).argsort(stable=True)
    both = torch.stack([chooser, other], 1).double().flip(0)[order]
    shares = [[math.comb(rank, size - 1) / math.comb(count, size) for rank in range(count)] for size in sizes]
    return torch.tensor(shares, dtype=torch.float64).reshape(len(sizes), count) @ both


def divergence(size: int) -> float:
    """Return how far the best of n is from one response: KL divergence in nats, log n − (n−1)/n, an upper bound.

    Source: Stiennon et al. 2020, "Learning to summarize from human feedback" (arXiv 2009.01325), appendix G.3.
    """
    return math.log(size) - (size - 1) / size
