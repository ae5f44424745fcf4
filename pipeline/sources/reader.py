"""Preference data from a file or folder: rows in, pairs, ratings and rejects out."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

from micropref.cache.errors import BadInput
from micropref.pipeline.options import OnBad
from micropref.pipeline.sources.adapters import of_split, ordinary
from micropref.pipeline.sources.files import read_rows
from micropref.pipeline.sources.formats import COLUMNS, ONE_PAIR_A_ROW, ShapeReader, recognise, shape_reader
from micropref.pipeline.sources.growth import RowsRead
from micropref.pipeline.sources.locations import Located, only_split
from micropref.pipeline.sources.pairs import PreferencePair, Rating, Reject
from micropref.pipeline.sources.rows import LeftOut, Outcome, Row, RowError, Unreadable, VectorColumns

ROWS_TO_RECOGNISE = 20
"""How many rows are looked at for one that shows the source's shape."""


@dataclass(frozen=True)
class Source:
    """What one file or folder of preference data holds."""

    path: str
    """The file or folder, as the user gave it, or the data set's name and revision."""
    digest: str
    """See Located.digest."""
    shape: str
    """How the rows were read: preference, hh, reversals or ratings."""
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
    rows_digest: str | None = None
    """Digest of the rows; None where they hold vectors."""
    prefixes: dict[int, str] = field(default_factory=dict)
    """N → digest of the first N rows, for the N that were asked for."""


def read_source(
    source: Located | Path,
    *,
    shape: str = "auto",
    limit: int | None = None,
    on_bad: OnBad = "stop",
    vectors: VectorColumns | None = None,
    marks: Collection[int] = (),
) -> Source:
    """Read one split of a source of preference data.

    `shape` "auto" recognises how the rows are to be read, `limit` takes the first rows only, `on_bad` says
    whether a malformed row stops the reading or becomes a reject. `vectors` reads Parquet rows that hold the vectors
    of their texts, one pair a row, and checks them. `marks` are the N whose first N rows' digest is wanted. Raises
    BadInput, naming file, line and field where there are such, for what cannot be read and for a source without one
    usable pair.
    """
    if shape != "auto" and shape not in COLUMNS:
        raise BadInput(f"unknown shape {shape!r}; expected auto or one of {', '.join(COLUMNS)}")
    if limit is not None and limit < 1:
        raise BadInput(f"limit: found {limit}; expected at least 1")
    located = only_split(source)
    path, adapter = located.name, located.adapter
    if shape == "auto" and adapter is not None:
        shape = adapter.shape
    read = read_rows(located.files, None if vectors is None else vectors.records)
    passed = RowsRead(islice(of_split(read, adapter, located.read_split), limit), marks, hashed=vectors is None)
    rows = ordinary(passed, adapter)
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
    _read_all(chain(first, rows), shape_reader(shape, outcome, vectors), outcome, on_bad)
    if not outcome.pairs:
        dropped = ", ".join(f"{number} × {kind}" for kind, number in outcome.dropped.items())
        raise BadInput(
            f"{path}: found no usable pair in {passed.count} rows ({dropped or 'nothing comparable'}); "
            "expected at least one row with a preference"
        )
    return Source(
        path=path,
        digest=located.digest(),
        shape=shape,
        rows=passed.count,
        pairs=outcome.pairs,
        ratings=outcome.ratings,
        rejects=outcome.rejects,
        dropped=dict(outcome.dropped),
        rows_digest=passed.digest,
        prefixes=passed.prefixes,
    )


def _recognised(first: list[Row | Unreadable | LeftOut], on_bad: OnBad) -> str:
    readable = [row for row in first if isinstance(row, Row)]
    broken = next((row for row in first if isinstance(row, Unreadable)), None)
    if broken is not None and (on_bad == "stop" or not readable):
        raise _stop(broken.origin, broken.error)
    if not readable:
        raise BadInput(f"{first[0].origin}: the first rows are all left out; give `format`")
    return recognise(readable)


def _read_all(rows: Iterator[Row | Unreadable | LeftOut], reader: ShapeReader, outcome: Outcome, on_bad: OnBad) -> None:
    """Read the rows into the outcome."""
    for row in rows:
        try:
            if isinstance(row, LeftOut):
                outcome.drop(row.origin, row.reason)
                continue
            if isinstance(row, Unreadable):
                raise row.error
            reader.add(row)
        except RowError as error:
            if on_bad == "stop":
                raise _stop(row.origin, error) from None
            outcome.drop(row.origin, "malformed", str(error))
    reader.finish()


def _stop(origin: object, error: RowError) -> BadInput:
    return BadInput(f"{origin}: {error}; fix the row, or skip such rows with `on_bad` skip")
