"""Preference data from a file or folder: rows in, pairs, ratings and rejects out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from micropref.cache.errors import BadInput
from micropref.pipeline.options import OnBad
from micropref.pipeline.sources.files import read_rows, source_digest, source_files
from micropref.pipeline.sources.formats import COLUMNS, ONE_PAIR_A_ROW, ShapeReader, recognise, shape_reader
from micropref.pipeline.sources.pairs import PreferencePair, Rating, Reject
from micropref.pipeline.sources.rows import READING, Outcome, Row, RowError, Unreadable, VectorColumns

NESTED = RowError(None, "values nested too deeply", "fields of texts, numbers and messages")
ROWS_TO_RECOGNISE = 20
"""How many rows are looked at for one that shows the source's shape."""


@dataclass(frozen=True)
class Source:
    """What one file or folder of preference data holds."""

    path: str
    """The file or folder, as the user gave it."""
    digest: str
    """sha256 of the file's bytes; of a folder, of its sorted [relative name, digest] list."""
    shape: str
    """How the rows were read: preference, hh, reversals, strength or ratings."""
    rows: int
    """Rows read; blank lines do not count."""
    pairs: list[PreferencePair]
    """The usable pairs: in the order of the rows, those of rated responses prompt by prompt."""
    ratings: list[Rating]
    """The ratings of a ratings source, one per response and attribute."""
    rejects: list[Reject]
    """What became no pair: no preference, or malformed."""
    dropped: dict[str, int]
    """Reason class → how many rejects have it, such as {"tie": 10}."""
    noted: dict[str, int]
    """What was done to texts, or not read of them → how often."""


def read_source(
    path: Path,
    *,
    shape: str = "auto",
    limit: int | None = None,
    on_bad: OnBad = "stop",
    vectors: VectorColumns | None = None,
    reading: int = READING,
) -> Source:
    """Read a source of preference data.

    `shape` "auto" recognises how the rows are to be read, `limit` takes the first rows only, `on_bad` says
    whether a malformed row stops the reading or becomes a reject. `vectors` reads Parquet rows that hold the vectors
    of their texts, one pair a row, and checks them. `reading` is the version that a data set was
    read with before. Raises BadInput, naming file, line and field where there are such, for what cannot be read and for
    a source without one usable pair.
    """
    if shape != "auto" and shape not in COLUMNS:
        raise BadInput(f"unknown shape {shape!r}; expected auto or one of {', '.join(COLUMNS)}")
    if limit is not None and limit < 1:
        raise BadInput(f"limit: found {limit}; expected at least 1")
    files = source_files(path)
    noted = Counter[str]()
    records = None if vectors is None else vectors.records
    rows = islice(read_rows(files, records, reading=reading, noted=noted), limit)
    first = list(islice(rows, ROWS_TO_RECOGNISE))
    if not first:
        raise BadInput(f"{path}: found no rows; expected at least one")
    if shape == "auto":
        shape = _recognised(first, on_bad)
    if vectors is not None and shape not in ONE_PAIR_A_ROW:
        raise BadInput(
            f"{path}: found {shape} rows; expected one pair a row: {COLUMNS['preference']}, with their vectors"
        )
    outcome = Outcome()
    count = _read_all(chain(first, rows), shape_reader(shape, outcome, vectors), outcome, on_bad)
    if not outcome.pairs:
        dropped = ", ".join(f"{number} × {kind}" for kind, number in outcome.dropped.items())
        raise BadInput(
            f"{path}: found no usable pair in {count} rows ({dropped or 'nothing comparable'}); "
            "expected at least one row with a preference"
        )
    return Source(
        path=str(path),
        digest=source_digest(path, files),
        shape=shape,
        rows=count,
        pairs=outcome.pairs,
        ratings=outcome.ratings,
        rejects=outcome.rejects,
        dropped=dict(outcome.dropped),
        noted=dict(sorted(noted.items())),
    )


def _recognised(first: list[Row | Unreadable], on_bad: OnBad) -> str:
    readable = [row for row in first if isinstance(row, Row)]
    broken = next((row for row in first if isinstance(row, Unreadable)), None)
    if broken is not None and (on_bad == "stop" or not readable):
        raise _stop(broken.origin, broken.error)
    return recognise(readable)


def _read_all(rows: Iterator[Row | Unreadable], reader: ShapeReader, outcome: Outcome, on_bad: OnBad) -> int:
    """Read the rows into the outcome and return their number."""
    count = 0
    for row in rows:
        count += 1
        try:
            if isinstance(row, Unreadable):
                raise row.error
            reader.add(row)
        except (RowError, RecursionError) as found:
            error = found if isinstance(found, RowError) else NESTED
            if on_bad == "stop":
                raise _stop(row.origin, error) from None
            outcome.drop(row.origin, "malformed", str(error))
    reader.finish()
    return count


def _stop(origin: object, error: RowError) -> BadInput:
    return BadInput(f"{origin}: {error}; fix the row, or skip such rows with `on_bad` skip")
