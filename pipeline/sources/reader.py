"""Preference data from a file or folder: rows in, pairs, ratings and rejects out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path

from micropref.cache.errors import BadInput
from micropref.pipeline.options import OnBad
from micropref.pipeline.sources.adapters import Adapter, of_split, ordinary
from micropref.pipeline.sources.column_profile import profile_columns
from micropref.pipeline.sources.column_roles import Decision, Profiles, check_choices
from micropref.pipeline.sources.columns import (
    ATTRIBUTE,
    IGNORED,
    USER,
    ColumnChoices,
    ColumnReading,
    EarlierReading,
    SourceReading,
    in_words,
)
from micropref.pipeline.sources.files import read_rows
from micropref.pipeline.sources.formats import COLUMNS, ONE_PAIR_A_ROW, SHAPES, ShapeReader, recognise, shape_reader
from micropref.pipeline.sources.growth import RowsRead
from micropref.pipeline.sources.locations import Located, only_split
from micropref.pipeline.sources.pairs import PreferencePair, Rating, Reject
from micropref.pipeline.sources.rows import READING, LeftOut, Outcome, Record, Row, RowError, Unreadable
from micropref.pipeline.sources.text_forms import refuse_images
from micropref.pipeline.sources.vector_columns import VectorColumns

_NO_CHOICES = ColumnChoices()
NESTED = RowError(None, "values nested too deeply", "fields of texts, numbers and messages")
ROWS_TO_RECOGNISE = 20
"""How many rows are looked at for one that shows the source's shape."""


@dataclass(frozen=True)
class Source:
    """What one file or folder of preference data holds."""

    path: str
    """The file or folder, as the user gave it, or the data set's name and revision."""
    digest: str
    """See Located.digest."""
    reading: SourceReading
    """The shape of its rows, and which column was read as what."""
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
    rows_digest: str | None = None
    """Digest of the rows; None where they hold vectors."""
    prefixes: dict[int, str] = field(default_factory=dict)
    """N → digest of the first N rows, for the N that were asked for."""

    @property
    def shape(self) -> str:
        """Return how the rows were read: preference, hh, reversals, strength or ratings."""
        return self.reading.shape


def read_source(
    source: Located | Path,
    *,
    shape: str = "auto",
    limit: int | None = None,
    on_bad: OnBad = "stop",
    vectors: VectorColumns | None = None,
    version: int = READING,
    choices: ColumnChoices = _NO_CHOICES,
    earlier: EarlierReading | None = None,
    marks: Collection[int] = (),
) -> Source:
    """Read one split of a source of preference data.

    Its rows are read twice: what a column is read as depends on all it holds.

    `shape` "auto" recognises how the rows are to be read, `limit` takes the first rows only, `on_bad` says
    whether a malformed row stops the reading or becomes a reject. `vectors` reads Parquet rows that hold the vectors
    of their texts, one pair a row, and checks them. `version` is that of the reading of texts. `choices` are what the
    user says of columns, `earlier` is how the source was read before, `marks` are the N whose first N rows' digest is
    wanted. Raises BadInput, naming file, line and field where there are such, for what cannot be read and for a source
    without one usable pair.
    """
    if shape != "auto" and shape not in COLUMNS:
        raise BadInput(f"unknown shape {shape!r}; expected auto or one of {', '.join(COLUMNS)}")
    if limit is not None and limit < 1:
        raise BadInput(f"limit: found {limit}; expected at least 1")
    located = only_split(source)
    path, adapter = located.name, located.adapter
    if shape == "auto" and adapter is not None:
        shape = adapter.shape
    look = None if vectors is None else vectors.texts
    if vectors is not None:
        choices = replace(choices, columns={**vectors.roles, **choices.columns})
    seen = ordinary(islice(_rows(located, look), limit), adapter)
    reading = read_columns(path, seen, shape, on_bad, choices, earlier, adapter)
    if vectors is not None:
        if reading.shape not in ONE_PAIR_A_ROW:
            raise BadInput(
                f"{path}: found {reading.shape} rows; expected one pair a row: {COLUMNS['preference']}, with their "
                "vectors"
            )
        reading = vectors.added_to(reading)
    outcome = Outcome()
    records = None if vectors is None else vectors.records
    noted = Counter[str]()
    passed = RowsRead(islice(_rows(located, records, version, noted), limit), marks, hashed=vectors is None)
    reader = shape_reader(reading, outcome, vectors)
    _read_all(ordinary(passed, adapter), reading, reader, outcome, on_bad)
    if reader.across_users:
        reading = reading.noted(USER, "none rated two responses to one prompt, so pairs have no user")
    if vectors is not None:
        reading = vectors.counted(reading)
    if not outcome.pairs:
        dropped = ", ".join(f"{number} × {kind}" for kind, number in outcome.dropped.items())
        raise BadInput(
            f"{path}: found no usable pair in {passed.count} rows ({dropped or 'nothing comparable'}); "
            f"expected at least one row with a preference; columns: {in_words(reading.record())}"
        )
    return Source(
        path=path,
        digest=located.digest(),
        reading=reading,
        rows=passed.count,
        pairs=outcome.pairs,
        ratings=outcome.ratings,
        rejects=outcome.rejects,
        dropped=dict(outcome.dropped),
        noted=dict(sorted(noted.items())),
        rows_digest=passed.digest,
        prefixes=passed.prefixes,
    )


def _rows(
    located: Located,
    records: Callable[[Path], Iterator[Record]] | None,
    version: int = READING,
    noted: Counter[str] | None = None,
) -> Iterator[Row | Unreadable]:
    return of_split(
        read_rows(located.files, records, version=version, noted=noted), located.adapter, located.read_split
    )


def read_columns(
    path: str,
    rows: Iterator[Row | Unreadable | LeftOut],
    shape: str,
    on_bad: OnBad,
    choices: ColumnChoices,
    earlier: EarlierReading | None,
    adapter: Adapter | None = None,
) -> SourceReading:
    """Return how columns are read, from a look at all rows. Raises BadInput where that is unclear."""
    first = list(islice(rows, ROWS_TO_RECOGNISE))
    if not first:
        raise BadInput(f"{path}: found no rows; expected at least one")
    if on_bad == "skip" and all(isinstance(row, Unreadable) for row in first):
        first += _up_to_a_row(rows)
    readable = _readable(first, on_bad)
    profiles = profile_columns(row for row in chain(readable, rows) if isinstance(row, Row))
    if adapter is not None and adapter.shape != "auto":
        return _made_by(adapter, shape, profiles, choices)
    check_choices(path, profiles, choices, {role for one in SHAPES.values() for role in one.roles})
    if shape == "auto" and not readable:
        raise BadInput(f"{path}: its first rows are all left out by the adapter; give `format`")
    if shape == "auto":
        shape = recognise(readable, profiles, choices)
    return Decision(path, shape, SHAPES[shape], profiles, choices, earlier).reading()


def _made_by(adapter: Adapter, shape: str, profiles: Profiles, choices: ColumnChoices) -> SourceReading:
    """Return how the rows of an adapter are read, whose columns have the names of their roles."""
    if choices != ColumnChoices():
        raise BadInput(f"`columns` and `attributes` have no effect with {adapter.name}, whose columns are known")
    roles = SHAPES[shape]
    other = ATTRIBUTE if roles.rated else IGNORED
    reason = f"by the adapter {adapter.name}"
    columns = (
        ColumnReading(one.name, one.name if one.name in roles.roles else other, one.type, one.rows, reason)
        for one in profiles.values()
    )
    return SourceReading(shape, tuple(columns), roles.rated)


def _up_to_a_row(rows: Iterator[Row | Unreadable | LeftOut]) -> Iterator[Row | Unreadable | LeftOut]:
    """Yield what comes up to the first row that has fields."""
    for row in rows:
        yield row
        if isinstance(row, Row):
            return


def _readable(first: list[Row | Unreadable | LeftOut], on_bad: OnBad) -> list[Row]:
    """Return the rows among the first that have fields. Raises BadInput where one has none and may not be skipped."""
    readable = [row for row in first if isinstance(row, Row)]
    broken = next((row for row in first if isinstance(row, Unreadable)), None)
    if broken is not None and on_bad == "stop":
        raise _stop(broken.origin, broken.error)
    if broken is not None and not readable and not any(isinstance(row, LeftOut) for row in first):
        raise BadInput(f"{broken.origin}: {broken.error}; none of {len(first):,} rows can be read: correct the file")
    return readable


def _read_all(
    rows: Iterator[Row | Unreadable | LeftOut],
    reading: SourceReading,
    reader: ShapeReader,
    outcome: Outcome,
    on_bad: OnBad,
) -> None:
    """Read the rows into the outcome."""
    for row in rows:
        try:
            if isinstance(row, LeftOut):
                outcome.drop(row.origin, row.reason)
                continue
            if isinstance(row, Unreadable):
                raise row.error
            refuse_images(row, reading.roles.values())
            reader.add(reading.of(row))
        except (RowError, RecursionError) as found:
            error = found if isinstance(found, RowError) else NESTED
            named = reading.named(error)
            if on_bad == "stop":
                raise _stop(row.origin, named) from None
            outcome.drop(row.origin, "malformed", str(named))
    reader.finish()


def _stop(origin: object, error: RowError) -> BadInput:
    return BadInput(f"{origin}: {error}; fix the row, or skip such rows with `on_bad` skip")
