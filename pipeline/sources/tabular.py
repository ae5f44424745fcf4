"""CSV, Parquet and Arrow files row by row."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from micropref.cache.errors import BadInput
from micropref.pipeline.sources.jsonl import LONGEST_LINE, lines
from micropref.pipeline.sources.rows import Record, RowError

LARGEST_CELL = LONGEST_LINE
"""Characters of a CSV cell; the csv module's own limit is 128 Ki, less than a long article."""
ROWS_PER_BATCH = 256
"""Parquet rows decoded at a time: few enough that very long texts stay affordable."""

ARROW_FILE = b"ARROW1"
"""What an Arrow file begins with, unlike an Arrow stream."""


def csv_records(path: Path) -> Iterator[Record]:
    """Yield (line a row begins at, fields or RowError); every cell stays text, an empty one is null.

    Raises BadInput for a bad header, and for quoting or encoding faults: behind those, where a row begins is
    a guess.
    """
    csv.field_size_limit(LARGEST_CELL)
    reader = csv.reader(_decoded(path), strict=True)
    try:
        header = next(reader, [])
        _check_columns(path, header)
        _check_commas(path, header)
        begins = reader.line_num + 1
        for cells in reader:
            if len(cells) == len(header):
                yield begins, {name: cell or None for name, cell in zip(header, cells, strict=True)}
            elif cells:
                yield begins, RowError(None, f"{len(cells)} cells", f"{len(header)}, as in the header")
            begins = reader.line_num + 1
    except csv.Error as error:
        raise BadInput(
            f"{path}:{reader.line_num}: found broken CSV ({error}); "
            'expected comma-separated cells, quoted with " where they hold commas, quotes or line ends'
        ) from None


def parquet_records(path: Path) -> Iterator[Record]:
    """Yield (1-based row, fields), nested messages as lists of dicts. Raises BadInput for a damaged file."""
    row = 0
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            _check_columns(path, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=ROWS_PER_BATCH):
                for values in _values(batch):
                    row += 1
                    yield row, values
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise BadInput(
            f"{path}:{row + 1}: cannot be read as Parquet ({reason}); expected a complete file: copy it again"
        ) from None


def arrow_records(path: Path) -> Iterator[Record]:
    """Yield (1-based row, fields) of an Arrow file or stream, as `datasets` saves them. Raises BadInput."""
    row = 0
    try:
        with pa.memory_map(str(path)) as file:
            for batch in arrow_batches(path, file):
                for start in range(0, batch.num_rows, ROWS_PER_BATCH):
                    for values in _values(batch.slice(start, ROWS_PER_BATCH)):
                        row += 1
                        yield row, values
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise BadInput(
            f"{path}:{row + 1}: cannot be read as Arrow ({reason}); expected a complete file: copy it again"
        ) from None


def arrow_batches(path: Path, file: pa.MemoryMappedFile) -> Iterator[pa.RecordBatch]:
    """Yield the batches of an Arrow file, or of streams one behind the other. Raises ArrowException for damage."""
    if file.size() == 0:
        return
    if file.read(len(ARROW_FILE)) == ARROW_FILE:
        with pa.ipc.open_file(file) as opened:
            _check_columns(path, opened.schema.names)
            yield from (opened.get_batch(at) for at in range(opened.num_record_batches))
    else:
        file.seek(0)
        while file.tell() < file.size():  # streams may stand one behind the other
            with pa.ipc.open_stream(file) as stream:
                _check_columns(path, stream.schema.names)
                yield from stream


def _values(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Return the rows of a batch; times that Python cannot hold, such as those in nanoseconds, as text."""
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError:
        raise
    except (ValueError, OverflowError):
        columns = [[_value(one) for one in column] for column in batch.columns]
        return [dict(zip(batch.schema.names, cells, strict=True)) for cells in zip(*columns, strict=True)]


def _value(one: pa.Scalar) -> Any:
    try:
        return one.as_py()
    except UnicodeDecodeError:
        raise
    except (ValueError, OverflowError):
        if isinstance(one, pa.StructScalar):
            return {name: _value(inner) for name, inner in one.items()}
        if isinstance(one, pa.ListScalar):
            return [_value(inner) for inner in one]
        if isinstance(one, pa.DurationScalar):
            return f"{one.value} {one.type.unit}"
        return one.cast(pa.string()).as_py()


def _decoded(path: Path) -> Iterator[str]:
    for number, line in lines(path):
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise BadInput(
                f"{path}:{number}: found invalid UTF-8 at byte {error.start + 1}; expected UTF-8 text"
            ) from None


def _check_commas(path: Path, header: Sequence[str]) -> None:
    """Raise BadInput for a header whose names stand between other marks than commas."""
    for mark, word in {"\t": "tabs", ";": "semicolons"}.items():
        if len(header) == 1 and mark in header[0]:
            raise BadInput(f"{path}:1: found names separated by {word}; expected commas: save the file with commas")


def _check_columns(path: Path, names: Sequence[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise BadInput(f"{path}:1: found column {repeated[0]!r} more than once; expected every column once")
