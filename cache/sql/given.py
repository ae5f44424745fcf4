"""Tables of a user's own next to the views: named and checked here, then handed to the query's process as rows.

The process gets an Arrow stream for each on its standard input, after the request, and never learns of a path.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import IO

import duckdb
import pyarrow as pa

from micropref.cache.errors import BadInput
from micropref.cache.sql.parse import read_query
from micropref.cache.sql.sandbox import MIB, SHARE, SqlLimits, open_sandbox
from micropref.cache.sql.views import read_views

Tables = Mapping[str, pa.Table]
"""By the name a query has for each."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_OURS = ("stored", "main", "temp", "memory", "system", "information_schema", "pg_catalog")
"""Schemas and databases of DuckDB: as the name of a table they would change what `a.b` means."""


def check_names(names: Iterable[str]) -> None:
    """Raise BadInput for a name that a query could not use as it is, or that is taken."""
    views = {view.name for view in read_views()} | set(_OURS)
    seen: dict[str, str] = {}
    with open_sandbox(SqlLimits()) as connection:
        for name in names:
            if not _NAME.fullmatch(name):
                raise BadInput(
                    f"tables is {shown(name)}: expected a name of letters, digits and _, at most 63, such as labels"
                )
            if name.lower() in views:
                raise BadInput(f"tables is {name!r}: that is a view or schema already; give another name")
            if not _can_be_named(connection, name):
                raise BadInput(f"tables is {name!r}: that is a word of SQL; give another name, such as my_{name}")
            if name.lower() in seen:
                other = seen[name.lower()]
                raise BadInput(f"tables is {name!r}: SQL takes it for the same name as {other!r}; give another name")
            seen[name.lower()] = name


def checked_table(name: str, table: pa.Table) -> pa.Table:
    """Return a table as DuckDB takes it, without anything but columns. Raises BadInput where it cannot."""
    names = list(map(str, table.column_names))
    _check_columns(name, names)
    half = pa.types.is_float16
    fields = [pa.field(one.name, pa.float32() if half(one.type) else one.type) for one in table.schema]
    try:
        table = table.cast(pa.schema(fields))
        table.validate(full=True)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise BadInput(f"table {name}: its values cannot be read ({' '.join(str(error).split())})") from None
    return table


def check_size(tables: Tables, limits: SqlLimits) -> None:
    """Raise BadInput where tables take so much of the memory limit that the query would have too little."""
    size = 0
    for name, table in tables.items():
        size += table.nbytes
        if size > limits.bytes * SHARE:
            raise too_large(f"table {name}", limits)


def too_large(what: str, limits: SqlLimits) -> BadInput:
    """Return the error of a table that is larger than the share of memory that rows may take."""
    return BadInput(
        f"{what}: its rows take more than {limits.bytes * SHARE / MIB:,.0f} MiB, half of the memory limit of "
        f"{limits.memory_mb:,} MiB; raise `memory_mb`, or leave out columns that the query does not need"
    )


def write_tables(sink: IO[bytes], tables: Tables) -> None:
    """Write an Arrow stream for each table, one after the other."""
    for table in tables.values():
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)


def read_tables(source: IO[bytes], names: Sequence[str]) -> dict[str, pa.Table]:
    """Return the tables of `write_tables`, by the same names."""
    return {name: pa.ipc.open_stream(source).read_all() for name in names}


def register_tables(connection: duckdb.DuckDBPyConnection, tables: Tables) -> None:
    """Give tables their names in the sandbox, scanned where they lie."""
    for name, table in tables.items():
        connection.register(name, table)


def shown(text: str) -> str:
    """Return a user's text in quotes, on one line and not too long."""
    return repr(text if len(text) <= 60 else text[:60] + "…")


def _can_be_named(connection: duckdb.DuckDBPyConnection, name: str) -> bool:
    """Say whether DuckDB reads a name as that of a table wherever a table may stand."""
    query = f"WITH t AS (FROM {name}) SELECT {name}.a FROM t JOIN {name} USING (a)"  # noqa: S608 - only parsed
    try:
        return read_query(connection, query).tables == {"t", name.lower()}
    except (duckdb.Error, BadInput):
        return False


def _check_columns(name: str, columns: Sequence[str]) -> None:
    if not columns:
        raise BadInput(f"table {name}: found no columns")
    for place, column in enumerate(columns, 1):
        if not column.strip():
            raise BadInput(f"table {name}: column {place} has no name, so no query can use it; give it one")
        if "\0" in column:
            raise BadInput(f"table {name}: the name of column {place} holds a NUL, which SQL has not; rename it")
    counts = Counter(column.lower() for column in columns)
    same = [column for column in columns if counts[column.lower()] > 1]
    if same:
        pair = " and ".join(map(shown, [one for one in same if one.lower() == same[0].lower()][:2]))
        raise BadInput(f"table {name}: its columns {pair} are one name in SQL; rename one of them")
