"""The page of `compare`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from micropref.pipeline.comparison.compare import AVERAGE, Compared, ComparedRow
from micropref.pipeline.evaluation.differences import REFERENCE
from micropref.pipeline.show.compare import FALSE_ALARMS, accuracy_rows, compared_lines, compared_notes
from micropref.pipeline.show.figures import gain_with_interval, over
from micropref.pipeline.show.page.figures import Figure, IntervalRow, IntervalTable, Numbers, Page, PlainTable, Section
from micropref.pipeline.show.sections.values import bounds, gain_row, interval_row

Line = Callable[[ComparedRow, str, int], IntervalRow]


def compared_page(compared: Compared) -> Page:
    """Return every method's accuracy by attribute and its paired difference to the single reward."""
    numbers = Numbers.of([row for one in compared.rows for row in _rows(compared, one)])
    figures = (_table(compared, numbers), _accuracies(compared, numbers), _differences(compared, numbers))
    section = Section("methods", "Methods", (), figures)
    return Page(
        f"micropref compare: {compared.data}",
        tuple(compared_lines(compared)),
        (section,),
        tuple(line.removeprefix("warning: ") for line in compared_notes(compared)),
    )


def _rows(compared: Compared, one: ComparedRow) -> list[dict[str, Any]]:
    return [
        {
            "method": one.system, "learns from": one.supervision, "attribute": group,
            "n": compared.scored.get(group), "seeds": compared.seeds, "accuracy": one.accuracy[group],
            "deviation": one.deviation[group], "low": one.low[group], "high": one.high[group],
            "difference": one.difference[group], "difference_low": one.difference_low[group],
            "difference_high": one.difference_high[group], "nll": one.nll, "seconds": one.seconds,
            "published": one.published.get(group),
        }
        for group in (*compared.scored, AVERAGE)
    ]  # fmt: skip


def _table(compared: Compared, numbers: Numbers) -> Figure:
    rows = accuracy_rows(compared)
    columns = tuple(rows[0])
    return Figure(
        "table",
        "Accuracy by attribute",
        "Mean and standard deviation over seeds." if compared.seeds > 1 else "One seed.",
        PlainTable(columns, tuple(tuple(row.values()) for row in rows), frozenset(range(2, len(columns)))),
        numbers,
        tuple(compared.protocol),
    )


def _groups(compared: Compared, line: Line, skip: str = "") -> tuple[tuple[str, tuple[IntervalRow, ...]], ...]:
    found = []
    for group in (AVERAGE, *compared.scored):
        rows = [line(one, group, place) for place, one in enumerate(compared.rows) if one.system != skip]
        count = "over attributes" if group == AVERAGE else f"{compared.scored[group]:,} pairs"
        found.append((f"{group}, {count}", tuple(rows)))
    return tuple(found)


def _accuracies(compared: Compared, numbers: Numbers) -> Figure:
    def line(one: ComparedRow, group: str, place: int) -> IntervalRow:
        row = {"accuracy": one.accuracy[group], "low": one.low[group], "high": one.high[group]}
        return interval_row(one.title, row, place)

    groups = _groups(compared, line)
    return Figure(
        "accuracy",
        "Accuracy of methods",
        f"95 % intervals over {over(compared.clusters)}, seeds averaged.",
        IntervalTable("method", "accuracy", groups, 0.5, bounds(groups, 0.5, 0.1)),
        numbers,
    )


def _differences(compared: Compared, numbers: Numbers) -> Figure:
    def line(one: ComparedRow, group: str, place: int) -> IntervalRow:
        figures = one.difference[group], one.difference_low[group], one.difference_high[group]
        return gain_row(one.title, *figures, place, "")

    groups = _groups(compared, line, REFERENCE)
    holds = [one.title for one in compared.rows if one.difference_p <= FALSE_ALARMS and one.system != REFERENCE]
    told = f"Held at 5 % with all rows judged together (Holm), on the average: {', '.join(holds) or 'none'}."
    best = max(compared.rows, key=lambda one: one.accuracy[AVERAGE])
    gain = gain_with_interval(best.difference[AVERAGE], best.difference_low[AVERAGE], best.difference_high[AVERAGE])
    return Figure(
        "differences",
        "Paired differences to the single reward",
        f"Accuracy less that of the single reward on the same pairs; each interval is for itself. {told} Highest "
        f"average: {best.title}, {gain}.",
        IntervalTable("method", "difference in accuracy", groups, 0.0, bounds(groups, 0.0, 0.05)),
        numbers,
    )
