"""Reports as text for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import polars as pl
import pyarrow as pa

from micropref.cache.sql.render import render


def show_rows(rows: Iterable[dict[str, Any]]) -> str:
    """Return rows of equal keys as an aligned table."""
    return render(pa.Table.from_pylist(list(rows)), "table")


def with_error(value: float, error: float | None) -> str:
    """Return a figure with its standard error, where that is known."""
    return f"{value:.4f}" + (f" ± {error:.4f}" if error is not None and math.isfinite(error) else "")


def counted(count: int, word: str) -> str:
    """Return a number of things, in the singular where it is one."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def start_of(text: str, width: int = 32) -> str:
    """Return a text's first line, cut where it is longer."""
    first, _, rest = text.strip().partition("\n")
    return first if len(first) <= width and not rest else f"{first[: width - 1]}…"


def interval(name: str) -> pl.Expr:
    """Return the expression of an interval's text from columns low and high."""
    low, high = (pl.col(column).round(3).map_elements(lambda x: f"{x:.3f}", pl.String) for column in ("low", "high"))
    return pl.format("{}-{}", low, high).alias(name)
