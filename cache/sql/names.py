"""What a misspelt view or column was meant to be."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import duckdb

from micropref.cache.sql.parse import Query
from micropref.cache.sql.views import read_views

_MISSING_TABLE = re.compile(r'Table with name "?([^"\s]+)"? does not exist')
_MISSING_COLUMN = (
    re.compile(r'Referenced column "(?P<column>.+?)" not found in FROM clause'),
    re.compile(r'Values list "(?P<table>.+?)" does not have a column named "(?P<column>.+?)"'),
    re.compile(r'Table "(?P<table>.+?)" does not have a column named "(?P<column>.+?)"'),
    re.compile(r'Column "(?P<column>.+?)" does not exist on (left|right) side of join'),
    re.compile(r'Column "(?P<column>.+?)" in (EXCLUDE|REPLACE) list not found'),
)
"""What DuckDB says of a column that is not there, in the forms it has for it."""
_CANDIDATES = re.compile(r"Candidate bindings: (.*)")
_CLOSE = 0.6
"""Share of letters in common from which a name may be what was meant."""
_LONGEST = 60
"""Letters of a name that are told."""
_MOST = 30
"""Columns of a table that are listed at most; a view has fewer."""
_WORD = 3
"""Letters from which the start or a part of a name stands for it."""
Columns = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Names:
    """What a query could have named."""

    query: Query | None = None
    """None where it was not read yet."""
    look: Callable[[], Columns] = field(default=dict)
    """Returns the columns of every view and table by its name; called where something is missing."""

    @classmethod
    def of(cls, connection: duckdb.DuckDBPyConnection, query: Query, tables: Iterable[str]) -> Names:
        """Return the names of the views and of the user's own tables, which a connection has."""
        named = (*(view.name for view in read_views()), *tables)
        return cls(query, lambda: {name: _columns(connection, name) for name in named})

    def missing(self, message: str) -> str | None:
        """Return what to say where DuckDB's message is that a table or column is missing; None where it is another."""
        text = " ".join(message.split())
        table = _MISSING_TABLE.match(text)
        if table:
            return _missing_table(table[1], [*self.look()] or [view.name for view in read_views()])
        found = next((match for form in _MISSING_COLUMN if (match := form.match(text))), None)
        if found is None:
            return None
        candidates = _CANDIDATES.search(text)
        near = re.findall(r'"(.+?)"', candidates[1]) if candidates else []
        return self._missing_column(found["column"], found.groupdict().get("table"), near)

    def _missing_column(self, name: str, table: str | None, candidates: list[str]) -> str:
        columns, here = self.look(), self._here(table)
        name = _told(name)
        known = {view: columns[view] for view in columns if view.lower() in here}
        if any(name.lower() == column.lower() for ours in known.values() for column in ours):
            return (
                f"no column {name!r} in this part of the query, though {_having(name, known)} has it: "
                "select it in the subquery or CTE that is read here"
            )
        meant = nearest(name, [column for ours in known.values() for column in ours])
        if meant is not None:
            return f"no column {name!r} in {_having(meant, known)}: did you mean {_told(meant)}?"
        meant = nearest(name, candidates)
        if meant is not None:
            return f"no column {name!r}: did you mean {_told(meant)}?"
        said = f"no column {name!r}" + (f" in {', '.join(known)}" if known else "")
        if elsewhere := _having(name, columns):
            return f"{said}; it is a column of {elsewhere}"
        listed = "; ".join(f"{view} has {_listed(ours)}" for view, ours in known.items())
        return f"{said}: {listed or 'see `micropref sql` for the columns of each view'}"

    def _here(self, table: str | None) -> frozenset[str]:
        """Return the tables that a column may have been meant of, in lower case: that of an alias, else all named."""
        if self.query is None:
            return frozenset()
        if table is None:
            return self.query.tables
        alias = table.lower()
        return frozenset({self.query.aliases.get(alias, alias)})


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """Return the choice that a misspelt name was most likely meant to be; None where none is near.

    Example:
        >>> nearest("acuracy", ["attribute", "accuracy"]), nearest("entropy", ["mean_entropy"]), nearest("x", ["k"])
        ('accuracy', 'mean_entropy', None)

    """
    by_lower = {choice.lower(): choice for choice in choices}
    word = name.lower()
    close = difflib.get_close_matches(word, by_lower, 1, _CLOSE)
    if not close and len(word) >= _WORD:
        close = sorted((one for one in by_lower if word in one), key=len)[:1]
    return by_lower[close[0]] if close else None


def _missing_table(name: str, known: list[str]) -> str:
    meant = nearest(name.rpartition(".")[2], known)
    if meant is not None:
        return f"no view {name!r}: did you mean {_told(meant)}?"
    return f"no view {name!r}: the views are {', '.join(known)}"


def _having(column: str, columns: Columns) -> str:
    return ", ".join(view for view, ours in columns.items() if column.lower() in map(str.lower, ours))


def _told(name: str) -> str:
    """Return a name as part of one line: those of a user's own columns may be of any letters and length."""
    text = "".join(letter if letter.isprintable() else " " for letter in name)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def _listed(columns: tuple[str, ...]) -> str:
    rest = len(columns) - _MOST
    return ", ".join(map(_told, columns[:_MOST])) + (f" and {rest:,} more" if rest > 0 else "")


def _columns(connection: duckdb.DuckDBPyConnection, name: str) -> tuple[str, ...]:
    return tuple(str(row[0]) for row in connection.execute(f"DESCRIBE {name}").fetchall())
