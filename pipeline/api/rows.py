"""Rows given in memory: tables and lists of dicts as a JSON Lines file, which is what every source is read from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from micropref.cache.atomic import write_bytes
from micropref.cache.errors import BadInput
from micropref.cache.keys import sha256_hex


def as_paths(source: Any, folder: Path) -> list[Path]:
    """Return the files of a source: a path, several, or rows in memory, which are kept in `folder`.

    Rows are a list of dicts or a table of Polars, pandas, Arrow or `datasets`. Their file is named by its content, so
    that the same rows given again are the same source. Raises BadInput for anything else.
    """
    paths = given_paths(source)
    if paths:
        return paths
    lines = "".join(_line(number, row) for number, row in enumerate(_rows(source), 1))
    if not lines:
        raise BadInput("source: found no rows; expected a path, or rows such as {'prompt': ..., 'chosen': ..., ...}")
    path = folder / f"rows-{sha256_hex(lines)[:12]}.jsonl"
    if not path.is_file():
        write_bytes(path, lines.encode())
    return [path]


def given_paths(source: Any) -> list[Path]:
    """Return the files of a source that is a path or several; none where it is rows."""
    if isinstance(source, str | Path):
        return [Path(source)]
    if isinstance(source, list | tuple) and all(isinstance(one, str | Path) for one in source):
        return [Path(one) for one in source]
    return []


def row_fields(number: int, row: Any, what: str = "source") -> Mapping[str, Any]:
    """Return a row that is a dict. Raises BadInput naming the `number` of one that is not."""
    if not isinstance(row, Mapping):
        raise BadInput(f"{what}, row {number}: found a {type(row).__name__}; expected a dict")
    return row


def _rows(source: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a table of any of the libraries, known by what it can do and not by an import."""
    if hasattr(source, "iter_rows"):  # Polars
        yield from source.iter_rows(named=True)
    elif hasattr(source, "to_pylist"):  # Arrow
        yield from source.to_pylist()
    elif hasattr(source, "iloc"):  # pandas, by way of Arrow: a missing value is null there, and whole numbers stay so
        import pyarrow as pa

        yield from pa.Table.from_pandas(source, preserve_index=False).to_pylist()
    elif isinstance(source, Iterable) and not isinstance(source, Mapping | bytes):  # a list of dicts, `datasets`
        yield from source
    else:
        raise BadInput(f"source: found a {type(source).__name__}; expected a path, a list of dicts or a table")


def _line(number: int, row: Any) -> str:
    fields = row_fields(number, row)
    try:
        return json.dumps(dict(fields), ensure_ascii=False, default=_plain) + "\n"
    except TypeError as error:
        raise BadInput(f"source, row {number}: {error}; expected texts, numbers, lists and dicts") from None


def _plain(value: Any) -> Any:
    """Return a value that JSON does not have as one that it has.

    What no column of preference data holds, such as bytes or an image, becomes an object with its type's name: the
    column is then ignored by name, or its rows are malformed.
    """
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        return value.item()
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Decimal):
        return int(value) if value.is_finite() and value == value.to_integral_value() else float(value)
    if isinstance(value, date | time | timedelta | UUID):
        return str(value)
    if isinstance(value, bytes) or type(value).__module__ != "builtins":
        return {"unread": type(value).__name__}
    raise TypeError(f"found a {type(value).__name__}")
