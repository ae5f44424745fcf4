"""Errors of a query say which view or column was meant."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from micropref.cache.sql.errors import explain
from micropref.cache.sql.names import Names
from micropref.cache.sql.parse import read_query
from micropref.cache.sql.query import run_query
from micropref.cache.sql.sandbox import SqlLimits, open_sandbox
from micropref.cache.sql.views import create_views, read_views

MINE = pa.table({"Pair Id": ["a"], "label": [1]})


@pytest.fixture(scope="module")
def said() -> object:
    """Return `said(query)`: what is said of a query over empty views and a table `mine`."""
    import duckdb

    with open_sandbox(SqlLimits()) as connection:
        create_views(connection, 2, "FLOAT[]")
        connection.register("mine", MINE)

        def say(text: str) -> str:
            query = read_query(connection, text)
            with pytest.raises(duckdb.Error) as caught:
                connection.execute(text)
            return str(explain(str(caught.value), SqlLimits(), Names.of(connection, query, ["mine"])))

        yield say


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("FROM head_acc", "no view 'head_acc': did you mean head_accuracy?"),
        ("FROM main.Head_Acuracy", "no view 'Head_Acuracy': did you mean head_accuracy?"),
        ("FROM mines", "no view 'mines': did you mean mine?"),
        ("FROM weights", "no view 'weights': did you mean router_weights?"),
        ("FROM zebra", "no view 'zebra': the views are {views}, mine"),
        ("SELECT acuracy FROM head_accuracy", "no column 'acuracy' in head_accuracy: did you mean accuracy?"),
        ("SELECT h.acuracy FROM head_accuracy h", "no column 'acuracy' in head_accuracy: did you mean accuracy?"),
        ("SELECT m.labl FROM runs, mine AS m", "no column 'labl' in mine: did you mean label?"),
        ("FROM mine SELECT \"pair id \"", "no column 'pair id ' in mine: did you mean Pair Id?"),
        ("FROM scores JOIN runs USING (runn)", "no column 'runn' in runs, scores: did you mean run?"),
        ("SELECT * EXCLUDE (wieght) FROM scores", "no column 'wieght' in scores: did you mean weight?"),
        ("PIVOT head_accuracy ON hed IN (1) USING first(n)", "no column 'hed' in head_accuracy: did you mean head?"),
        ("FROM scores SELECT count(*) GROUP BY atribute", "no column 'atribute' in scores: did you mean attribute?"),
        (
            "WITH t AS (SELECT run AS winner FROM runs) SELECT winer FROM t",
            "no column 'winer': did you mean winner?",
        ),
        ("SELECT tau FROM scores", "no column 'tau' in scores; it is a column of budget_curve"),
        ("SELECT zzz FROM mine", "no column 'zzz' in mine: mine has Pair Id, label"),
        (
            "SELECT method FROM (SELECT run FROM runs)",
            "no column 'method' in this part of the query, though runs has it: select it in the subquery or CTE that "
            "is read here",
        ),
        ("SELECT avgg(k) FROM runs", 'Scalar Function with name avgg does not exist! Did you mean "avg"?'),
    ],
)  # fmt: skip
def test_what_was_meant(said: object, query: str, expected: str) -> None:
    views = ", ".join(view.name for view in read_views())
    assert said(query) == expected.format(views=views)  # type: ignore[operator]


def test_a_very_long_name_is_cut(said: object) -> None:
    assert len(said(f"SELECT {'x' * 100_000} FROM mine")) < 200  # type: ignore[operator]


def test_the_query_process_says_it(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"^no column 'labell' in mine: did you mean label\?$"):
        run_query(tmp_path, "SELECT labell FROM mine", None, {"mine": MINE})
