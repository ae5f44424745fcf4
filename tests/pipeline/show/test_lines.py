"""Sentences and the next command of a report."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from micropref.pipeline.show.lines import folded_query, next_evaluation, next_step, paragraph


def test_a_sentence_is_folded_at_spaces_and_a_path_never() -> None:
    path = "/data/" + "x" * 90
    text = paragraph(f"  kept in {path} for good " + "and ever " * 10)
    lines = text.splitlines()
    assert text.split() == ["kept", "in", path, "for", "good", *["and", "ever"] * 10]
    assert all(len(line) <= 80 or path in line for line in lines)
    assert all(line.startswith("    ") for line in lines[1:])


def test_the_next_command_is_one_line_and_names_a_store_that_is_not_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MICROPREF_STORE", raising=False)
    assert next_step("eval", "mixture-1", store=Path("data")) == "next: micropref eval mixture-1\n"
    assert (
        next_step("eval", "mixture-1", store=Path("my store")) == "next: micropref eval mixture-1 --store 'my store'\n"
    )
    monkeypatch.setenv("MICROPREF_STORE", "my store")
    assert next_step("eval", "mixture-1", store=Path("my store")) == "next: micropref eval mixture-1\n"
    assert next_step("train", "it's $5") == "next: micropref train 'it'\"'\"'s $5'\n"


def test_a_long_command_goes_on_after_a_backslash() -> None:
    store = Path("/" + "s" * 60)
    text = next_step("sql", "FROM head_accuracy WHERE run = 'dpl-mean-variance-12345678'", store=store)
    assert max(map(len, text.splitlines())) <= 80
    words = shlex.split(text.removeprefix("next: ").replace("\\\n", ""))  # as a shell joins lines
    query = "FROM head_accuracy WHERE run = 'dpl-mean-variance-12345678'"
    assert words == ["micropref", "sql", query, "--store", str(store)]


def test_a_run_is_scored_on_test_or_on_what_there_is() -> None:
    assert next_evaluation("r", ["test", "train"], None) == "next: micropref eval r\n"
    assert next_evaluation("r", ["dev", "train"], None) == "next: micropref eval r --split dev\n"
    assert next_evaluation("r", ["train"], None) == "next: micropref eval r --split train\n"


def test_a_folded_query_is_the_same_query() -> None:
    query = (
        "SELECT attribute, round(avg((margin > 0)::INT), 3) AS agrees FROM scores WHERE run = 'r' GROUP BY attribute"
    )
    text = folded_query(query)
    assert max(map(len, text.splitlines())) <= 80
    assert shlex.split(text)[2].split() == query.split()
