"""A table as text: columns aligned under their names, as wide as a terminal where it has to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len, set_cell_size

GAP = 2
"""Spaces between two columns."""
NARROWEST = 24
"""Characters that a text keeps at least when it is cut."""


def printable(text: str, kept: str = "") -> str:
    """Return a text without control characters, which could drive a terminal; those of `kept` stay."""
    return "".join(letter if letter.isprintable() or letter in kept else " " for letter in text)


@dataclass(frozen=True)
class Column:
    """One column, its values already text."""

    name: str
    """Its heading; may be of several lines."""
    cells: tuple[str, ...]
    right: bool
    """Whether it is aligned to the right, as numbers are."""

    @property
    def width(self) -> int:
        """Return how many characters of a terminal the widest line takes."""
        return max(map(cell_len, (*self.name.split("\n"), *self.cells)))


def cut(text: str, width: int) -> str:
    """Return a text of at most so many characters of a terminal; what is cut ends in …."""
    return text if cell_len(text) <= width else set_cell_size(text, width - 1).rstrip() + "…"


def total_width(columns: Sequence[Column]) -> int:
    """Return how wide a table of these columns is."""
    return sum(column.width for column in columns) + GAP * (len(columns) - 1)


def aligned(columns: Sequence[Column]) -> str:
    """Return columns as lines: headings, a rule, then the rows."""
    height = max(column.name.count("\n") for column in columns) + 1
    shown = []
    for column in columns:
        heading = column.name.split("\n")
        width = column.width
        lines = [""] * (height - len(heading)) + heading + ["-" * width, *column.cells]
        shown.append([_padded(line, width, right=column.right) for line in lines])
    return "".join((" " * GAP).join(row).rstrip() + "\n" for row in zip(*shown, strict=True))


def fitted(columns: Sequence[Column], width: int) -> tuple[list[Column], list[str]]:
    """Return columns that fit a width, and the names of those that do not.

    Texts are cut first, the widest most; then columns are left out from the right. The first column always stays.
    """
    kept = list(columns)
    while total_width(kept) > width:
        longest = max(kept, key=lambda column: 0 if column.right else column.width)
        least = max(NARROWEST, cell_len(longest.name))
        if longest.right or longest.width <= least:
            break
        room = max(least, longest.width - (total_width(kept) - width))
        others = sorted(column.width for column in kept if not column.right)
        room = max(room, others[-2]) if len(others) > 1 and others[-2] < longest.width else min(room, longest.width - 1)
        kept[kept.index(longest)] = replace(longest, cells=tuple(cut(cell, room) for cell in longest.cells))
    shown = len(kept)
    while shown > 1 and total_width(kept[:shown]) > width:
        shown -= 1
    return kept[:shown], [column.name for column in kept[shown:]]


def _padded(text: str, width: int, *, right: bool) -> str:
    space = " " * (width - cell_len(text))
    return space + text if right else text + space
