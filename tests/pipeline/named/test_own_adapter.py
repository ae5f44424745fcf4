"""A user's own adapter: a Python file with a function `rows`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from micropref.cache.errors import BadInput
from micropref.pipeline.named.own_adapter import load_adapter
from micropref.pipeline.sources.locations import Given, locate
from micropref.pipeline.sources.reader import Source, read_source

GOOD = """
COLUMNS = ("question", "answers", "best")

def rows(row):
    if row["best"] is None:
        return None
    best = row["answers"][row["best"]]
    return [
        {"prompt": row["question"], "chosen": best, "rejected": other}
        for at, other in enumerate(row["answers"]) if at != row["best"]
    ]
"""
ROWS = [
    {"question": "q", "answers": ["a", "b", "c"], "best": 1},
    {"question": "r", "answers": ["a", "b"], "best": None},
    {"question": "s", "answers": ["a"], "best": 0},
]


def read(folder: Path, code: str, rows: list[dict[str, object]] = ROWS, on_bad: str = "stop") -> Source:
    (folder / "my.py").write_text(code)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (located,) = locate(Given(folder / "rows.jsonl", adapter=load_adapter(folder / "my.py")))
    return read_source(located, on_bad=on_bad)  # type: ignore[arg-type]


def test_a_function_of_ones_own_reads_the_rows(tmp_path: Path) -> None:
    source = read(tmp_path, GOOD)
    assert [(pair.prompt, pair.chosen, pair.rejected) for pair in source.pairs] == [("q", "b", "a"), ("q", "b", "c")]
    assert source.dropped == {"left out by the adapter": 1, "no comparison": 1}
    assert source.rows == 3
    assert {path.name for path in tmp_path.iterdir()} == {"my.py", "rows.jsonl"}  # no compiled copy next to it


def test_an_error_in_it_is_the_rows(tmp_path: Path) -> None:
    code = 'def rows(row):\n    return {"prompt": "p", "chosen": row["answers"][row["best"]], "rejected": ""}\n'
    with pytest.raises(BadInput, match=r"rows.jsonl:2: the whole row: found TypeError at line 2 \(list indices"):
        read(tmp_path, code)
    source = read(tmp_path, code, on_bad="skip")
    assert (len(source.pairs), source.dropped) == (2, {"malformed": 1})


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1\n", "my.py: found no function `rows`; expected a function rows"),
        ("def rows(row:\n", r"my.py: SyntaxError at line 1 \("),
        ("x = 1\ny = 1 / 0\n", r"my.py: ZeroDivisionError at line 2 \(division by zero\)"),
        ("def rows(row):\n    return 'text'\n", "found the text 'text' from rows"),
        ("COLUMNS = ('text',)\ndef rows(row): return row\n", r"expected those of my.py: text \(missing: text\)"),
    ],
)
def test_what_cannot_be_used_is_one_line(tmp_path: Path, code: str, message: str) -> None:
    with pytest.raises(BadInput, match=message) as refusal:
        read(tmp_path, code)
    assert "\n" not in str(refusal.value)


def test_another_text_of_it_is_another_reading(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(GOOD)
    (tmp_path / "b.py").write_text(GOOD + "# changed\n")
    assert load_adapter(tmp_path / "a.py").identity != load_adapter(tmp_path / "b.py").identity
    with pytest.raises(BadInput, match="cannot be read"):
        load_adapter(tmp_path / "none.py")
