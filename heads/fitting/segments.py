"""Entries that belong together: what they share is computed once, and epochs take them side by side.

Letters: N pairs, B of them in a minibatch, S segments, V runs, G settings, K heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F  # noqa: N812 - the field's name for it

ROUND = 32
"""Rows of a minibatch come in multiples of this where their number varies: the libraries behind products take longer
to prepare one for a new shape than many a step takes."""


@dataclass(frozen=True, slots=True)
class Segments:
    """Which of B entries are of one segment."""

    sizes: torch.Tensor
    """[S] entries of each segment."""
    place: torch.Tensor
    """[B] segment of each entry."""
    ordered: bool = True
    """Whether the entries of a segment lie side by side, the segments in order."""

    @classmethod
    def of_readers(cls, place: torch.Tensor, sizes: torch.Tensor) -> Segments:
        """Return segments in any order, with empty ones behind them until there is a multiple of ROUND."""
        return cls(F.pad(sizes, (0, -len(sizes) % ROUND)), place, ordered=False)

    def to(self, device: torch.device) -> Segments:
        """Return the same on another device."""
        return Segments(self.sizes.to(device), self.place.to(device), self.ordered)

    def sums(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sums [G, K, S] over segments of values [G, K, B], in an order that is always the same."""
        if values.device.type != "cuda":  # Twice as quick on a CPU; on CUDA its order would change from call to call.
            sums = values.new_zeros(*values.shape[:2], len(self.sizes))
            return sums.scatter_add_(2, self.place.expand(*values.shape[:2], -1), values)
        ordered = values if self.ordered else values.index_select(2, torch.argsort(self.place, stable=True))
        lengths = self.sizes.expand(*values.shape[:2], -1).contiguous()
        return torch.segment_reduce(ordered.contiguous(), "sum", lengths=lengths, axis=2, unsafe=True)

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """Return for each entry [G, K, B] its segment's of values [G, K, S]."""
        return spread(values, self.place)


def spread(values: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """Return the entries [G, K, B] of values [G, K, S] that stand at each place [B]."""
    return values.gather(2, place.expand(*values.shape[:2], -1))


@dataclass(frozen=True, slots=True)
class Runs:
    """N entries in V runs of some common code, to be taken in any order of runs."""

    entries: torch.Tensor
    """[N] those of a run side by side."""
    sizes: torch.Tensor
    """[V] entries of each run."""

    @classmethod
    def of(cls, codes: torch.Tensor, longest: int) -> Runs:
        """Return entries in runs of the same code [N], each code's near-equal and of `longest` entries at most."""
        lengths = torch.unique(codes, return_counts=True)[1]
        return cls(torch.argsort(codes, stable=True), near_equal(lengths, longest)[0])

    def taken(self, order: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the entries of these runs, one run behind another, and which of these runs each is of.

        Example: entries 0, 2 and 3 have code 5 and come in runs (0, 2) and (3), entries 1 and 4 are the third run.
            >>> runs = Runs.of(torch.tensor([5, 8, 5, 5, 8]), longest=2)
            >>> [part.tolist() for part in runs.taken(torch.tensor([2, 0]))]
            [[1, 4, 0, 2], [0, 0, 1, 1]]

        """
        sizes = self.sizes[order]
        place = torch.repeat_interleave(torch.arange(len(order)), sizes)
        starts = self.sizes.cumsum(0) - self.sizes
        return self.entries[starts[order][place] + run_places(sizes)], place


def near_equal(lengths: torch.Tensor, longest: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut stretches of some lengths [S] into parts of `longest` at most: return the parts' sizes and stretches [V].

    Example: 7 entries come in three parts, 2 in one.
        >>> [part.tolist() for part in near_equal(torch.tensor([7, 2]), 3)]
        [[3, 2, 2, 2], [0, 0, 0, 1]]

    """
    parts = -(-lengths // longest)
    stretch = torch.repeat_interleave(torch.arange(len(lengths)), parts)
    return (lengths // parts)[stretch] + (run_places(parts) < (lengths % parts)[stretch]), stretch


def run_places(sizes: torch.Tensor) -> torch.Tensor:
    """Return each entry's place [ΣV sizes] in its run, from 0, where runs of `sizes` [V] lie one behind another."""
    starts = sizes.cumsum(0) - sizes
    return torch.arange(int(sizes.sum())) - torch.repeat_interleave(starts, sizes)
