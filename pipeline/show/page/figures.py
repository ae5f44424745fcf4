"""Figures as data: what is drawn and the numbers it is drawn from, before any HTML.

Texts in them are data: `pipeline.show.page.document` escapes them, and nothing else writes HTML.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Numbers:
    """The rows behind a figure, as they are saved."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    """Values in the order of `columns`: texts, numbers or None."""

    @classmethod
    def of(cls, rows: Sequence[dict[str, Any]]) -> Numbers:
        """Return rows of equal keys; () without any."""
        return cls(tuple(rows[0]) if rows else (), tuple(tuple(row.values()) for row in rows))


@dataclass(frozen=True)
class Cell:
    """One value of a heat table."""

    text: str
    """As it is shown; empty where there is none."""
    note: str = ""
    """Smaller, beneath: an interval, or why there is no value."""
    shade: int | None = None
    """0 to `colours.SHADES` - 1, from least to most; None: uncoloured."""


@dataclass(frozen=True)
class HeatTable:
    """Values by row and column, coloured by how large they are."""

    corner: str
    """What rows are."""
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    """Name of a row and its cells, one for each column."""
    kind: Literal["diverging", "rising"] = "diverging"
    """Whether the middle shade is neutral, or the least one."""
    name: str = "heat"
    """Which template draws it."""


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class IntervalRow:
    """One line of an interval table."""

    label: str
    interval: Interval
    text: str
    """The figure in words, such as 0.863 (0.843-0.883)."""
    series: int = 0
    """Whose it is: the same colour and mark in every group."""
    note: str = ""
    """Behind the label: how many pairs, or why there is no figure."""


@dataclass(frozen=True)
class IntervalTable:
    """Values with intervals on one axis, in groups of rows."""

    label: str
    """What rows are."""
    axis: str
    """What the values are."""
    groups: tuple[tuple[str, tuple[IntervalRow, ...]], ...]
    """Heading of a group (empty: none) and its rows."""
    reference: float
    """Drawn as a line: a coin's accuracy, or no difference."""
    bounds: tuple[float, float]
    """Ends of the axis."""
    name: str = "intervals"


@dataclass(frozen=True)
class Point:
    """One point of a line."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    chosen: bool = False
    """Whether it is marked as what was chosen."""


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    label: str
    points: tuple[Point, ...]
    marks: bool = True
    """Whether points are drawn, or the line alone."""


@dataclass(frozen=True)
class LineChart:
    """Values against a number, a line for each series."""

    title: str
    x: str
    """What the horizontal axis is."""
    y: str
    series: tuple[Series, ...]
    places: tuple[float, ...] | None = None
    """Values of x, drawn at equal distances; None: an axis of numbers."""
    diagonal: bool = False
    """Whether y = x is drawn."""
    reference: float | None = None
    """A horizontal line: the value of a coin, or the limit of a rule."""
    reference_label: str = ""


@dataclass(frozen=True)
class Charts:
    """Line charts next to each other."""

    charts: tuple[LineChart, ...]
    name: str = "charts"


@dataclass(frozen=True)
class PlainTable:
    """Values as text."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    figures: frozenset[int] = frozenset()
    """Columns of numbers, aligned to the right."""
    name: str = "plain"


@dataclass(frozen=True)
class Figure:
    """Something to look at, with what it says and its numbers."""

    id: str
    """Names it in the page and in saved files."""
    title: str
    caption: str
    """One or two sentences: what is shown, what intervals are over."""
    body: HeatTable | IntervalTable | Charts | PlainTable
    numbers: Numbers
    notes: tuple[str, ...] = ()
    """Below it: what is left out, and warnings."""


@dataclass(frozen=True)
class Example:
    """A pair as a card shows it: which of its responses a head likes better."""

    prompt: str
    liked: str
    disliked: str
    about: str
    """Its margin, attribute and context, in words."""


@dataclass(frozen=True)
class Card:
    """What one head is."""

    title: str
    summary: str
    """One sentence: what it rewards, or that nothing tells."""
    lines: tuple[str, ...]
    """Claims with their n and interval, where it is good, its nearest head."""
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Cards:
    """The heads of a run."""

    id: str
    title: str
    caption: str
    cards: tuple[Card, ...]


@dataclass(frozen=True)
class PairBrowser:
    """Pairs to read, filtered in the page."""

    id: str
    title: str
    caption: str
    heads: int
    pairs: tuple[dict[str, Any], ...]
    """attribute, user, context, prompt, chosen, rejected, m (margin of each head), w (weights), p, spread."""


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    id: str
    title: str
    text: tuple[str, ...] = ()
    """Paragraphs."""
    parts: tuple[Figure | Cards | PairBrowser, ...] = ()


@dataclass(frozen=True)
class Page:
    """A page."""

    title: str
    lead: tuple[str, ...]
    """Paragraphs under the title: the outcome in a sentence or two."""
    sections: tuple[Section, ...]
    warnings: tuple[str, ...] = field(default=())
