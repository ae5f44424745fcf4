"""Names and values as columns of text that fit a terminal of 80 characters."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from typing import Any

from micropref.pipeline.show.lines import WIDTH

NAME_WIDTH = 26
MOST_LISTED = 12
"""Values of a list that are shown; the others are counted."""


def show_entries(entries: dict[str, Any]) -> str:
    """Return names and values in two columns; what is not there is left out."""
    filled = {name: value for name, value in entries.items() if value not in (None, "", [], {})}
    return "".join(
        show_row([name, as_text(value)], [NAME_WIDTH, WIDTH - NAME_WIDTH - 4]) for name, value in filled.items()
    )


def show_row(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Return cells side by side, two spaces in, those that are too long on several lines."""
    wrapped = [_wrap(cell, width) for cell, width in zip(cells, widths, strict=True)]
    height = max(map(len, wrapped))
    lines = zip(*(cell + [""] * (height - len(cell)) for cell in wrapped), strict=True)
    padded = ("  ".join(part.ljust(width) for part, width in zip(line, widths, strict=True)) for line in lines)
    return "".join(f"  {line}".rstrip() + "\n" for line in padded)


def as_text(value: Any) -> str:
    """Return a JSON value as a person reads it."""
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "no"}[value]
    if isinstance(value, str):
        return value if value.isprintable() else json.dumps(value, ensure_ascii=False)
    if isinstance(value, float):
        return f"{value:.4f}" if 0.001 <= abs(value) < 1e6 else f"{value:g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {as_text(part)}" for name, part in value.items()) or "none"
    if isinstance(value, list | tuple):
        apart = "; " if any(isinstance(one, dict) for one in value) else ", "
        more = [f"{len(value) - MOST_LISTED:,} more"] if len(value) > MOST_LISTED else []
        shown = [f"({as_text(one)})" if isinstance(one, list | tuple) else as_text(one) for one in value[:MOST_LISTED]]
        return apart.join([*shown, *more]) or "none"
    return str(value)


def size_of(count: int) -> str:
    """Return a number of bytes in the unit that suits it."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count} bytes"


def _wrap(cell: str, width: int) -> list[str]:
    return [part for line in cell.split("\n") for part in textwrap.wrap(line, width) or [""]]
