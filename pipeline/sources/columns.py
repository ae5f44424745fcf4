"""Which column of a source was read as what, and why: the reading that a report and the view `columns` show.

A reader of rows sees only what the reading says: each role under the role's name, each rating under its column's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from micropref.cache.errors import BadInput
from micropref.pipeline.sources.rows import Row, RowError
from micropref.pipeline.sources.scalars import to_id

IGNORED = "ignored"
ATTRIBUTE = "attribute"
USER = "user"
OWN_NAME = "its name"
"""The reason of a column that has its role's name."""
COLUMNS_SHOWN = 16
"""Columns that are listed at most."""
WHOLE_NUMBERS = "integer"
"""Type of a column of whole numbers, in whatever form the file has them."""


@dataclass(frozen=True)
class ShapeRoles:
    """Which roles the columns of one shape of rows have."""

    required: tuple[str, ...]
    """Roles that make the shape."""
    optional: tuple[str, ...] = ()
    """Roles that are read where there is a column."""
    rated: bool = False
    """Whether columns of numbers are rated attributes."""

    @property
    def roles(self) -> tuple[str, ...]:
        """Return all of them."""
        return self.required + self.optional


@dataclass(frozen=True)
class ColumnReading:
    """How one column of a source was read."""

    column: str
    """Its name in the file."""
    role: str
    """What it was read as, such as prompt, chosen, user or attribute; or ignored."""
    type: str
    """What it holds: text, integer, number, boolean, list, object, ..., several where that differs."""
    rows: int
    """Rows in which it is not null."""
    reason: str
    """Why it has this role."""


@dataclass(frozen=True)
class SourceReading:
    """How all columns of a source were read."""

    shape: str
    """Shape of its rows."""
    columns: tuple[ColumnReading, ...]
    """In the order of the file; the vector columns of an import are the last."""
    rated: bool = False
    """Whether the columns with role attribute are ratings, rather than the one that names what was judged."""

    @cached_property
    def attributes(self) -> tuple[str, ...]:
        """Return the columns of ratings."""
        return tuple(one.column for one in self.columns if self.rated and one.role == ATTRIBUTE)

    @cached_property
    def roles(self) -> dict[str, str]:
        """Return role → the column it is read from."""
        rated = self.attributes
        return {one.role: one.column for one in self.columns if one.role != IGNORED and one.column not in rated}

    @cached_property
    def whole_users(self) -> bool:
        """Say whether all users are whole numbers, so that 12.0 is 12."""
        types = {one.role: one.type for one in self.columns}
        return types.get(USER) == WHOLE_NUMBERS

    def of(self, row: Row) -> Row:
        """Return a row as its reader sees it: what was ignored is not there."""
        values = {role: row.values[name] for role, name in self.roles.items() if name in row.values}
        values |= {name: row.values[name] for name in self.attributes if name in row.values}
        if self.whole_users and USER in values:
            values[USER] = to_id(values[USER], whole=True) or values[USER]
        return replace(row, values=values)

    def named(self, error: RowError) -> RowError:
        """Return an error that names the column in the place of its role."""
        if error.field is None:
            return error
        for role, name in self.roles.items():
            rest = error.field.removeprefix(role)
            if error.field.startswith(role) and (not rest or rest[0] in ".["):
                return error if name == role else RowError(name + rest, error.found, error.expected)
        return error

    def noted(self, role: str, note: str) -> SourceReading:
        """Return the same with a note behind the reason for the column of a role."""
        columns = (replace(one, reason=f"{one.reason}; {note}") if one.role == role else one for one in self.columns)
        return replace(self, columns=tuple(columns))

    def record(self) -> list[dict[str, Any]]:
        """Return the columns as JSON, as a commit keeps them."""
        return [asdict(one) for one in self.columns]


@dataclass(frozen=True)
class EarlierReading:
    """How a source was read when it became part of a data set, which goes on for more of its rows."""

    roles: Mapping[str, ColumnReading]
    """Column → how it was read."""
    first_release: bool = False
    """Whether it was read before readings were kept: by the names of the roles alone, ids as they are."""


@dataclass(frozen=True)
class ColumnChoices:
    """What a user says of columns."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Role → the column it is read from; an empty name: no column has this role."""
    attributes: tuple[str, ...] | None = None
    """The columns of numbers that are ratings; None: by their names and numbers."""

    def __post_init__(self) -> None:
        twice = [name for name in self.columns.values() if name and list(self.columns.values()).count(name) > 1]
        if twice:
            raise BadInput(f"columns has {twice[0]!r} for more than one role: expected a column for each")
        if self.attributes is not None and not self.attributes:
            raise BadInput("attributes is empty: expected names of columns, separated by commas")

    def record(self) -> dict[str, Any]:
        """Return them as JSON."""
        return {"columns": dict(self.columns), "attributes": self.attributes and list(self.attributes)}

    def differs(self, earlier: EarlierReading) -> str | None:
        """Return which argument contradicts an earlier reading; None where none does."""
        roles = {one.role: name for name, one in earlier.roles.items()}
        if any(roles.get(role, "") != name for role, name in self.columns.items()):
            return "columns"
        rated = {name for name, one in earlier.roles.items() if one.role == ATTRIBUTE}
        return "attributes" if self.attributes is not None and set(self.attributes) != rated else None


def in_words(columns: Sequence[Mapping[str, Any]]) -> str:
    """Return what columns, as JSON, were read as and which were not, and why.

    >>> about = {"type": "integer", "rows": 2}
    >>> in_words([about | {"column": "prompt", "role": "prompt", "reason": "its name"},
    ...           about | {"column": "judge", "role": "user", "reason": "a known name of the user"},
    ...           about | {"column": "depth", "role": "attribute", "reason": "1 to 5"},
    ...           about | {"column": "tone", "role": "attribute", "reason": "1 to 5"},
    ...           about | {"column": "words", "role": "ignored", "reason": "a count"}])
    "prompt, user 'judge' (a known name of the user), attribute 'depth', 'tone' (1 to 5); not read: 'words' (a count)"
    """
    read = _groups([one for one in columns if one["role"] != IGNORED])
    ignored = _groups([one for one in columns if one["role"] == IGNORED])
    return read + ("; not read: " + ignored if ignored else "")


def _groups(columns: Sequence[Mapping[str, Any]]) -> str:
    """Return columns in words, those of one role and reason together."""
    groups: dict[tuple[str, str], list[str]] = {}
    for one in columns[:COLUMNS_SHOWN]:
        role = str(one["role"])
        name = role if role == one["column"] else repr(one["column"])
        key = ("" if name == role or role == IGNORED else f"{role} ", one["reason"])
        groups.setdefault(key, []).append(name)
    said = [
        role + ", ".join(names) + ("" if reason == OWN_NAME else f" ({reason})")
        for (role, reason), names in groups.items()
    ]
    more = len(columns) - COLUMNS_SHOWN
    return ", ".join(said + ([f"and {more} more (see the view columns)"] if more > 0 else []))
