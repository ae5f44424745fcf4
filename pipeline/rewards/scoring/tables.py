"""Scored rows as a file: JSON Lines, CSV or Parquet, whole or not at all; or JSON Lines on standard output."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import polars as pl

from micropref.cache.atomic import check_new_file, publish, staged_file
from micropref.cache.errors import BadInput
from micropref.cache.keys import finite

STDOUT = "-"
ACCEPTED = ".jsonl, .csv or .parquet"


class RowWriter(Protocol):
    """Takes rows one by one."""

    def __call__(self, row: dict[str, Any]) -> None:
        """Write one row. Raises BadInput for one that the file cannot hold."""


def check_output(out: str) -> None:
    """Raise BadInput unless rows can be written there: a name that ends in a known way, in a folder that exists."""
    path = Path(out)
    if out == STDOUT:
        return
    if path.suffix.lower() not in (".jsonl", ".csv", ".parquet"):
        raise BadInput(f"out is {out!r}: expected {ACCEPTED}, or - for standard output")
    check_new_file(path)


@contextmanager
def row_writer(out: str) -> Iterator[RowWriter]:
    """Provide what writes rows to a file, which appears when all are written, or to standard output at once.

    Raises Failure where the disk refuses.
    """
    if out == STDOUT:
        yield _to_stdout
        return
    path = Path(out)
    with staged_file(path.parent) as (file, temp):
        if path.suffix.lower() == ".csv":
            yield _Csv(file)
        else:
            yield lambda row: _write_line(file, row)
        file.flush()
        if path.suffix.lower() == ".parquet":
            table = pl.read_ndjson(temp, infer_schema_length=None)
            file.seek(0)
            file.truncate()
            table.write_parquet(file)
    publish(temp, path)


def _line(row: dict[str, Any]) -> str:
    return json.dumps(finite(row), ensure_ascii=False, allow_nan=False, default=str) + "\n"


def _write_line(file: BinaryIO, row: dict[str, Any]) -> None:
    file.write(_line(row).encode())


def _to_stdout(row: dict[str, Any]) -> None:
    sys.stdout.write(_line(row))
    sys.stdout.flush()


class _Csv:
    """Writes CSV: texts and numbers as they are, all else as JSON."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._names = file, list[str]()

    def __call__(self, row: dict[str, Any]) -> None:
        if not self._names:
            self._names = list(row)
            self._write(self._names)
        if other := sorted(row.keys() - set(self._names)):
            raise BadInput(f"a row has the column {other[0]!r}, which the first has not: write .jsonl instead of .csv")
        self._write([_cell(row.get(name)) for name in self._names])

    def _write(self, cells: list[str]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(cells)
        self._file.write(text.getvalue().encode())


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
