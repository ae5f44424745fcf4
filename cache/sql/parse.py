"""Reading a query before it runs: is it one SELECT that only reads, and which tables and columns does it name.

DuckDB's parser does the reading (`json_serialize_sql`), without binding: binding would already open files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import duckdb

from micropref.cache.errors import BadInput

READING_NODES = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
TABLE_FUNCTIONS = {"range", "generate_series", "unnest", "repeat", "json_each", "json_tree"}
_PIVOT_ADVICE = (
    "PIVOT without IN cannot run as one statement: list the values, "
    "for example PIVOT head_accuracy ON head IN (0, 1, 2) USING first(accuracy) GROUP BY attribute"
)
Node = dict[str, Any]


@dataclass(frozen=True)
class Query:
    """What a query names."""

    tables: frozenset[str]
    """Names after FROM in lower case, CTEs of the query among them."""
    described: frozenset[str]
    """Names of which only the columns are asked for (DESCRIBE)."""
    columns: frozenset[str] | None
    """Every name that may be a column, in lower case; None where it may be any column (`*`, PIVOT, ...)."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Alias → name of the table that has it, both in lower case."""


def read_query(connection: duckdb.DuckDBPyConnection, text: str) -> Query:
    """Read a query without running or binding it.

    Raises BadInput where it is not exactly one statement that only reads, and duckdb.Error where it does not parse.
    """
    statements = connection.extract_statements(text)
    kinds = [str(statement.type.name) for statement in statements]
    if kinds == ["MULTI"]:
        raise BadInput(_PIVOT_ADVICE)
    if len(kinds) != 1:
        raise BadInput(f"expected one SELECT statement, found {len(kinds)}")
    if kinds != ["SELECT"]:
        raise BadInput(f"{kinds[0]} is not allowed: `sql` runs one SELECT, DESCRIBE, SUMMARIZE or FROM query")
    found = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [text]).fetchone()
    assert found is not None
    try:
        tree = json.loads(found[0])
    except RecursionError as error:
        raise BadInput("the query is nested too deeply") from error
    if tree["error"]:
        raise BadInput(f"the query cannot be read: {tree['error_message']}")
    nodes = list(_walk(tree))
    for node in nodes:
        _refuse_effects(node)
    described = [node for node in nodes if node.get("type") == "SHOW_REF" and node["show_type"] == "DESCRIBE"]
    skipped = {id(inner) for node in described for inner in _walk(node)}
    read = [node for node in nodes if id(node) not in skipped]
    tables = _tables(nodes)
    return Query(tables, tables - _tables(read), _columns(read), _aliases(nodes))


def _walk(tree: Any) -> Iterator[Node]:
    """Yield every object of a JSON tree; not recursive, so that depth is no way to crash."""
    waiting = [tree]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield item
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)


def _refuse_effects(node: Node) -> None:
    """Raise BadInput where a node would do more than read the views.

    A statement of type SELECT can hold INSERT, DELETE or COPY as a CTE, and table functions that read files, take
    raw pointers, change settings or run SQL hidden in a string.
    """
    kind = node.get("type")
    if isinstance(kind, str) and kind.endswith("_NODE") and kind not in READING_NODES:
        name = kind.removesuffix("_NODE").removesuffix("_QUERY")
        raise BadInput(f"{name} is not allowed inside a query: `sql` only reads the views")
    if kind == "TABLE_FUNCTION":
        name = str(node["function"].get("function_name", "")).lower()
        if name not in TABLE_FUNCTIONS:
            raise BadInput(f"{name}() is not allowed after FROM: use the views or {', '.join(sorted(TABLE_FUNCTIONS))}")
    if kind == "BASE_TABLE" and str(node["schema_name"]).lower() == "stored":
        raise BadInput(f"stored.{node['table_name']} is not a view: use the views without a schema")


def _tables(nodes: list[Node]) -> frozenset[str]:
    return frozenset(str(node["table_name"]).lower() for node in nodes if node.get("type") == "BASE_TABLE")


def _aliases(nodes: list[Node]) -> dict[str, str]:
    named = [node for node in nodes if node.get("type") == "BASE_TABLE" and node.get("alias")]
    return {str(node["alias"]).lower(): str(node["table_name"]).lower() for node in named}


def _columns(nodes: list[Node]) -> frozenset[str] | None:
    names: set[str] = set()
    whole_rows: set[str] = set()
    rows_named: set[str] = set()
    for node in nodes:
        kind = node.get("type")
        if _means_any_column(node):
            return None
        if kind in ("BASE_TABLE", "SUBQUERY"):
            rows_named |= {str(node.get("alias", "")).lower(), str(node.get("table_name", "")).lower()}
        elif kind == "JOIN":
            names.update(str(name).lower() for name in node.get("using_columns", ()))
        elif kind == "COLUMN_REF":
            parts = [str(part).lower() for part in node["column_names"]]
            names.update(parts)
            whole_rows.add(parts[-1])
    # `SELECT p FROM pairs p` takes the whole row as a struct.
    return None if whole_rows & rows_named else frozenset(names)


def _means_any_column(node: Node) -> bool:
    kind = node.get("type")
    return (
        kind in ("STAR", "POSITIONAL_REFERENCE", "PIVOT")
        or (kind == "SHOW_REF" and node["show_type"] == "SUMMARY")
        or (kind == "JOIN" and node.get("ref_type") == "NATURAL")
        or (kind in ("BASE_TABLE", "SUBQUERY") and bool(node.get("column_name_alias")))
    )
