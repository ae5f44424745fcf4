"""`sql` as it is typed in: own tables, a query from a file or standard input, and where a result may be written."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from typer.testing import CliRunner, Result

from micropref import BadInput, Store, cli

Invoke = Callable[..., Result]


@pytest.fixture
def sql(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Return `sql(*words, stdin=None)`: the command on an empty store, where the folder of the test is."""
    monkeypatch.chdir(tmp_path)
    Path("store").mkdir()
    Path("labels.csv").write_text("id,code\n1,007\n2,008\n")

    def run(*words: str, stdin: str | bytes | None = None) -> Result:
        return CliRunner().invoke(cli.app, ["sql", "--store", "store", *words], input=stdin)

    return run


def one_line(result: Result, message: str) -> None:
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("micropref: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr


def test_own_tables_from_files_and_from_memory(sql: Invoke) -> None:
    Path("names.jsonl").write_text('{"id": 2, "name": "ann"}\n')
    words = ("--with", "mine=labels.csv", "--with", "theirs=names.jsonl", "--json")
    found = sql("SELECT code, name FROM mine LEFT JOIN theirs USING (id) ORDER BY id", *words)
    assert json.loads(found.stdout) == [{"code": "007", "name": None}, {"code": "008", "name": "ann"}]
    frame = pl.DataFrame({"id": [1], "note": ["x"]})
    tables = {"mine": "labels.csv", "a": frame, "b": frame.to_arrow(), "c": [{"id": 1}, {"id": 2, "late": "y"}]}
    joins = "mine JOIN c USING (id) LEFT JOIN a USING (id) LEFT JOIN b USING (id)"
    query = f"SELECT code, a.note, b.note AS again, late FROM {joins} ORDER BY id"
    assert Store("store").sql(query, tables=tables).rows() == [("007", "x", "x", None), ("008", None, None, "y")]


@pytest.mark.parametrize("table", [7, b"x", {"a": [1]}, ["x"], [{"a": 1}, {"a": "x"}], pa.array([1])])
def test_what_is_no_table_is_named(sql: Invoke, table: object) -> None:
    with pytest.raises(BadInput, match="mine"):
        Store("store").sql("FROM mine", tables={"mine": table})


def test_a_query_from_a_file_a_pipe_or_standard_input(sql: Invoke) -> None:
    Path("q.sql").write_text("\ufeff-- one\nSELECT count(*) AS n\nFROM mine;\n", encoding="utf-8")
    mine = ("--with", "mine=labels.csv", "--json")
    os.mkfifo("pipe")
    writer = threading.Thread(target=lambda: Path("pipe").write_text("SELECT count(*) AS n FROM mine"))
    writer.start()
    for words, stdin in (
        (("--file", "q.sql"), None),
        (("-f", "pipe"), None),
        (("-",), "SELECT count(*) AS n FROM mine"),
    ):
        found = sql(*words, *mine, stdin=stdin)
        assert found.exit_code == 0, found.output
        assert json.loads(found.stdout) == [{"n": 2}]
    writer.join()


def test_mistakes_are_one_line(sql: Invoke) -> None:
    Path("empty.sql").write_text(" \n")
    Path("bad.sql").write_bytes(b"SELECT 1,\n'\xff'")
    one_line(sql("SELECT 1", "--file", "q.sql"), "query and --file are both given")
    one_line(sql("--file", "none.sql"), "none.sql: cannot be read (No such file or directory)")
    one_line(sql("--file", "store"), "store: cannot be read (Is a directory)")
    one_line(sql("--file", "empty.sql"), "empty.sql: found nothing; expected the text of a query")
    one_line(sql("--file", "bad.sql"), "bad.sql:2: found invalid UTF-8")
    one_line(sql("-", stdin=""), "standard input: found nothing")
    one_line(sql("--with", "mine=labels.csv"), "--with: no effect without a query")
    one_line(sql("FROM mine", "--with", "labels.csv"), "--with is 'labels.csv': expected NAME=FILE")
    one_line(sql("FROM mine", "--with", "pairs=labels.csv"), "--with is 'pairs': that is a view")
    one_line(sql("FROM mine", "--with", "m=labels.csv", "--with", "m=labels.csv"), "--with has one of m twice")
    one_line(sql("FROM mine", "--with", "mine=none.csv"), "none.csv: there is no such file")
    one_line(sql("FROM mine SELECT coed", "--with", "mine=labels.csv"), "in mine: did you mean code?")


def test_a_result_is_written_to_a_folder_that_is_there_and_nowhere_else(sql: Invoke, tmp_path: Path) -> None:
    assert sql("SELECT 1 AS one", "-o", "one.csv", "--format", "csv").exit_code == 0
    assert Path("one.csv").read_text() == '"one"\n1\n'
    # The query is wrong: what is said of the output shows that it never ran.
    one_line(
        sql("FROM nowhere", "-o", "no/where/one.csv"), f"there is no folder {tmp_path / 'no/where'}; make it first"
    )
    one_line(sql("FROM nowhere", "-o", "labels.csv/one.csv"), "there is no folder")
    one_line(sql("FROM nowhere", "-o", "store"), "store: found a folder; expected the name of a file")
    one_line(sql("FROM nowhere", "--format", "parquet"), "give a file, -o FILE")
    assert not Path("no").exists()
