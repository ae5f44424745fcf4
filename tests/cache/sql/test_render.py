"""A query's result in every format, for people and for scripts."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from micropref.cache.errors import BadInput
from micropref.cache.sql.query import SqlLimits, render, run_query

LIMITS = SqlLimits(memory_mb=512, seconds=30, threads=2)
MIXED = """
SELECT * FROM (VALUES
    (1, 0.123456::DOUBLE, 'a|b', '\\xAB'::BLOB, DATE '2026-01-02', true, [1, NULL], {'k': 'v'}),
    (NULL, 'nan'::DOUBLE, E'line\\n\\x1b[31m', NULL, NULL, NULL, NULL, NULL)
) AS t(i, f, s, b, d, y, l, o)
"""


def test_render_for_people(tmp_path: Path) -> None:
    table = run_query(
        tmp_path, "SELECT 1 AS i, 0.123456::DOUBLE AS f, 'x|y' AS s UNION ALL SELECT NULL, 2, 'long'", LIMITS
    )
    assert render(table, "table") == "   i       f  s\n----  ------  ----\n   1  0.1235  x|y\nNULL  2.0000  long\n"
    markdown = "| i | f | s |\n| --- | --- | --- |\n| 1 | 0.1235 | x\\|y |\n| NULL | 2.0000 | long |\n"
    assert render(table, "md") == markdown
    text = render(run_query(tmp_path, MIXED, LIMITS), "table")
    assert "\x1b" not in text
    assert len(text.splitlines()) == 4
    assert render(pa.table({"s": ["y" * 99]}), "table").splitlines()[2] == "y" * 59 + "…"


def test_render_for_scripts(tmp_path: Path) -> None:
    table = run_query(tmp_path, MIXED, LIMITS)
    first, second = json.loads(render(table, "json"))
    values = {
        "i": 1,
        "f": 0.123456,
        "s": "a|b",
        "b": "ab",
        "d": "2026-01-02",
        "y": True,
        "l": [1, None],
        "o": {"k": "v"},
    }
    assert first == values
    assert second == dict.fromkeys(values) | {"s": "line\n\x1b[31m"}
    header, line, *_ = render(table, "csv").splitlines()
    assert header == '"i","f","s","b","d","y","l","o"'
    assert line == '1,0.123456,"a|b","ab","2026-01-02",true,"[1, null]","{""k"": ""v""}"'
    assert render(table, "parquet", tmp_path / "t.parquet") == ""
    assert pq.read_table(tmp_path / "t.parquet").to_pylist()[0]["l"] == [1, None]
    assert render(table, "csv", tmp_path / "t.csv") == ""
    read = pa_csv.ReadOptions(), pa_csv.ParseOptions(newlines_in_values=True)
    assert pa_csv.read_csv(tmp_path / "t.csv", *read).num_rows == 2
    with pytest.raises(BadInput, match="-o FILE"):
        render(table, "parquet")
    with pytest.raises(BadInput, match="expected one of table"):
        render(table, "xml")  # type: ignore[arg-type]


def test_names_and_numbers_survive(tmp_path: Path) -> None:
    query = (
        "SELECT a.i, b.i, sum(1) AS n, 2::HUGEINT ** 80 AS big FROM (SELECT 1 AS i) a, (SELECT 2 AS i) b GROUP BY ALL"
    )
    assert json.loads(render(run_query(tmp_path, query, LIMITS), "json")) == [{"i": 1, "i_1": 2, "n": 1, "big": 2**80}]
    exotic = "SELECT 1 AS i, INTERVAL 1 DAY AS d, union_value(k := 3) AS u, NULL AS z"
    assert json.loads(render(run_query(tmp_path, exotic, LIMITS), "json"))[0]["u"] == 3
    for fmt in ("table", "csv", "md"):
        assert "3" in render(run_query(tmp_path, exotic, LIMITS), fmt)


def test_no_rows_still_have_a_header(tmp_path: Path) -> None:
    table = run_query(tmp_path, "SELECT run, k FROM runs", LIMITS)
    assert render(table, "json") == "[]\n"
    assert render(table, "csv") == '"run","k"\n'
    assert render(table, "table").split() == ["run", "k", "---", "-"]


def test_a_table_wider_than_the_terminal_says_what_is_cut_and_what_is_left_out() -> None:
    texts = pa.table({"n": [1], "prompt": ["p" * 50], "chosen": ["c" * 50], "context": ["short"]})
    cut = render(texts, "table", width=80)
    assert max(map(len, cut.splitlines())) <= 80
    assert cut.splitlines()[0].split() == ["n", "prompt", "chosen", "context"]
    assert cut.endswith("cut to 80 columns: long texts end in …; --format csv, json or md has all\n")
    wide = pa.table({"run": ["r" * 40], **{f"figure_{n}": [n / 7] for n in range(12)}})
    lines = render(wide, "table", width=80).splitlines()
    assert max(map(len, lines)) <= 80
    shown = lines[0].split()
    hidden = [name for name in wide.column_names if name not in shown]
    assert hidden
    assert f"columns not shown: {', '.join(hidden)};" in " ".join(lines[3:])
    assert "not shown" not in render(wide, "table", width=400)
    assert render(wide, "table") == render(wide, "table", width=400)  # no terminal, no limit
    for fmt in ("csv", "json", "md"):
        assert "r" * 40 in render(wide, fmt, width=80)  # type: ignore[arg-type]
    one = pa.table({"n": [10**30 + 0.5]})
    assert render(one, "table", width=10).splitlines()[0].strip() == "n"
