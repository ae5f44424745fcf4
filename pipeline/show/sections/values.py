"""Rows and figures as a page writes them, the same in every section."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import polars as pl

from micropref.pipeline.show.figures import gain_with_interval, with_interval
from micropref.pipeline.show.page.figures import Interval, IntervalRow, Numbers, Point, Series

NONE = "no attribute"
"""Heading of pairs that name none."""


def named(attribute: str | None) -> str:
    """Return an attribute as a heading."""
    return NONE if attribute is None else attribute


def by_attribute(table: pl.DataFrame) -> Iterator[tuple[str | None, pl.DataFrame]]:
    """Yield each attribute of a table, by name, that of pairs that name none last, and its rows."""
    for attribute in table["attribute"].unique().sort(nulls_last=True).to_list():
        yield attribute, table.filter(pl.col("attribute").eq_missing(pl.lit(attribute, pl.String)))


def in_brackets(label: str) -> str:
    """Return a label as it stands behind a title; an empty one adds nothing."""
    return f" ({label})" if label else ""


def lines_by_k(
    table: pl.DataFrame, x: str, y: str, low: str | None = None, high: str | None = None, *, marks: bool = True
) -> tuple[Series, ...]:
    """Return a line for each K of a table."""
    return tuple(
        Series(f"K = {size}", points(table.filter(pl.col("k") == size), x, y, low, high), marks=marks)
        for size in table["k"].unique().sort().to_list()
    )


def numbers_of(table: pl.DataFrame) -> Numbers:
    """Return the rows of a table as they are saved."""
    return Numbers(tuple(table.columns), tuple(table.rows()))


def interval_row(label: str, row: dict[str, Any], series: int = 0, note: str = "") -> IntervalRow:
    """Return a row with `accuracy`, `low` and `high` as a line of an interval table."""
    return IntervalRow(
        label,
        Interval(row["accuracy"], row["low"], row["high"]),
        with_interval(row["accuracy"], row["low"], row["high"]),
        series,
        note,
    )


def gain_row(label: str, value: float, low: float | None, high: float | None, series: int, note: str) -> IntervalRow:
    """Return a difference and its interval as a line of an interval table."""
    return IntervalRow(label, Interval(value, low, high), gain_with_interval(value, low, high), series, note)


def bounds(groups: Iterable[tuple[str, Sequence[IntervalRow]]], reference: float, least: float) -> tuple[float, float]:
    """Return the ends of an axis that has room for all intervals and the reference, at least so wide."""
    values = [reference]
    for _, rows in groups:
        for row in rows:
            values += [one for one in (row.interval.value, row.interval.low, row.interval.high) if one is not None]
    low, high = min(values), max(values)
    missing = max(0.0, least - (high - low)) / 2
    margin = 0.04 * max(high - low, least)
    return low - missing - margin, high + missing + margin


def points(table: pl.DataFrame, x: str, y: str, low: str | None = None, high: str | None = None) -> tuple[Point, ...]:
    """Return the rows of a table that have a value as points of a line."""
    found = []
    for row in table.iter_rows(named=True):
        if row[y] is not None:
            ends = (row[low] if low else None, row[high] if high else None)
            found.append(Point(row[x], row[y], *ends, chosen=bool(row.get("chosen"))))
    return tuple(found)
