"""Filling the sandbox: the views a query names, with the columns it names, and nothing else."""

from __future__ import annotations

import duckdb

from micropref.cache.sql.parse import Query
from micropref.cache.sql.sandbox import SqlLimits
from micropref.cache.sql.tables import READERS, Rows, count_heads
from micropref.cache.sql.views import COMPUTED, create_views, read_views
from micropref.cache.store import StoreFolder


def load_views(connection: duckdb.DuckDBPyConnection, store: StoreFolder, query: Query, limits: SqlLimits) -> None:
    """Create the views and fill the tables that a query reads.

    Raises BadInput where the vectors do not fit the memory limit, Failure where a file is damaged.
    """
    named = [view for view in read_views() if view.name in query.tables]
    shapes = {table for view in named for table in view.tables}
    filled = {table for view in named if view.name not in query.described for table in view.tables}
    heads = count_heads(store) if "scores" in shapes else 0
    if "vectors" not in shapes:
        create_views(connection, heads, "FLOAT[]")
    else:
        from micropref.cache.sql.vectors import (  # polars loads only where vectors are read
            key_rows,
            vector_table,
            vector_type,
        )

        with_vectors = "vectors" in filled and (query.columns is None or "vector" in query.columns)
        create_views(connection, heads, vector_type(store), vector_table(store, limits) if with_vectors else None)
        if "vectors" in filled and not with_vectors:
            _fill(connection, "vectors", key_rows(store, limits))
    columns = _read_columns({view.name for view in named}, query.columns)
    for table in sorted(filled - {"vectors"}):
        _fill(connection, table, READERS[table](store, columns))


def _read_columns(views: set[str], columns: frozenset[str] | None) -> frozenset[str] | None:
    """Return the stored columns that a query over views reads, from those it names; None: all there are."""
    computed = frozenset[str]().union(*(COMPUTED[name] for name in views & COMPUTED.keys()))
    if columns is None:
        return computed if views <= COMPUTED.keys() else None
    return columns | computed


def _fill(connection: duckdb.DuckDBPyConnection, table: str, rows: Rows) -> None:
    for chunk in rows:
        connection.register("a chunk", chunk)
        connection.execute(f'INSERT INTO stored.{table} BY NAME SELECT * FROM "a chunk"')  # noqa: S608 - own names
        connection.unregister("a chunk")
