"""Whose texts are forwarded next: a part of every reading in turn, so that a large request holds up no small one.

n texts, D embedding width.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import numpy as np
import torch

from micropref.pipeline.rewards.scoring.candidates import Candidates, Rewarded
from micropref.pipeline.rewards.scoring.scorer import Asked
from micropref.pipeline.text.tokens import Tokens

TURN_S = 1.0
"""How long a turn shall take: what a new request waits for at most while a large one is forwarded."""
FIRST_TOKENS = 2048
"""Tokens of a turn before it is known how fast the backbone reads."""
LEAST_TOKENS = 1024
"""Tokens of a turn at least."""


@dataclass(frozen=True, eq=False)
class Request:
    """What one request wants scored, and who waits for it."""

    candidates: list[Candidates]
    done: asyncio.Future[list[Rewarded]]

    @property
    def responses(self) -> int:
        """Return how many responses it has."""
        return sum(len(one.responses) for one in self.candidates)


@dataclass(eq=False)
class Reading:
    """Requests that were tokenized together, and the vectors of their texts so far."""

    requests: list[Request]
    order: list[int]
    """Which of the requests' groups, counted through all requests, each group of `asked` is."""
    asked: Asked
    costs: list[int]
    """[n] tokens that each text adds to those before it."""
    vectors: torch.Tensor
    """[n, D]; rows from `at` on are still to come."""
    at: int = 0
    """Texts that were forwarded."""

    @classmethod
    def of(cls, requests: list[Request], order: list[int], asked: Asked, width: int, *, shares: bool) -> Reading:
        """Begin a reading; `shares`: texts of one prompt are forwarded without what they have in common."""
        chunk = asked.chunk
        same = [shares and before == tree for before, tree in zip([None, *chunk.trees], chunk.trees, strict=False)]
        costs = [
            len(text) - (_common(chunk.texts[at - 1], text) if same[at] else 0) for at, text in enumerate(chunk.texts)
        ]
        return cls(requests, order, asked, costs, torch.empty(len(costs), width))

    @property
    def wanted(self) -> bool:
        """Say whether anybody still waits for it."""
        return not all(one.done.done() for one in self.requests)

    @property
    def complete(self) -> bool:
        """Say whether all texts were forwarded."""
        return self.at == len(self.costs)

    def answer(self, found: list[Rewarded]) -> None:
        """Give each request its groups' rewards, which are in the order of `asked`."""
        by_group = dict(zip(self.order, found, strict=True))
        start = 0
        for request in self.requests:
            end = start + len(request.candidates)
            if not request.done.done():
                request.done.set_result([by_group[at] for at in range(start, end)])
            start = end

    def part(self, tokens: float) -> slice:
        """Return the texts that come next: about so many tokens, at least one text."""
        end, left = self.at, tokens
        while end < len(self.costs) and (end == self.at or left > 0):
            left -= self.costs[end]
            end += 1
        return slice(self.at, end)


@dataclass(frozen=True)
class Turn:
    """Parts of readings that are forwarded together."""

    parts: list[tuple[Reading, slice]]

    @property
    def tokens(self) -> int:
        """Return how many tokens are forwarded."""
        return sum(sum(reading.costs[part]) for reading, part in self.parts)

    @property
    def texts(self) -> list[Tokens]:
        """Return the texts of all parts [n]."""
        return [text for reading, part in self.parts for text in reading.asked.chunk.texts[part]]

    @property
    def trees(self) -> list[int]:
        """Return the number of each text's prompt [n], no number in two parts."""
        found: list[int] = []
        for reading, part in self.parts:
            above = max(found, default=-1) + 1
            found += [above + tree for tree in reading.asked.chunk.trees[part]]
        return found

    def put(self, vectors: torch.Tensor) -> None:
        """Take the vectors [n, D] of the texts."""
        start = 0
        for reading, part in self.parts:
            end = start + part.stop - part.start
            reading.vectors[part] = vectors[start:end]
            reading.at = part.stop
            start = end


@dataclass
class Turns:
    """Readings that are under way."""

    readings: list[Reading] = field(default_factory=list)
    rate: float | None = None
    """Tokens per second; None: not known."""

    def next(self) -> Turn:
        """Return what is forwarded next: of every reading about as many tokens. Those nobody wants are dropped."""
        self.readings = [one for one in self.readings if one.wanted]
        tokens = FIRST_TOKENS if self.rate is None else max(LEAST_TOKENS, self.rate * TURN_S)
        each = tokens / max(1, len(self.readings))
        return Turn([(one, one.part(each)) for one in self.readings if not one.complete])

    def took(self, turn: Turn, seconds: float) -> None:
        """Learn from a turn how fast the backbone reads; a short one says little."""
        if turn.tokens >= LEAST_TOKENS:
            rate = turn.tokens / max(seconds, 1e-3)
            self.rate = rate if self.rate is None else (self.rate + rate) / 2

    def completed(self) -> list[Reading]:
        """Remove and return the readings whose texts were all forwarded."""
        done = [one for one in self.readings if one.complete]
        self.readings = [one for one in self.readings if not one.complete]
        return done


def _common(one: Tokens, other: Tokens) -> int:
    """Return how many tokens two texts begin with in common."""
    most = min(len(one), len(other))
    differs = np.flatnonzero(one.ids[:most] != other.ids[:most])
    return int(differs[0]) if len(differs) else most
