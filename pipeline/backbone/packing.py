"""Packing: the trees of several prompt groups laid end to end, without padding, for one forward pass.

Letters: T packed tokens, B texts, M tokens of the texts, shared ones counted for each text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from micropref.pipeline.backbone.prefix_tree import grouped, prefix_tree, sorted_with_shared
from micropref.pipeline.text.tokens import Tokens

_SHAPES = 64
"""Numbers of rows that packs may have between powers of two: a library builds kernels for each, and keeps many."""
Span = tuple[int, int]
"""Packed rows from the first to behind the last."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Packed rows that attend together: one branch of a tree."""

    start: int
    """First row of its queries."""
    stop: int
    """Row behind its last query."""
    before: tuple[Span, ...]
    """Rows of the tokens before its own, in the order of the text: all queries see all of them."""

    @property
    def spans(self) -> tuple[Span, ...]:
        """Return the rows of all its keys in the order of the text."""
        return (*self.before, (self.start, self.stop))


@dataclass(frozen=True, eq=False)
class Packed:
    """Texts ready for one forward pass."""

    ids: Tensor
    """[T] token ids."""
    positions: Tensor
    """[T] place of each token in its text, from 0."""
    type_ids: Tensor | None
    """[T] segment of each token, for encoders with segments."""
    segments: list[Segment]
    """Who attends to whom; every row is in exactly one, and the few that only fill up are one of their own."""
    rows: Tensor
    """[M] packed row of every token of every text, text after text."""
    lengths: Tensor
    """[B] tokens of each text."""

    @property
    def tokens(self) -> int:
        """Return T, all that is read."""
        return len(self.ids)


def pack(texts: Sequence[Tokens], groups: Sequence[int]) -> Packed:
    """Lay texts end to end; those whose equal `groups` follow each other become one tree and share what they can.

    Example: of three texts of one prompt the second leaves the first behind its row 3, the third behind its row 0.
        >>> texts = [Tokens(np.array(ids, np.int32)) for ids in ([7, 3, 9, 4, 5], [7, 3, 9, 4, 6, 6], [7, 8, 2])]
        >>> packed = pack(texts, [0, 0, 0])
        >>> packed.ids.tolist(), packed.positions.tolist()
        ([7, 3, 9, 4, 5, 6, 6, 8, 2], [0, 1, 2, 3, 4, 4, 5, 1, 2])
        >>> [one.spans for one in packed.segments]
        [((0, 5),), ((0, 4), (5, 7)), ((0, 1), (7, 9))]

    """
    ids: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    types: list[np.ndarray] = []
    segments: list[Segment] = []
    rows: list[np.ndarray] = []
    end = 0
    for members in grouped(groups):
        tree = prefix_tree([texts[at].ids for at in members])
        starts = []
        for branch in tree.branches:
            starts.append(end)
            before = tree.path(branch.parent, branch.fork)
            spans = tuple((starts[at], starts[at] + length) for at, length in before)
            segments.append(Segment(end, end + len(branch.ids), spans))
            ids.append(branch.ids)
            positions.append(np.arange(branch.fork, branch.fork + len(branch.ids)))
            end += len(branch.ids)
        for place in tree.places:
            rows += [np.arange(starts[at], starts[at] + length) for at, length in tree.path(*place)]
        if len(members) == 1 and (own := texts[members[0]].type_ids) is not None:
            types.append(own)
    if filling := -end % max(1, (1 << end.bit_length()) // (2 * _SHAPES)):
        segments.append(Segment(end, end + filling, ()))
        ids.append(np.zeros(filling, dtype=np.int32))
        positions.append(np.arange(filling))
        types += [np.zeros(filling, dtype=np.int32)] if types else []
    return Packed(
        ids=torch.from_numpy(np.concatenate(ids)).long(),
        positions=torch.from_numpy(np.concatenate(positions)),
        type_ids=torch.from_numpy(np.concatenate(types)).long() if types else None,
        segments=segments,
        rows=torch.from_numpy(np.concatenate(rows)),
        lengths=torch.tensor([len(text) for text in texts]),
    )


def cut_packs(texts: Sequence[Tokens], groups: Sequence[int], aim: int, most: int) -> Iterator[list[int]]:
    """Yield which texts go into one pack: whole groups, in order, as many as `aim` tokens allow and at least one.

    A group beyond `most` tokens is cut, and what its parts share is read once for each of them.
    """
    pack: list[int] = []
    held = 0
    for members in grouped(groups):
        order, shared = sorted_with_shared([texts[at].ids for at in members])
        sizes = [len(texts[members[at]]) for at in order]
        if pack and held + sum(sizes) - sum(shared) > aim:
            yield pack
            pack, held = [], 0
        for place, at in enumerate(order):
            cost = sizes[place] - shared[place]
            if pack and held + cost > most:
                yield pack
                pack, held, cost = [], 0, sizes[place]
            pack.append(members[at])
            held += cost
    if pack:
        yield pack
