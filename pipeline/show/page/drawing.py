"""Figures as shapes: where lines, marks and labels of a chart lie, in pixels of a drawing as wide as a phone.

Charts are narrow and stand next to each other, so that their text keeps its size on every screen.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from micropref.pipeline.show.page.figures import Interval, LineChart, Point, Series

WIDTH, HEIGHT = 360, 250
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 28, 42
"""Around the plot; the name of the vertical axis stands above it."""
LEGEND = 17
"""Height of a line of the legend."""
LABEL = 44
"""Letters of the legend's line that there is room for; wide ones count twice."""
STRIP, STRIP_HEIGHT = 280, 18
"""Size of the drawing in a row of an interval table, in pixels on every screen."""
MARGIN = 8
SIZE = 4.0
"""Half the width of a mark."""


@dataclass(frozen=True)
class Tick:
    """A place of an axis and its label."""

    at: float
    text: str


@dataclass(frozen=True)
class Mark:
    """A point, its whisker, and what it says when it is pointed at."""

    path: str
    whisker: str
    title: str
    chosen: bool
    x: float
    y: float


@dataclass(frozen=True)
class DrawnSeries:
    """One line with its marks and its line of the legend."""

    number: int
    label: str
    """As there is room for it."""
    full_label: str
    line: str
    """The path."""
    marks: tuple[Mark, ...]
    legend_y: float
    legend_mark: str


@dataclass(frozen=True)
class Drawing:
    """A chart's shapes."""

    width: float
    height: float
    bottom: float
    """Of the plot, above its axis."""
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    series: tuple[DrawnSeries, ...]
    diagonal: str
    reference: float | None


@dataclass(frozen=True)
class Strip:
    """An interval as a dot and a whisker on its axis."""

    whisker: str
    mark: str


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + min(1.0, max(0.0, share)) * (self.end - self.start), 1)


def draw(chart: LineChart) -> Drawing:
    """Return the shapes of a chart, its legend below it."""
    points = [point for one in chart.series for point in one.points]
    x_values = [point.x for point in points]
    y_axis = _Axis(*_range(points, chart), HEIGHT - BOTTOM, TOP)
    if chart.places is None:
        low, high = min(x_values, default=0.0), max(x_values, default=1.0)
        x_axis = _Axis(low, high if high > low else low + 1, LEFT, WIDTH - RIGHT)
        x_ticks = [Tick(x_axis.at(value), _text(value)) for value in _ticks_among(x_values, x_axis)]
        place = {value: x_axis.at(value) for value in x_values}
    else:
        x_axis = _Axis(-0.5, len(chart.places) - 0.5, LEFT, WIDTH - RIGHT)
        place = {value: x_axis.at(number) for number, value in enumerate(chart.places)}
        x_ticks = [Tick(place[value], _text(value)) for value in _thinned(chart.places)]
    series = [_series(number, one, chart, place, y_axis) for number, one in enumerate(chart.series)]
    diagonal = ""
    if chart.diagonal:
        start, end = max(x_axis.low, y_axis.low), min(x_axis.high, y_axis.high)
        diagonal = _path([(x_axis.at(value), y_axis.at(value)) for value in (start, end)]) if start < end else ""
    return Drawing(
        width=WIDTH,
        height=HEIGHT
        + 6
        + LEGEND * (len(chart.series) if len(chart.series) > 1 or chart.reference_label else 0)
        + (LEGEND if chart.reference_label else 0),
        bottom=HEIGHT - BOTTOM,
        x_ticks=tuple(x_ticks),
        y_ticks=tuple(Tick(y_axis.at(value), _text(value)) for value in ticks(y_axis.low, y_axis.high, 7)),
        series=tuple(series),
        diagonal=diagonal,
        reference=None if chart.reference is None else y_axis.at(chart.reference),
    )


def strip(interval: Interval, bounds: tuple[float, float], series: int) -> Strip | None:
    """Return the shapes of one interval, None where there is no value."""
    if interval.value is None or not math.isfinite(interval.value):
        return None
    axis, middle = strip_axis(bounds), STRIP_HEIGHT / 2
    whisker = ""
    if interval.low is not None and interval.high is not None:
        whisker = _path([(axis.at(interval.low), middle), (axis.at(interval.high), middle)])
    return Strip(whisker, mark_path(series, axis.at(interval.value), middle))


def strip_axis(bounds: tuple[float, float]) -> _Axis:
    """Return the axis that the rows of an interval table share."""
    return _Axis(*bounds, MARGIN, STRIP - MARGIN)


def strip_ticks(bounds: tuple[float, float]) -> list[Tick]:
    """Return the labels above an interval table."""
    axis = strip_axis(bounds)
    return [Tick(axis.at(value), _text(value)) for value in ticks(*bounds, 7)]


def ticks(low: float, high: float, most: int) -> list[float]:
    """Return round numbers within a range, at most so many: steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / max(1, most - 1)
    if rough <= 0 or not math.isfinite(rough):
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def mark_path(series: int, x: float, y: float) -> str:
    """Return the mark of a series: a circle, square, diamond or triangle."""
    kind = series % 4
    if kind == 0:
        return f"M{x - SIZE:g} {y:g}a{SIZE:g} {SIZE:g} 0 1 0 {2 * SIZE:g} 0a{SIZE:g} {SIZE:g} 0 1 0 {-2 * SIZE:g} 0z"
    corners: dict[int, Sequence[tuple[float, float]]] = {
        1: ((-1, -1), (1, -1), (1, 1), (-1, 1)),
        2: ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
        3: ((0, -1.2), (1.2, 1), (-1.2, 1)),
    }
    return _path([(x + SIZE * across, y + SIZE * down) for across, down in corners[kind]]) + "z"


def _series(number: int, one: Series, chart: LineChart, place: dict[float, float], axis: _Axis) -> DrawnSeries:
    drawn = [point for point in one.points if math.isfinite(point.y)]
    legend = HEIGHT + 8 + LEGEND * number
    return DrawnSeries(
        number=number,
        label=_shortened(one.label),
        full_label=one.label,
        line=_path([(place[point.x], axis.at(point.y)) for point in drawn]),
        marks=tuple(_mark(number, point, one, chart, place, axis) for point in drawn if one.marks or point.chosen),
        legend_y=legend,
        legend_mark=mark_path(number, LEFT + 8, legend - 4) if one.marks else "",
    )


def _mark(number: int, point: Point, one: Series, chart: LineChart, place: dict[float, float], axis: _Axis) -> Mark:
    x, y = place[point.x], axis.at(point.y)
    whisker, between = "", ""
    if point.low is not None and point.high is not None:
        whisker = _path([(x, axis.at(point.low)), (x, axis.at(point.high))])
        between = f" ({_figure(point.low)} to {_figure(point.high)})"
    chosen = ", chosen" if point.chosen else ""
    title = f"{one.label}, {chart.x} {_text(point.x)}: {_figure(point.y)}{between}{chosen}"
    return Mark(mark_path(number, x, y), whisker, title, point.chosen, x, y)


def _range(points: Sequence[Point], chart: LineChart) -> tuple[float, float]:
    values = [value for point in points for value in (point.y, point.low, point.high) if value is not None]
    if chart.reference is not None:
        values.append(chart.reference)
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
    return low - margin, high + margin


def _ticks_among(values: Iterable[float], axis: _Axis) -> list[float]:
    """Return round numbers on an axis; whole ones only where all values are whole, such as epochs."""
    found = ticks(axis.low, axis.high, 7)
    return [one for one in found if one == round(one)] if all(value == round(value) for value in values) else found


def _shortened(label: str) -> str:
    """Return as much of a label as its line of the legend has room for."""
    room = LABEL
    for place, letter in enumerate(label):
        room -= 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        if room < 0:
            return f"{label[: place - 1]}…"
    return label


def _thinned(places: Sequence[float]) -> list[float]:
    """Return the places that have room for a label."""
    every = math.ceil(len(places) / 10)
    return list(places[::every])


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{round(x, 1):g} {round(y, 1):g}" for x, y in points) if points else ""


def _text(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) and abs(value) >= 1000 else f"{value:.6g}"


def _figure(value: float) -> str:
    return f"{value:.4f}"
