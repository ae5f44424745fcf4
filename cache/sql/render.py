"""A query's result as text or Parquet. The forms for scripts (json, csv, parquet) hold every value in full."""

from __future__ import annotations

import io
import json
import math
import shutil
import sys
import textwrap
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from micropref.cache.atomic import check_new_file, write_bytes
from micropref.cache.choices import TableFormat
from micropref.cache.errors import BadInput
from micropref.cache.sql.columns import Column, aligned, cut, fitted, printable, total_width

WIDEST_CELL = 60
"""Characters of a cell in `table`; the other formats never cut."""


def render(table: pa.Table, fmt: TableFormat, out: Path | None = None, width: int | None = None) -> str:
    """Return a result in a format, or write it to `out`, whole or not at all, and return "".

    json: a list of objects, one per line; dates in ISO form, NaN and infinity null, bytes in hex.
    csv: NULL is an empty field, an empty text is "". table, md: floats to 4 decimals, NULL as NULL.
    `width`: columns that format table has; None: those of the terminal it is printed to, no limit in a pipe or file.
    A wider table has its long texts cut, then columns left out from the right, and a last line that says so.
    Raises BadInput as `check_output` does.
    """
    check_output(fmt, out)
    if fmt == "parquet":
        data = _parquet(table)
    else:
        if fmt == "table":
            text = _table(table, width if width is not None or out is not None else terminal_width())
        else:
            writers: dict[str, Callable[[pa.Table], str]] = {"json": _json, "csv": _csv, "md": _markdown}
            text = writers[fmt](table)
        if out is None:
            return text
        data = text.encode()
    assert out is not None, "parquet has a file"
    write_bytes(out, data)
    return ""


def check_output(fmt: TableFormat, out: Path | None) -> None:
    """Raise BadInput where a result cannot be written so: an unknown format, no file for parquet, no folder for it."""
    if fmt not in get_args(TableFormat):
        raise BadInput(f"format is {fmt!r}: expected one of {', '.join(get_args(TableFormat))}")
    if out is not None:
        check_new_file(out)
    elif fmt == "parquet":
        raise BadInput("format is parquet, which is binary: give a file, -o FILE")


def _json(table: pa.Table) -> str:
    rows = [json.dumps(_jsonable(row), ensure_ascii=False, allow_nan=False) for row in table.to_pylist()]
    return "[" + ",\n ".join(rows) + "]\n"


def _jsonable(value: Any) -> Any:
    """Return the JSON value of what Arrow hands to Python."""
    if isinstance(value, dict):
        value = {str(key): _jsonable(item) for key, item in value.items()}
    elif isinstance(value, list | tuple) and not isinstance(value, pa.MonthDayNano):
        value = [_jsonable(item) for item in value]
    elif isinstance(value, float):
        value = value if math.isfinite(value) else None
    elif isinstance(value, bytes):
        value = value.hex()
    elif isinstance(value, datetime | date | time):
        value = value.isoformat()
    elif isinstance(value, Decimal):
        value = int(value) if value == value.to_integral_value() else float(value)
    elif not isinstance(value, bool | int | str | None):
        value = str(value)
    return value


def _csv(table: pa.Table) -> str:
    sink = io.BytesIO()
    pa_csv.write_csv(_flat(table), sink)
    return sink.getvalue().decode()


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(_storable(table), sink, compression="zstd")
    return sink.getvalue()


def _flat(table: pa.Table) -> pa.Table:
    """Return a table of plain numbers, booleans and texts: anything else as the text JSON has for it."""
    return _as_text(table, lambda kind: not (_is_plain(kind) or pa.types.is_null(kind)))


def _storable(table: pa.Table) -> pa.Table:
    """Return a table without the types Parquet lacks: intervals and unions become texts."""
    return _as_text(table, lambda kind: pa.types.is_interval(kind) or pa.types.is_union(kind))


def _as_text(table: pa.Table, wanted: Callable[[pa.DataType], bool]) -> pa.Table:
    for place, field in enumerate(table.schema):
        if wanted(field.type):
            texts = pa.array(map(_text, table.column(place).to_pylist()), pa.string())
            table = table.set_column(place, field.name, texts)
    return table


def _text(value: Any) -> str | None:
    simple = _jsonable(value)
    return simple if simple is None or isinstance(simple, str) else json.dumps(simple, ensure_ascii=False)


def _is_plain(kind: pa.DataType) -> bool:
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_string)
    return any(test(kind) for test in tests)


def _cell(value: Any) -> str:
    """Return a value as one printable line: control characters of a text could drive a terminal."""
    if value is None:
        return "NULL"
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, bool):
        return str(value).lower()
    text = _text(value)
    assert text is not None
    return printable(text)


def _cells(table: pa.Table) -> list[list[str]]:
    """Return the columns, each as its name and then its cells."""
    columns = zip(table.column_names, table.columns, strict=True)
    return [[_cell(name), *map(_cell, column.to_pylist())] for name, column in columns]


def terminal_width() -> int | None:
    """Return how many columns the terminal has that stdout goes to; None where it goes to a pipe or a file."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _table(table: pa.Table, width: int | None) -> str:
    columns = []
    for field, (name, *cells) in zip(table.schema, _cells(table), strict=True):
        right = pa.types.is_integer(field.type) or pa.types.is_floating(field.type) or pa.types.is_decimal(field.type)
        columns.append(Column(cut(name, WIDEST_CELL), tuple(cut(cell, WIDEST_CELL) for cell in cells), right))
    if width is None or total_width(columns) <= width:
        return aligned(columns)
    shown, hidden = fitted(columns, width)
    remark = f"cut to {width} columns: long texts end in …"
    if hidden:
        remark += f"; columns not shown: {', '.join(hidden)}"
    remark += "; --format csv, json or md has all"
    return aligned(shown) + "\n".join(textwrap.wrap(remark, width, break_on_hyphens=False)) + "\n"


def _markdown(table: pa.Table) -> str:
    columns = [[cell.replace("\\", "\\\\").replace("|", "\\|") for cell in cells] for cells in _cells(table)]
    rows = [
        [column[0] for column in columns],
        ["---"] * len(columns),
        *zip(*(column[1:] for column in columns), strict=True),
    ]
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)
