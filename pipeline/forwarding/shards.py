"""Shards: the work unit of embedding, texts that are forwarded and stored together by whichever worker takes them.

Letters: n texts of a shard, m pairs.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from micropref.pipeline.backbone.prefix_tree import grouped, sorted_with_shared
from micropref.pipeline.text.tokens import Tokens


@dataclass(frozen=True)
class Demand:
    """What some texts ask of a backbone."""

    texts: int = 0
    tokens: int = 0
    """Tokens that have to be read: distinct prefixes within a prompt for causal backbones, else all."""
    seen: int = 0
    """How many tokens each token read sees, itself included, added up."""

    def __add__(self, other: Demand) -> Demand:
        return Demand(self.texts + other.texts, self.tokens + other.tokens, self.seen + other.seen)


@dataclass(frozen=True, eq=False)
class Shard:
    """Texts and all that a worker has to know of them, in this process or on another machine."""

    number: int
    """Place among the shards of its plan."""
    keys: list[bytes]
    """[n] content address of each text; all of them make the shard's name."""
    tokens: list[Tokens]
    """[n] what the backbone reads of each."""
    groups: list[int]
    """[n] prompt group of each; those of one group are neighbours, and begin with much the same tokens."""
    names: list[str]
    """[n] row and role that first used each, for errors."""
    sides: npt.NDArray[np.int64]
    """[2, m] chosen and rejected text of the pairs that have both of them here."""
    causal: bool
    """Whether the backbone reads what the texts of a group share once."""

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def demand(self) -> Demand:
        """Return what forwarding it asks of the backbone.

        An encoder's T tokens see all T; a causal backbone's token sees as many as its position, and is read once for
        all texts of a prompt that begin alike up to it.
        """
        lengths = [len(tokens) for tokens in self.tokens]
        if not self.causal:
            return Demand(len(self), sum(lengths), sum(length**2 for length in lengths))
        tokens = seen = 0
        for members in grouped(self.groups):
            order, shared = sorted_with_shared([self.tokens[at].ids for at in members])
            for place, common in zip(order, shared, strict=True):
                tokens += lengths[members[place]] - common
                seen += _triangle(lengths[members[place]]) - _triangle(common)
        return Demand(len(self), tokens, seen)

    @property
    def size(self) -> int:
        """Return the tokens of all texts, what they share counted for each."""
        return sum(map(len, self.tokens))

    def without(self, stored: Container[bytes]) -> Shard | None:
        """Return what has no vector yet; None: all is stored."""
        kept = [at for at, key in enumerate(self.keys) if key not in stored]
        if len(kept) in (0, len(self)):
            return self if kept else None
        place = np.full(len(self), -1)
        place[kept] = np.arange(len(kept))
        sides = place[self.sides]
        return Shard(
            self.number,
            [self.keys[at] for at in kept],
            [self.tokens[at] for at in kept],
            [self.groups[at] for at in kept],
            [self.names[at] for at in kept],
            sides[:, (sides >= 0).all(axis=0)],
            self.causal,
        )


def _triangle(length: int) -> int:
    return length * (length + 1) // 2
