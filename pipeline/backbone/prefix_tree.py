"""Prefix trees: token sequences that begin alike, as branches in which every distinct prefix has its last token once.

A branch is what one sequence has beyond the longest beginning that it shares with earlier ones, so that the tokens of a
tree are exactly those a causal backbone has to read to know the state at the end of every sequence.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Branch:
    """Tokens that follow each other without a gap."""

    parent: int
    """Branch that it leaves, an earlier one; -1: none."""
    fork: int
    """Tokens before it: where it leaves its parent's path."""
    ids: Ids
    """Its own tokens, at least one, at positions fork, fork + 1, ..."""


@dataclass(frozen=True)
class PrefixTree:
    """Some sequences as branches."""

    branches: list[Branch]
    """Parents before children."""
    places: list[tuple[int, int]]
    """For each sequence a branch and a length: the sequence is the first so many tokens of that branch's path."""

    @property
    def tokens(self) -> int:
        """Return the number of distinct prefixes, each of which is one token to read."""
        return sum(len(branch.ids) for branch in self.branches)

    def path(self, branch: int, length: int) -> list[tuple[int, int]]:
        """Return (branch, own tokens of it) from the root down: where the first `length` tokens of a path lie."""
        pieces = []
        while branch >= 0:
            here = self.branches[branch]
            if length > here.fork:
                pieces.append((branch, length - here.fork))
                length = here.fork
            branch = here.parent
        return pieces[::-1]


def sorted_with_shared(sequences: Sequence[Ids]) -> tuple[list[int], list[int]]:
    """Return the order of `sequences` as words in a dictionary, and how many tokens each shares with the one before.

    The differences of length and shared tokens add up to the tokens of the sequences' tree.
    """
    # Big-endian bytes of numbers that are not negative compare as the numbers do.
    words = [np.ascontiguousarray(ids, dtype=">i4").tobytes() for ids in sequences]
    order = sorted(range(len(words)), key=words.__getitem__)
    shared = [_shared(sequences[first], sequences[second]) for first, second in pairwise(order)]
    return order, [0, *shared][: len(order)]


def prefix_tree(sequences: Sequence[Ids]) -> PrefixTree:
    """Return the tree of sequences of at least one token each, in any order, equal ones allowed.

    Example: the first text is a beginning of the second, the others leave it behind 4 tokens and behind 1.
        >>> texts = [7, 3, 9], [7, 3, 9, 4, 5], [7, 3, 9, 4, 6, 6], [7, 8, 2]
        >>> tree = prefix_tree([np.array(ids, np.int32) for ids in texts])
        >>> [(one.parent, one.fork, one.ids.tolist()) for one in tree.branches]
        [(-1, 0, [7, 3, 9, 4, 5]), (0, 4, [6, 6]), (0, 1, [8, 2])]
        >>> tree.places, tree.tokens
        ([(0, 3), (0, 5), (1, 6), (2, 3)], 9)

    """
    order, shared = sorted_with_shared(sequences)
    branches: list[Branch] = []
    places = [(-1, 0)] * len(order)
    trail: list[int] = []  # branches of the path of the last sequence, from the root down
    waiting: list[int] = []  # sequences that are a beginning of the next
    for place, (number, common) in enumerate(zip(order, shared, strict=True)):
        length = len(sequences[number])
        assert length > 0, "a sequence has tokens"
        waiting.append(number)
        if place + 1 < len(order) and shared[place + 1] == length:
            continue
        # What the first of the waiting shares with its predecessor is all that they share with any earlier sequence.
        first = place + 1 - len(waiting)
        common = shared[first]
        while trail and branches[trail[-1]].fork >= common:
            trail.pop()
        branches.append(Branch(trail[-1] if trail else -1, common, sequences[number][common:]))
        trail.append(len(branches) - 1)
        for one in waiting:
            places[one] = (len(branches) - 1, len(sequences[one]))
        waiting.clear()
    return PrefixTree(branches, places)


def grouped(groups: Sequence[int]) -> Iterable[list[int]]:
    """Yield the places of each run of equal groups."""
    for _, run in groupby(range(len(groups)), key=groups.__getitem__):
        yield list(run)


def _shared(first: Ids, second: Ids) -> int:
    """Return how many tokens two sequences have in common at their beginning."""
    length = min(len(first), len(second))
    different = first[:length] != second[:length]
    at = int(different.argmax()) if length else 0
    return at if length and different[at] else length
