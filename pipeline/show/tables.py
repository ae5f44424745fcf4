"""Rows as a table that fits a terminal of 80 columns, without the loss of a figure."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.cells import cell_len

from micropref.cache.sql.columns import GAP, Column, aligned, cut, printable, total_width
from micropref.pipeline.show.lines import WIDTH, paragraphs

LONGEST_NAME = 28
"""Characters of a row's name before it is shortened; the whole of it stands below the table."""
LONGEST_TEXT = 40
"""Characters of any other text, likewise."""


def show_rows(rows: Iterable[dict[str, Any]], keys: int = 1) -> str:
    """Return rows of equal keys as an aligned table of at most 80 columns.

    The first `keys` columns name a row. A table that is too wide becomes several, each of which starts with those.
    Long names are shortened, and spelt out beneath. Counts have thousands separators, other numbers 4 decimals; what
    wants another form comes as text.
    """
    listed = list(rows)
    if not listed:
        return ""
    short: dict[str, str] = {}
    columns = _columns(listed, lambda text, _: text, keys)
    if total_width(columns) > WIDTH:
        columns = _columns(listed, lambda text, most: _shortened(text, most, short), keys)
    tables = "\n".join(aligned(block) for block in _blocks(columns, keys))
    return tables + paragraphs(f"{mark} = {text}" for text, mark in short.items())


def _columns(rows: Sequence[dict[str, Any]], shorten: Callable[[str, int], str], keys: int) -> list[Column]:
    columns = []
    for place, name in enumerate(rows[0]):
        values = [row[name] for row in rows]
        most = LONGEST_NAME if place < keys else LONGEST_TEXT
        cells = tuple(shorten(_cell(value), most) for value in values)
        columns.append(_headed(Column(shorten(printable(name), LONGEST_NAME), cells, all(map(_is_figure, values)))))
    return columns


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if isinstance(value, float) else printable(str(value))


def start_of(text: str, width: int = 32) -> str:
    """Return a text's first line, cut where it is longer."""
    first, _, rest = text.strip().partition("\n")
    return first if len(first) <= width and not rest else f"{first[: width - 1]}…"


def _is_figure(value: Any) -> bool:
    """Return whether a value is a number or none, or a number's text, alone or with its error or interval."""
    if isinstance(value, str):
        return not value or value.lstrip("+-> ")[:1].isdigit()
    return value is None or isinstance(value, int | float)


def _shortened(text: str, most: int, short: dict[str, str]) -> str:
    """Return a text, or what stands for it where it is too long: no two texts are shortened alike."""
    if cell_len(text) <= most:
        return text
    if text not in short:
        mark = cut(text, most)
        taken = set(short.values())
        number = 2
        while mark in taken:
            mark, number = f"{cut(text, most - len(str(number)) - 1)} {number}", number + 1
        short[text] = mark
    return short[text]


def _headed(column: Column) -> Column:
    """Return a column whose heading takes several lines where its words are wider than the cells."""
    widest = max((cell_len(cell) for cell in column.cells), default=0)
    most = max(widest, *(cell_len(word) for word in column.name.split(" ")))
    heading = "\n".join(textwrap.wrap(column.name, most, break_long_words=False, break_on_hyphens=False))
    return Column(heading or column.name, column.cells, column.right)


def _blocks(columns: Sequence[Column], keys: int) -> list[list[Column]]:
    """Return the columns as one table, or as few as fit, about equally wide, each with the columns that name a row."""
    if total_width(columns) <= WIDTH:
        return [list(columns)]
    fewest = len(_split(columns, keys, WIDTH))
    narrow = next(width for width in range(1, WIDTH + 1) if len(_split(columns, keys, width)) == fewest)
    return _split(columns, keys, narrow)


def _split(columns: Sequence[Column], keys: int, width: int) -> list[list[Column]]:
    named, figures = list(columns[:keys]), columns[keys:]
    blocks: list[list[Column]] = []
    room = 0
    for column in figures:
        if not blocks or column.width + GAP > room:
            blocks.append(list(named))
            room = width - total_width(named)
        blocks[-1].append(column)
        room -= column.width + GAP
    return blocks
