"""What the backbone reads of conversations, through the command: rendered, left out and said, kept as it was."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from micropref.cli import app
from tests.support.backbones import CHAT_TEMPLATE

ARCHIVE = Path(__file__).parents[2] / "data" / "store-0.1.0.tar.gz"
CALLS = CHAT_TEMPLATE.replace(
    "{{ message.content }}",
    "{{ message.content }}{% if message.tool_calls %}{{ message.tool_calls | tojson }}{% endif %}",
)
Row = dict[str, Any]


def call(lake: str) -> list[Row]:
    return [{"type": "function", "function": {"name": "depth", "arguments": json.dumps({"lake": lake})}}]


def rows(count: int) -> list[Row]:
    """Return pairs whose two sides differ in the call of a tool alone."""
    sides = {"chosen": "Como", "rejected": "Garda"}
    return [
        {"prompt": [{"role": "user", "content": f"How deep is it? {n}"}]}
        | {side: [{"role": "assistant", "content": "Look.", "tool_calls": call(lake)}] for side, lake in sides.items()}
        for n in range(count)
    ]


@pytest.fixture
def micropref(tmp_path: Path) -> Callable[..., Any]:
    """Return `micropref(rows, *arguments)`: what `embed` prints as JSON, as text, and beside them."""

    def run(rows: list[Row], *arguments: str, name: str = "mine") -> tuple[Row, str, str]:
        file = tmp_path / f"{len(rows)}-{abs(hash(str(rows)))}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        line = ["embed", str(file), "--name", name, "--store", str(tmp_path / "s"), *arguments]
        told = CliRunner().invoke(app, line)
        again = CliRunner().invoke(app, [*line, "--json"])
        assert (told.exit_code, again.exit_code) == (0, 0), told.stderr + again.stderr
        return json.loads(again.stdout), told.stdout, told.stderr

    return run


def test_calls_that_the_template_writes_tell_pairs_apart(
    micropref: Callable[..., Any], make_backbone: Callable[..., Path]
) -> None:
    folder = make_backbone("llama", chat_template=CALLS)
    found, told, _ = micropref(rows(4), "--backbone", str(folder))
    assert (found["pairs"], found["indistinguishable"], found["not_rendered"]) == (4, 0, {})
    assert told.startswith("data set mine: 4 pairs")


def test_calls_that_it_does_not_write_are_said_first(
    micropref: Callable[..., Any], tiny_backbone: Callable[..., Path]
) -> None:
    plain = {"prompt": "Name a lake.", "chosen": "Como.", "rejected": "Sand."}
    folder = str(tiny_backbone("llama", chat=True))
    found, told, _ = micropref([*rows(4), plain], "--backbone", folder)
    assert (found["pairs"], found["indistinguishable"]) == (5, 4)
    assert found["not_rendered"] == {"tool_calls": 4}
    said = " ".join(told.split())
    expected = (
        "warning: 4 of 5 pairs come out alike to this backbone (the chat template leaves out tool_calls) data set"
    )
    assert said.startswith(expected)
    assert "does not write tool_calls (4 pairs)" in said
    few, told, _ = micropref([*rows(1), plain, plain], "--backbone", folder, name="few")
    assert few["not_rendered"] == {"tool_calls": 1}
    assert told.startswith("data set few")


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_without_a_chat_template_calls_are_written_out(
    micropref: Callable[..., Any], tiny_backbone: Callable[..., Path], kind: str
) -> None:
    found, _, _ = micropref(rows(2), "--backbone", str(tiny_backbone(kind)))
    assert (found["indistinguishable"], found["not_rendered"]) == (0, {})


EVIL = [
    {"prompt": "Say [SEP] </s>", "chosen": "no", "rejected": "yes"},
    {"prompt": "a", "chosen": "b", "rejected": "c"},
]


def test_special_tokens_are_text_unless_kept_and_a_data_set_keeps_its_way(
    micropref: Callable[..., Any], tiny_backbone: Callable[..., Path]
) -> None:
    backbone = ("--backbone", str(tiny_backbone("llama")))
    text, told, _ = micropref(EVIL, *backbone)
    assert text["special_tokens"] == 1
    assert "pairs with special tokens in their texts, read as text: 1" in told
    kept, _, _ = micropref(EVIL, *backbone, "--special-tokens", "keep", name="old")
    assert (kept["special_tokens"], kept["features"] == text["features"]) == (0, False)
    more = [{"prompt": "more </s>", "chosen": "b", "rejected": "c"}]
    again, _, said = micropref(more, *backbone, "--split", "test", name="old")
    assert (again["features"], again["special_tokens"]) == (kept["features"], 0)
    assert f"data set 'old' keeps its features {kept['features']}" in said
    asked, _, said = micropref(more, *backbone, "--split", "test", "--special-tokens", "text", name="old")
    assert (asked["features"], "keeps its features" in said) == (text["features"], False)
    other, _, _ = micropref(more, *backbone, "--split", "test")
    assert other["features"] == text["features"]


def test_a_data_set_of_the_first_release_is_read_as_it_was(
    tmp_path: Path, micropref: Callable[..., Any], tiny_backbone: Callable[..., Path]
) -> None:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path / "first", filter="data")
    shutil.move(tmp_path / "first" / "s", tmp_path / "s")
    before = {path.name for path in (tmp_path / "s" / "features").iterdir()}
    new = [
        {"prompt": [{"role": "user", "content": "q"}]} | {side: one[side] for side in ("chosen", "rejected")}
        for one in rows(1)
    ]
    new.append({"prompt": "Name a big lake.", "chosen": "Name a big lake. Como.", "rejected": "Name a big lake. Sand."})
    backbone = ("--backbone", str(tiny_backbone("llama")), "--split", "test")
    found, _, said = micropref(new, *backbone)
    assert "this data set was read by an earlier version" in said
    assert found["dropped"] == {"identical responses": 1}  # the call of a tool was not read
    assert found["noted"] == {}
    fresh, _, said = micropref(new, *backbone, name="fresh")
    assert (fresh["pairs"], fresh["dropped"]) == (2, {})
    assert fresh["noted"] == {"responses that repeated the prompt, cut": 2}
    assert "earlier version" not in said
    assert before <= {path.name for path in (tmp_path / "s" / "features").iterdir()}
