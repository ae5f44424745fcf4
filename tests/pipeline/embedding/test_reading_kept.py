"""A data set keeps the reading that it was made with, and says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from micropref.cache.commits import commit
from micropref.cache.datasets import open_dataset
from micropref.cache.errors import BadInput
from micropref.cache.sql.query import run_query
from micropref.cache.store import StoreFolder
from micropref.pipeline.embedding.embed import embed
from micropref.pipeline.embedding.embed_report import EmbedReport
from micropref.pipeline.forwarding.options import EmbedOptions
from micropref.pipeline.show.embed import show_embedding
from micropref.pipeline.sources.columns import ColumnChoices
from micropref.pipeline.sources.ingest import SourceOptions

Run = Callable[..., EmbedReport]
ROWS = [
    {"prompt": f"Name river {number}.", "response": f"River {side}.", "help": side, "price": side * 7, "judge": "ann"}
    for number in range(6)
    for side in (1, 2)
]


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def run(
    store: StoreFolder, tiny_backbone: Callable[..., Path], write_rows: Callable[..., Path], said: list[str]
) -> Run:
    source = write_rows(ROWS)

    def run(kind: str = "llama", columns: dict[str, str] | None = None, **changes: Any) -> EmbedReport:
        attributes = changes.pop("attributes", None)
        sources = SourceOptions(choices=ColumnChoices(columns or {}, attributes), split="test", **changes)
        options = EmbedOptions(str(tiny_backbone(kind)), dtype="float32")
        return embed(store, [source], "mine", sources, options, announce=said.append)

    return run


def roles(report: EmbedReport) -> dict[str, str]:
    return {one["column"]: one["role"] for one in report.columns}


def test_the_report_and_the_view_name_every_column(store: StoreFolder, run: Run, tmp_path: Path) -> None:
    report = run(attributes=("help",))
    assert roles(report) == {
        "prompt": "prompt", "response": "response", "help": "attribute", "price": "ignored", "judge": "user"
    }  # fmt: skip
    shown = " ".join(show_embedding(report, planned=False).split())
    assert (
        "columns of rows.jsonl: prompt, response, attribute 'help' (as this command says: 1 to 2), user 'judge' "
        "(a known name of the user); not read: 'price' (not among the chosen attributes)"
    ) in shown
    query = 'SELECT data, split, source, "column", role, type, rows FROM columns WHERE role = $$user$$'
    assert run_query(store.root, query).to_pylist() == [
        {"data": "mine", "split": "test", "source": str(tmp_path / "rows.jsonl"), "column": "judge", "role": "user"}
        | {"type": "text", "rows": 12}
    ]
    assert run(attributes=("help",)).columns == report.columns  # nothing is read again


@pytest.mark.parametrize("more", [{"limit": None}, {"kind": "gpt2"}], ids=["more rows", "another backbone"])
def test_more_of_a_source_is_read_as_its_first_rows_were(run: Run, said: list[str], more: dict[str, Any]) -> None:
    first = run(attributes=("help",), columns={"user": ""}, limit=8)
    said.clear()
    again = run(**{"limit": 8, **more})
    assert roles(again) == roles(first)
    assert (again.users, again.pairs) == (0, 6 if "limit" in more else 4)
    assert any(line.endswith("columns are read as when it became part of data set 'mine'") for line in said)


@pytest.mark.parametrize(
    ("other", "argument"), [({"columns": {"user": ""}}, "columns"), ({"attributes": ("price",)}, "attributes")]
)
def test_another_reading_of_a_source_is_refused_unless_it_starts_over(
    run: Run, other: dict[str, Any], argument: str
) -> None:
    run(attributes=("help",))
    with pytest.raises(BadInput, match=f"already in data set 'mine', with another `{argument}`; give the same again"):
        run(**{"attributes": ("help",), **other})
    replaced = run(**{"attributes": ("help",), **other}, replace=True)
    assert roles(replaced)["judge"] == ("ignored" if argument == "columns" else "user")
    assert roles(replaced)["price"] == ("attribute" if argument == "attributes" else "ignored")


def test_a_data_set_of_the_first_releases_keeps_its_reading(store: StoreFolder, run: Run, said: list[str]) -> None:
    """Then price would have been an attribute and judge no role; its commits kept nothing about columns."""
    run(attributes=("help", "price"), columns={"user": ""}, limit=8)
    (part,) = open_dataset(store, "mine").parts
    record = {name: value for name, value in part.record.items() if name not in ("columns", "choices")}
    commit(part.folder, part.stem, part.files, record)
    assert run(limit=8).columns == []
    extended = run()
    assert roles(extended) == {
        "prompt": "prompt", "response": "response", "help": "attribute", "price": "attribute", "judge": "ignored"
    }  # fmt: skip
    assert (extended.users, extended.pairs) == (0, 12)
    assert json.loads(json.dumps(extended.columns)) == extended.columns
