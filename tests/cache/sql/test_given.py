"""Tables of a user's own next to the views: which names and columns they may have, and what of them arrives."""

from __future__ import annotations

from contextlib import suppress
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from micropref.cache.errors import BadInput
from micropref.cache.sql.given import check_names, checked_table
from micropref.cache.sql.query import SqlLimits, run_query

LIMITS = SqlLimits(memory_mb=256, seconds=30, threads=2)


def answer(store: Path, query: str, **tables: pa.Table) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in run_query(store, query, LIMITS, tables).to_pylist()]


def test_tables_are_joined_with_each_other_and_with_views(tmp_path: Path) -> None:
    # Names that the process itself once used for its own tables.
    tables = {"chunk": pa.table({"a": [1, 2], "b": ["x", None]}), "vector_rows": pa.table({"A": [2, 3]})}
    assert answer(tmp_path, "SELECT a, b FROM chunk JOIN vector_rows USING (a)", **tables) == [(2, None)]
    assert answer(tmp_path, "SELECT count(*) FROM Chunk LEFT JOIN runs ON run = b, embeddings", **tables) == [(0,)]


def test_values_of_every_type_arrive(tmp_path: Path) -> None:
    values = {
        "whole": [9007199254740993, None],
        "text": ["007", "é\u202e\0"],
        "half": pa.array([0.5, None], pa.float16()),
        "list": [[1.5], []],
        "struct": [{"a": 1}, None],
        "day": [date(2024, 2, 29), None],
        "time": [datetime(2024, 1, 2, 3, 4, 5), None],
        "bytes": [b"\0\xff", b""],
        "exact": [Decimal("1.10"), None],
        "kind": pa.array(["a", "b"]).dictionary_encode(),
        "long": pa.array(["x", "y"], pa.large_string()),
        "view": pa.array(["x", "y"], pa.string_view()),
        "nothing": pa.nulls(2),
    }
    table = pa.table(values).replace_schema_metadata({"pandas": "{}"})
    found = run_query(tmp_path, "FROM mine", LIMITS, {"mine": table})
    assert found.to_pylist() == table.to_pylist()


@pytest.mark.slow
def test_every_accepted_word_of_sql_works_as_a_name(tmp_path: Path) -> None:
    with duckdb.connect() as connection:
        words = [word for (word,) in connection.execute("SELECT keyword_name FROM duckdb_keywords()").fetchall()]
    accepted = []
    for word in {*words, "sqlite_master", "duckdb_tables"}:
        with suppress(BadInput):
            check_names([word])
            accepted.append(word)
    assert len(accepted) > 200
    assert not {"select", "from", "with", "table", "left", "join", "describe"} & set(accepted)
    tables = {word: pa.table({"a": [at]}) for at, word in enumerate(accepted)}
    names = ", ".join(f"(SELECT {word}.a FROM {word})" for word in accepted)
    assert answer(tmp_path, f"SELECT [{names}]", **tables) == [(list(range(len(accepted))),)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        *[(name, "expected a name of letters") for name in ("", "a b", "1a", "a.b", 'a"b', "é", "a\n", "a" * 64, "a;")],
        ("pairs; DROP VIEW runs", "expected a name of letters"),
        ("Pairs", "that is a view or schema already"),
        ("stored", "that is a view or schema already"),
        ("Select", "that is a word of SQL; give another name, such as my_Select"),
        ("values_", None),
    ],
)
def test_names(name: str, message: str | None) -> None:
    if message is None:
        return check_names([name])
    with pytest.raises(BadInput, match=message) as caught:
        check_names([name])
    assert "\n" not in str(caught.value)
    return None


def test_names_that_differ_in_case_only_are_refused() -> None:
    with pytest.raises(BadInput, match="the same name as 'mine'"):
        check_names(["mine", "Mine"])


HOSTILE_COLUMNS = [
    '"',
    "'",
    "a;b",
    'x" FROM runs; --',
    "line\nend",
    "tab\t",
    "é\u202e",
    "select",
    "a.b",
    "[0]",
    "*",
    "rowid",
]
HOSTILE_COLUMNS += ["%s", "$1", "\\", "file_row_number", "x" * 5000]


def test_hostile_columns_are_names_like_any_other(tmp_path: Path) -> None:
    table = pa.table({name: [at, at + 100] for at, name in enumerate(HOSTILE_COLUMNS)})
    assert run_query(tmp_path, "FROM mine", LIMITS, {"mine": table}).to_pylist() == table.to_pylist()
    for at, name in enumerate(HOSTILE_COLUMNS):
        quoted = '"' + name.replace('"', '""') + '"'
        if at == 3:  # a filter on the column too, once: a process each
            assert answer(tmp_path, f"SELECT {quoted} FROM mine WHERE {quoted} > 50", mine=table) == [(at + 100,)]
    with pytest.raises(BadInput, match="no column 'nothing' in mine: mine has ") as caught:
        run_query(tmp_path, "SELECT nothing FROM mine", LIMITS, {"mine": table})
    assert "\n" not in str(caught.value)


NOT_UTF8 = pa.array([b"\xff"]).view(pa.string())


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({}), "table mine: found no columns"),
        (pa.table({"a": [1], " ": [2]}), "table mine: column 2 has no name"),
        (pa.table({"a\0": [1]}), "holds a NUL"),
        (pa.table({"Id": [1], "b": [1], "iD": [2]}), "its columns 'Id' and 'iD' are one name in SQL"),
        (pa.table([[1], [2]], names=["a", "a"]), "its columns 'a' and 'a' are one name"),
        (pa.table({"a": NOT_UTF8}), "UTF8"),
    ],
)
def test_what_cannot_be_a_table_is_one_line(table: pa.Table, message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        checked_table("mine", table)
    assert "\n" not in str(caught.value)


def test_a_table_beyond_half_of_the_memory_is_refused_and_one_below_is_not(tmp_path: Path) -> None:
    limits = SqlLimits(memory_mb=64, seconds=30, threads=1)
    million = pa.table({"a": pa.repeat(pa.scalar(1), 4_000_000)})
    assert run_query(tmp_path, "SELECT sum(a) FROM mine", limits, {"mine": million}).to_pylist() == [
        {"sum(a)": 4_000_000}
    ]
    with pytest.raises(BadInput, match=r"table other: its rows take more than 32 MiB, half .* raise `memory_mb`"):
        run_query(tmp_path, "SELECT 1", limits, {"mine": million, "other": million})
