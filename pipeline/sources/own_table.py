"""A file of a user's own as an Arrow table, for joins with what the store has.

Numbers are exact or stay text: ids such as 007, and whole numbers that 64 bits do not hold, are never rounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from micropref.cache.errors import BadInput
from micropref.cache.sql.given import too_large
from micropref.cache.sql.sandbox import SHARE, SqlLimits
from micropref.pipeline.sources.files import READERS, check_fetched
from micropref.pipeline.sources.kinds import TABLE_KINDS, kind_of
from micropref.pipeline.sources.rows import Record, RowError
from micropref.pipeline.sources.tabular import arrow_batches

ROWS = 1 << 14
"""Rows held as Python objects or decoded at a time."""
EXPECTED = ".csv, .jsonl or .json (each also .gz or .zst), .parquet or .arrow"
_WHOLE = r"^(0|-?[1-9][0-9]{0,18})$"
"""A whole number as programs write it: no zero in front, and no sign but a minus."""
_NUMBER = r"^(-?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?|[nN]a[nN]|-?inf)$"
_LONG = r"^-?[0-9]{16,}$"
"""More digits than a floating-point number surely keeps."""
_WORDS = ("true", "false")


def read_own_table(path: Path, limits: SqlLimits) -> pa.Table:
    """Return the rows of a CSV, JSON Lines, JSON, Parquet or Arrow file, typed by all of them.

    A column of CSV holds whole numbers, numbers, true and false, or texts; an empty cell is null. Raises BadInput for
    what is no such file, for a malformed row with its line, and where rows take more than half of the memory limit.
    """
    kind = _kind(path)
    check_fetched(path)
    try:
        if kind == ".parquet":
            return _together(path, _parquet_pieces(path), limits)
        if kind in TABLE_KINDS:
            return _together(path, _arrow_pieces(path), limits)
        table = _together(path, _text_pieces(path, READERS[kind](path)), limits)
    except (pa.ArrowException, OSError, UnicodeError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise BadInput(f"{path}: cannot be read ({reason}); expected a complete file of the kind it is named") from None
    return typed(table) if kind == ".csv" else table


def typed(texts: pa.Table) -> pa.Table:
    """Return columns of texts as whole numbers, numbers or booleans where each of their values is one."""
    frame = pl.DataFrame(texts)
    return frame.select(_typed(column) for column in frame).to_arrow(compat_level=pl.CompatLevel.oldest())


def _typed(texts: pl.Series) -> pl.Series:
    values = texts.drop_nulls()
    if values.is_empty():
        return texts.cast(pl.String)
    if values.str.contains(_WHOLE).all() and not values.cast(pl.Int64, strict=False).has_nulls():
        return texts.cast(pl.Int64)
    if values.str.contains(_NUMBER).all() and not values.str.contains(_LONG).any():
        infinite = values.cast(pl.Float64).is_infinite()
        if (infinite == values.str.ends_with("inf")).all():  # 1e999 would become infinity
            return texts.cast(pl.Float64)
    if values.str.to_lowercase().is_in(_WORDS).all():
        return (texts.str.to_lowercase() == "true").alias(texts.name)
    return texts


def _kind(path: Path) -> str:
    if path.is_dir():
        raise BadInput(f"{path}: found a folder; expected one file: {EXPECTED}")
    if not path.exists():
        raise BadInput(f"{path}: there is no such file; expected {EXPECTED}")
    if not path.is_file():
        raise BadInput(f"{path}: found a pipe or a device; expected a file: {EXPECTED}")
    kind = kind_of(path)
    if kind is None:
        raise BadInput(f"{path}: found a file of another kind; expected {EXPECTED}")
    return kind


def _together(path: Path, pieces: Iterator[pa.Table], limits: SqlLimits) -> pa.Table:
    """Return pieces as one table, stopping as soon as they are too large. A column missing from a piece is null there.

    Raises ArrowException where a column's types cannot be brought together without loss.
    """
    found: list[pa.Table] = []
    size = 0
    for piece in pieces:
        found.append(piece)
        size += piece.nbytes
        if size > limits.bytes * SHARE:
            raise too_large(str(path), limits)
    if not found:
        raise BadInput(f"{path}: found no rows")
    return pa.concat_tables(found, promote_options="permissive")


def _parquet_pieces(path: Path) -> Iterator[pa.Table]:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        yield file.schema_arrow.empty_table()
        yield from (pa.Table.from_batches([batch]) for batch in file.iter_batches(batch_size=ROWS))


def _arrow_pieces(path: Path) -> Iterator[pa.Table]:
    with pa.memory_map(str(path)) as file:
        yield from (pa.Table.from_batches([batch]) for batch in arrow_batches(path, file))


def _text_pieces(path: Path, records: Iterator[Record]) -> Iterator[pa.Table]:
    while some := list(islice(records, ROWS)):
        columns: dict[str, list[Any]] = {}
        for row, (line, fields) in enumerate(some):
            if isinstance(fields, RowError):
                raise BadInput(f"{path}:{line}: {fields}")
            for name, value in fields.items():
                column = columns.setdefault(name, [])
                column.extend([None] * (row - len(column)))
                column.append(value)
        yield pa.table(
            {
                name: _array(f"{path}:{some[0][0]}-{some[-1][0]}", name, column + [None] * (len(some) - len(column)))
                for name, column in columns.items()
            }
        )


def _array(where: str, name: str, values: list[Any]) -> pa.Array:
    try:
        array = pa.array(values)
        if pa.types.is_floating(array.type) and pc.any(pc.is_inf(array)).as_py():  # JSON has no infinity
            raise OverflowError("a number is too large")
        return array
    except (pa.ArrowException, UnicodeError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise BadInput(
            f"{where}: column {name!r} cannot be read ({reason}); expected values of one kind, numbers of at most 64 "
            "bits: write others as texts"
        ) from None
