"""Adapters: rows of a known data set become rows of the shapes that are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from micropref.cache.choices import TRAIN
from micropref.cache.errors import BadInput
from micropref.pipeline.sources.rows import LeftOut, NoPreference, Row, RowError, Unreadable

Ordinary: TypeAlias = Mapping[str, Any] | NoPreference
"""A row in one of the known shapes, or why a comparison gave none."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """How the rows of one data set are read."""

    name: str
    """In messages and in the data set's record."""
    rows: Callable[[Row], Iterable[Ordinary]]
    """Makes ordinary rows of one row. Raises RowError for a malformed one, NoPreference for a tie."""
    columns: tuple[str, ...] = ()
    """Without these a file is another data set's."""
    shape: str = "auto"
    """Shape of the ordinary rows; auto: recognised."""
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Split of the source → patterns of its files; none: by the README, else by the words in file names."""
    beside: tuple[str, ...] = ()
    """Patterns of files that `rows` reads besides."""
    splits: Mapping[str, str] = field(default_factory=dict)
    """Split of the source → what it becomes, others are not read; none: train, test, and validation as usual."""
    split_column: str | None = None
    """Column that says of which split a row is, where files hold several; rows without it are of train."""
    version: str = ""
    """What else tells its reading from another; empty for adapters that do not change."""

    @property
    def identity(self) -> str:
        """Return what the record of a part calls it."""
        return f"{self.name}:{self.version}" if self.version else self.name


def of_split(
    rows: Iterable[Row | Unreadable], adapter: Adapter | None, read_split: str | None
) -> Iterator[Row | Unreadable]:
    """Yield the rows of one split, where a column says of which they are; broken rows are of train."""
    column = None if adapter is None or read_split is None else adapter.split_column
    for row in rows:
        if column is None or _split_of(row, column) == read_split:
            yield row


def splits_named(rows: Iterable[Row | Unreadable], column: str) -> list[str]:
    """Return the splits that the rows are of, in the order of their first rows."""
    return list(dict.fromkeys(_split_of(row, column) for row in rows))


def _split_of(row: Row | Unreadable, column: str) -> str:
    named = None if isinstance(row, Unreadable) else row.values.get(column)
    return TRAIN if named is None else str(named)


def ordinary(rows: Iterable[Row | Unreadable], adapter: Adapter | None) -> Iterator[Row | Unreadable | LeftOut]:
    """Yield the rows that an adapter makes of a source's rows. Raises BadInput for another data set's columns."""
    if adapter is None:
        yield from rows
        return
    checked: set[str] = set()
    for row in rows:
        if isinstance(row, Unreadable):
            yield row
            continue
        missing = [name for name in adapter.columns if name not in row.values]
        if missing and row.origin.path not in checked:
            raise _other_columns(row, adapter, missing)
        checked.add(row.origin.path)
        if missing:
            yield Unreadable(row.origin, RowError(missing[0], "no such field", f"the columns of {adapter.name}"))
        else:
            yield from _of_row(row, adapter)


def _of_row(row: Row, adapter: Adapter) -> Iterator[Row | Unreadable | LeftOut]:
    try:
        made = list(adapter.rows(row))
    except RowError as error:
        yield Unreadable(row.origin, error)
        return
    except NoPreference as reason:
        made = [reason]
    if not made:
        yield LeftOut(row.origin, "no comparison")
    for one in made:
        if isinstance(one, NoPreference):
            yield LeftOut(row.origin, str(one))
        else:
            yield replace(row, values=dict(one))


def _other_columns(row: Row, adapter: Adapter, missing: Sequence[str]) -> BadInput:
    return BadInput(
        f"{row.origin}: found the columns {', '.join(row.values) or 'of an empty object'}; expected those of "
        f"{adapter.name}: {', '.join(adapter.columns)} (missing: {', '.join(missing)})"
    )
