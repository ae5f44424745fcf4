"""The Python API: the commands' names and defaults, values instead of text, rows in memory, readable reports."""

from __future__ import annotations

import dataclasses
import datetime
import html
import inspect
import json
import subprocess
import sys
import uuid
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

import micropref
from micropref.cache.store import StoreFolder
from micropref.cli import app

METHODS = ("embed", "train", "sweep", "evaluate", "route", "adapt", "diagnose", "compare", "sql", "import_vectors")


@pytest.mark.parametrize("method", METHODS)
def test_docstrings_name_every_argument(method: str) -> None:
    function = getattr(micropref.Store, method)
    text = inspect.getdoc(function) or ""
    for section in ("Args:", "Returns:", "Raises:", "Example:"):
        assert section in text, section
    for name in inspect.signature(function).parameters:
        assert name == "self" or f"    {name}: " in text, name


def test_importing_is_light() -> None:
    heavy = ("torch", "transformers", "polars", "pyarrow", "numpy", "duckdb")
    code = f"import sys, micropref; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def opened(tmp_path: Path) -> micropref.Store:
    return micropref.Store(tmp_path / "store")


@pytest.fixture
def embedded(
    opened: micropref.Store, tiny_backbone: Callable[..., Path], rows: list[dict[str, Any]]
) -> micropref.Store:
    opened.embed(rows, "mine", backbone=tiny_backbone("bert"), split_by_prompt=0.3, device="cpu")
    return opened


def test_from_rows_in_memory_to_a_table(embedded: micropref.Store) -> None:
    trained = embedded.train("mine", k=2, restarts=2, epochs=4)
    assert repr(trained).startswith(f"run {trained.run}")
    evaluation = embedded.evaluate(trained.run)
    assert isinstance(evaluation.mixture_accuracy, pl.DataFrame)
    run = embedded.run(trained.run)
    assert (run.settings["k"], run.heads.shape, run.heads.dtype) == (2, (2, 32), np.float32)
    table = run.table("head_accuracy")
    assert table["run"].unique().to_list() == [run.id]
    assert embedded.sql("SELECT count(*) AS n FROM runs")["n"].to_list() == [1]
    assert repr(run) == f"Run({run.id!r}, method='mixture', data='mine', k=2)"
    assert repr(embedded).endswith("store'): 1 data sets, 1 runs")


def test_stages_take_values_and_runs(embedded: micropref.Store) -> None:
    swept = embedded.sweep("mine", k=[1, 2], lam=0.1, seeds=2, epochs=3, memory=2 * 10**9)
    assert {row["k"] for row in embedded.sql("FROM leaderboard WHERE sweep IS NOT NULL").to_dicts()} == {1, 2}
    run = embedded.run(embedded.train("mine", k=2, restarts=2, epochs=4, router_input="prompt").run)
    adapted = embedded.adapt(run, "attribute", shots=[1, 2])
    assert adapted.adaptation["shots"].unique().sort().to_list() == [0, 1, 2]
    routed = embedded.route(run, budget=[2, 4])
    assert embedded.run(routed.run).record["parent"] == run.id
    compared = embedded.compare("mine", methods=["single", "static"], seeds=1, shots=2, budget=2)
    for report in (swept, adapted, routed, compared):
        assert dataclasses.is_dataclass(report)
        assert repr(report)
    for report in (adapted, routed):
        assert report._repr_html_() == f"<pre>{html.escape(repr(report))}</pre>"
    for report in (swept, compared):
        assert report._repr_html_().startswith('<div class="micropref">')
        assert "<figure" in report._repr_html_()


def test_the_command_prints_what_the_report_reads_as(embedded: micropref.Store) -> None:
    from typer.testing import CliRunner

    trained = embedded.train("mine", k=2, restarts=2, epochs=4)
    done = CliRunner().invoke(app, ["eval", trained.run, "--store", str(embedded.folder)])
    assert done.stdout == repr(embedded.evaluate(trained.run)) + "\n"


ROWS = [{"prompt": f"What is {at}?", "chosen": f"It is {at}.", "rejected": "", "user": at} for at in range(6)]


@pytest.mark.parametrize(
    "table",
    [
        pytest.param(lambda: ROWS, id="dicts"),
        pytest.param(lambda: (row for row in ROWS), id="generator"),
        pytest.param(lambda: pl.DataFrame(ROWS), id="polars"),
        pytest.param(lambda: pa.Table.from_pylist(ROWS), id="arrow"),
        pytest.param(lambda: pytest.importorskip("pandas").DataFrame(ROWS), id="pandas"),
        pytest.param(lambda: [{**row, "user": np.int64(row["user"])} for row in ROWS], id="numpy scalars"),
    ],
)
def test_rows_of_any_table_are_the_same_source(
    opened: micropref.Store, tiny_backbone: Callable[..., Path], table: Callable[[], Any]
) -> None:
    report = opened.embed(table(), "mine", backbone=tiny_backbone("bert"), device="cpu")
    assert (report.pairs, report.users, report.empty_responses) == (6, 6, 6)
    again = opened.embed(ROWS, "mine", backbone=tiny_backbone("bert"), device="cpu")
    assert (again.pairs, again.texts_embedded) == (6, 0)
    (kept,) = (opened.folder / "sources").iterdir()
    assert [json.loads(line) for line in kept.read_text().splitlines()] == ROWS


def test_rows_in_memory_may_hold_what_json_has_not(opened: micropref.Store, tiny_backbone: Callable[..., Path]) -> None:
    rows = [
        {
            "prompt": "Name a river.",
            "response": response,
            "helpfulness": Decimal(rating),
            "user_id": uuid.UUID(int=5),
            "created": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
            "image": b"\x89PNG",
        }
        for response, rating in (("The Rhine.", "4.5"), ("Wet.", "2"))
    ]
    report = opened.embed(rows, "mine", backbone=tiny_backbone("bert"), device="cpu")
    assert (report.pairs, report.users) == (1, 1)
    assert {one["column"]: (one["role"], one["type"]) for one in report.columns if one["type"] != "text"} == {
        "helpfulness": ("attribute", "number"),
        "image": ("ignored", "object"),
    }
    assert opened.sql("SELECT user FROM pairs")["user"].to_list() == [str(uuid.UUID(int=5))]


def test_paths_are_texts_or_paths(
    opened: micropref.Store, tiny_backbone: Callable[..., Path], write_rows: Callable[..., Path]
) -> None:
    first, second = write_rows(ROWS[:3], "a.jsonl"), write_rows(ROWS[3:], "b.jsonl")
    report = opened.embed([str(first), second], "mine", backbone=str(tiny_backbone("bert")), device="cpu")
    assert report.pairs == 6
    assert not (opened.folder / "sources").exists()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda store: store.embed([], "mine"), "source: found no rows"),
        (lambda store: store.embed(5, "mine"), "source: found a int"),
        (lambda store: store.embed([{"prompt": {1, 2}}], "mine"), "source, row 1: found a set"),
        (lambda store: store.embed([["a"]], "mine"), "source, row 1: found a list; expected a dict"),
        (lambda store: store.train("mine", method="single", lam=0.5), "lam has no effect with `method` single"),
        (lambda store: store.train("nothing"), "unknown data set 'nothing'"),
        (lambda store: store.run("nothing"), "unknown run 'nothing'"),
        (lambda store: store.sql("DROP TABLE runs"), "SELECT"),
        (lambda store: micropref.Store(""), "store ''"),
    ],
)
def test_bad_values_are_one_line(
    embedded: micropref.Store, call: Callable[[micropref.Store], Any], message: str
) -> None:
    with pytest.raises(micropref.BadInput, match=message) as caught:
        call(embedded)
    assert "\n" not in str(caught.value)


def test_the_folder_defaults_to_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICROPREF_STORE", str(tmp_path / "there"))
    assert micropref.Store().folder == tmp_path / "there"
    monkeypatch.delenv("MICROPREF_STORE")
    assert micropref.Store().folder == Path("data")
    assert StoreFolder(micropref.Store().folder).root == Path("data")
