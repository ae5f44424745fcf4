"""Shapes of charts: round labels, everything within the drawing, nothing drawn where there is no number."""

from __future__ import annotations

import itertools
import math
import re

import pytest

from micropref.pipeline.show.page import drawing
from micropref.pipeline.show.page.drawing import draw, mark_path, strip, strip_ticks, ticks
from micropref.pipeline.show.page.figures import Interval, LineChart, Point, Series


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.47, 0.98, [0.5, 0.6, 0.7, 0.8, 0.9]),
        (-0.02, 0.04, [-0.02, -0.01, 0, 0.01, 0.02, 0.03, 0.04]),
        (1, 20, [5, 10, 15, 20]),
        (0, 70_000, [0, 20_000, 40_000, 60_000]),
        (2.0, 2.0, [2.0]),
        (0.0, math.inf, [0.0]),
    ],
)
def test_ticks_are_round_numbers_within_the_range(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high, 7) == pytest.approx(expected)


def points_of(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", path.partition("a")[0])]


def within(path: str, width: float, height: float) -> bool:
    found = points_of(path)
    return bool(found) and all(0 <= x <= width and 0 <= y <= height for x, y in found)


def chart(*series: Series, **changes: object) -> LineChart:
    return LineChart("t", "x", "y", series, **changes)  # type: ignore[arg-type]


def test_marks_and_lines_lie_within_the_drawing_where_their_values_are() -> None:
    points = tuple(Point(x, 0.5 + x / 100, 0.4, 0.9, chosen=x == 8) for x in (1, 2, 4, 8))
    drawn = draw(chart(Series("a", points), Series("b", points[:1]), places=(1, 2, 4, 8)))
    first = drawn.series[0]
    for mark in first.marks:
        assert within(mark.path, drawn.width, drawn.bottom)
        assert within(mark.whisker, drawn.width, drawn.bottom)
    line = points_of(first.line)
    steps = [right[0] - left[0] for left, right in itertools.pairwise(line)]
    assert steps == pytest.approx([steps[0]] * 3, abs=0.2)  # K = 1, 2, 4, 8 at equal distances
    assert [y for _, y in line] == sorted((y for _, y in line), reverse=True)
    assert [mark.chosen for mark in first.marks] == [False, False, False, True]
    assert first.marks[-1].title == "a, x 8: 0.5800 (0.4000 to 0.9000), chosen"
    assert [tick.text for tick in drawn.x_ticks] == ["1", "2", "4", "8"]
    assert drawn.bottom < first.legend_y < drawn.series[1].legend_y <= drawn.height


def test_an_axis_of_numbers_keeps_distances_and_labels_what_it_shows() -> None:
    drawn = draw(chart(Series("a", tuple(Point(x, x) for x in (0.0, 1.0, 4.0)))))
    (start, middle, end) = points_of(drawn.series[0].line)
    assert (middle[0] - start[0]) / (end[0] - start[0]) == pytest.approx(0.25, abs=0.01)
    for tick in drawn.x_ticks:
        assert tick.at == pytest.approx(start[0] + float(tick.text) / 4 * (end[0] - start[0]), abs=0.1)
    for tick in drawn.y_ticks:
        assert tick.at == pytest.approx(start[1] + float(tick.text) / 4 * (end[1] - start[1]), abs=0.1)


def test_epochs_have_whole_labels_and_many_places_only_some() -> None:
    drawn = draw(chart(Series("a", tuple(Point(x, 0.1 * x) for x in (1, 2, 3)), marks=False)))
    assert [tick.text for tick in drawn.x_ticks] == ["1", "2", "3"]
    assert drawn.series[0].marks == ()
    assert drawn.series[0].legend_mark == ""
    places = tuple(float(10 * number) for number in range(60))
    labels = draw(chart(Series("a", tuple(Point(x, 0.5) for x in places)), places=places)).x_ticks
    assert 5 <= len(labels) <= 10


def test_a_chart_without_numbers_and_one_with_a_single_value() -> None:
    for points in ((), (Point(1, math.nan),), (Point(3, 0.0),), (Point(3, 0.5), Point(3, 0.5))):
        drawn = draw(chart(Series("a", points), diagonal=True, reference=None))
        assert all(math.isfinite(tick.at) for tick in (*drawn.x_ticks, *drawn.y_ticks))
        assert "nan" not in drawn.series[0].line


def test_the_diagonal_is_drawn_where_both_axes_have_its_values() -> None:
    near = draw(chart(Series("a", (Point(0.5, 0.6), Point(0.9, 0.8))), diagonal=True))
    (start, end) = points_of(near.diagonal)
    assert start[0] < end[0]
    assert start[1] > end[1]
    apart = draw(chart(Series("a", (Point(0.5, 0.8), Point(0.6, 0.9))), diagonal=True))
    assert apart.diagonal == ""


def test_long_labels_are_cut_to_their_line_of_the_legend() -> None:
    for label in ("x" * 100, "好" * 100):
        drawn = draw(chart(Series(label, (Point(1, 1),)), Series("short", (Point(1, 1),)))).series
        assert drawn[0].label.endswith("…")
        assert drawn[0].full_label == label
        assert drawn[1].label == "short"
        letters = len(drawn[0].label) * (1 if label[0] == "x" else 2)
        # 6.5 pixels a letter at the legend's size.
        assert letters * 6.5 + drawing.LEFT + 22 <= drawing.WIDTH


def test_an_interval_lies_on_the_axis_above_it() -> None:
    bounds = (0.45, 1.02)
    at = {tick.text: tick.at for tick in strip_ticks(bounds)}
    shape = strip(Interval(0.7, 0.6, 0.8), bounds, 1)
    assert shape is not None
    (left, right) = points_of(shape.whisker)
    assert (left[0], right[0]) == (at["0.6"], at["0.8"])
    corners = points_of(shape.mark)
    assert sum(x for x, _ in corners) / len(corners) == pytest.approx(at["0.7"])
    alone = strip(Interval(0.7), bounds, 0)
    assert alone is not None
    assert alone.whisker == ""
    assert strip(Interval(None), bounds, 0) is None
    assert strip(Interval(math.nan, 0.1, 0.2), bounds, 0) is None
    beyond = strip(Interval(5.0, -5.0, 9.0), bounds, 0)
    assert beyond is not None
    assert within(beyond.whisker, drawing.STRIP, drawing.STRIP_HEIGHT)


def test_neighbouring_series_have_other_marks() -> None:
    assert len({mark_path(series, 10, 10) for series in range(4)}) == 4
    assert mark_path(4, 10, 10) == mark_path(0, 10, 10)
