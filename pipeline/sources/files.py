"""The rows of a source's files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from micropref.cache.errors import BadInput
from micropref.pipeline.sources.json_files import json_records
from micropref.pipeline.sources.kinds import kind_of
from micropref.pipeline.sources.pairs import Origin
from micropref.pipeline.sources.rows import READING, Record, Row, RowError, Unreadable
from micropref.pipeline.sources.tabular import arrow_records, csv_records, parquet_records

READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".jsonl": json_records,
    ".ndjson": json_records,
    ".json": json_records,
    ".csv": csv_records,
    ".parquet": parquet_records,
    ".arrow": arrow_records,
    ".feather": arrow_records,
}
"""Kinds of files → what reads them."""
POINTER = b"version https://git-lfs"
"""What a file begins with whose content Git LFS did not fetch."""


def read_rows(
    files: Sequence[Path],
    records: Callable[[Path], Iterator[Record]] | None = None,
    *,
    version: int = READING,
    noted: Counter[str] | None = None,
) -> Iterator[Row | Unreadable]:
    """Yield the rows of the files in order; equal texts of all of them will share one object.

    `records` reads a file where that is not the reader of its kind; `noted` counts what is done to texts.
    """
    noted = Counter() if noted is None else noted
    pool: dict[Any, Any] = {}
    for file in files:
        kind = kind_of(file)
        assert kind is not None, "sources have readable kinds only"
        check_fetched(file)
        name = str(file)
        textual = kind == ".csv"
        line = 0
        for line, values in (records or READERS[kind])(file):
            origin = Origin(name, line)
            if isinstance(values, RowError):
                yield Unreadable(origin, values)
            else:
                yield Row(values, origin, textual, pool, version, noted)
        if line == 0:
            noted[f"files without a row ({file.name})"] += 1


def check_fetched(file: Path) -> None:
    """Raise BadInput for a file that cannot be opened, or that stands for one that Git LFS keeps elsewhere."""
    try:
        with file.open("rb") as opened:
            start = opened.read(len(POINTER))
    except OSError as error:
        raise BadInput(f"{file}: cannot be read ({error.strerror or error})") from None
    if start == POINTER:
        raise BadInput(f"{file}: found a pointer of Git LFS; expected the file itself: run `git lfs pull` in the clone")
