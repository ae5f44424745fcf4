"""The rows of a benchmark before and after they are scored, the same for all benchmarks. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from micropref.pipeline.sources.pairs import Text


@dataclass(frozen=True)
class Item:
    """One row of a benchmark: right responses and wrong ones to a prompt."""

    id: str
    """As the file has it."""
    subset: str
    """Which part of the benchmark it belongs to."""
    prompt: Text
    """What the responses answer."""
    chosen: tuple[Text, ...]
    """The right responses, in the benchmark's order."""
    rejected: tuple[Text, ...]
    """The wrong ones, likewise."""
    profile: tuple[str, ...] = ()
    """What is known of the person who asks, a text each; empty where the benchmark has no people."""
    values: dict[str, Any] = field(default_factory=dict)
    """The row's columns as they were read."""


@dataclass(frozen=True)
class ScoredItem:
    """A row's scores; None where a response has none."""

    id: str
    subset: str
    prompt: Text
    """Rows of one prompt are not independent."""
    chosen: tuple[float | None, ...]
    """Of the right responses."""
    rejected: tuple[float | None, ...]
    """Of the wrong ones."""

    @property
    def complete(self) -> bool:
        """Say whether every response has a score."""
        return None not in self.chosen + self.rejected


def above(first: float | None, second: float | None) -> bool:
    """Say whether the first score is above the second; a missing one is above nothing, as NaN is."""
    return first is not None and second is not None and first > second
