"""Rows of a file that hold responses to score: which columns, and what a row asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from micropref.cache.errors import BadInput
from micropref.pipeline.rewards.scoring.candidates import Candidates
from micropref.pipeline.rewards.scoring.taste import Taste
from micropref.pipeline.sources.comparison_rows import preference
from micropref.pipeline.sources.field_parsing import label, response, text, user
from micropref.pipeline.sources.files import read_rows
from micropref.pipeline.sources.jsonl import line_fields, lines
from micropref.pipeline.sources.locations import locate
from micropref.pipeline.sources.pairs import Origin, Text
from micropref.pipeline.sources.prompt_split import behind_prompt, with_tools
from micropref.pipeline.sources.rows import READING, NoPreference, Row, RowError, Unreadable, describe
from micropref.pipeline.sources.text_forms import tools

RowShape = Literal["response", "responses", "pair"]
"""prompt and response; prompt and responses, a list; chosen and rejected, mostly with prompt."""
STDIN = "-"
STDIN_FILE = Path("/dev/stdin")
EXPECTED = "prompt with response, prompt with responses (a list), or chosen and rejected"


@dataclass(frozen=True)
class AskedRow:
    """One row of the input."""

    values: dict[str, Any]
    """Its columns as they were read."""
    shape: RowShape | None
    """Which columns hold responses; None: none do."""
    candidates: Candidates | None
    """What is to be scored; None where it cannot be read."""
    reason: str | None = None
    """Why it cannot be read."""


def asked_rows(source: str, taste: Taste) -> Iterator[AskedRow]:
    """Yield the rows of a file, or of JSON Lines on standard input (`-`); columns context and user add to `taste`.

    Raises BadInput for a file that cannot be read, or whose first row has no responses.
    """
    shape = None
    for row in _stdin_rows() if source == STDIN else _file_rows(Path(source)):
        if isinstance(row, Unreadable):
            yield AskedRow({}, shape, None, f"{row.error}")
            continue
        if shape is None and (shape := _shape(row)) is None:
            raise BadInput(f"{row.origin}: found the columns {_named(row)}; expected {EXPECTED}")
        yield _asked(row, taste)


def _file_rows(path: Path) -> Iterator[Row | Unreadable]:
    return read_rows([file for located in locate(path) for file in located.files])


def _stdin_rows() -> Iterator[Row | Unreadable]:
    """Yield a row for each line as it comes."""
    pool: dict[Any, Any] = {}
    noted = Counter[str]()
    for number, line in lines(STDIN_FILE):
        if line.isspace():
            continue
        values, origin = line_fields(line), Origin("standard input", number)
        if isinstance(values, RowError):
            yield Unreadable(origin, values)
        else:
            yield Row(values, origin, textual=False, pool=pool, version=READING, noted=noted)


def _asked(row: Row, taste: Taste) -> AskedRow:
    shape = _shape(row)
    try:
        if shape is None:
            raise RowError(None, f"the columns {_named(row)}", EXPECTED)
        prompt, responses = _texts(row, shape)
        candidates = Candidates(prompt, responses, _with_columns(row, taste), shape != "response", row.origin)
    except (RowError, NoPreference, BadInput) as error:
        return AskedRow(row.values, shape, None, str(error))
    return AskedRow(row.values, shape, candidates)


def _shape(row: Row) -> RowShape | None:
    names = row.values.keys()
    if "responses" in names and "prompt" in names:
        return "responses"
    if "response" in names and "prompt" in names:
        return "response"
    return "pair" if names >= {"chosen", "rejected"} else None


def _texts(row: Row, shape: RowShape) -> tuple[Text, tuple[Text, ...]]:
    """Return a row's prompt and its responses. Raises RowError or NoPreference for what is none."""
    if shape == "pair" and "prompt" not in row.values:
        (pair,) = preference(row)
        return pair.prompt, (pair.chosen, pair.rejected)
    if shape == "responses":
        items = row.values["responses"]
        if not isinstance(items, list) or not items:
            raise RowError("responses", describe(items), "a list of responses")
        each = {f"responses[{at}]": item for at, item in enumerate(items)}
    else:
        names = ("response",) if shape == "response" else ("chosen", "rejected")
        each = {name: row.values[name] for name in names}
    asked = text(row, "prompt")
    read = replace(row, values=row.values | each)
    prompt, responses = behind_prompt(asked, {name: response(read, name) for name in each}, row)
    prompt, responses = with_tools(prompt, responses, tools(row))
    return prompt, tuple(responses)


def _with_columns(row: Row, taste: Taste) -> Taste:
    """Return what a row asks for: its own context and user, else those of the command."""
    return taste.of_row(label(row, "context"), user(row))


def _named(row: Row) -> str:
    return ", ".join(map(repr, row.values)) or "of an empty object"
