"""What a benchmark is: where its rows are, how one is read, by which rules they are scored, what is written of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from micropref.pipeline.benchmarks.items import Item, ScoredItem
from micropref.pipeline.benchmarks.scores import BenchmarkScores
from micropref.pipeline.named.adapters.facts import NamedDataset
from micropref.pipeline.options import BenchmarkName
from micropref.pipeline.sources.pairs import Message, Text, plain
from micropref.pipeline.sources.rows import Row, RowError, describe, is_blank

MODEL_TYPE = "Seq. Classifier"
"""What RewardBench calls models that give one text a number."""


@dataclass(frozen=True)
class ModelFacts:
    """What files of results say of the model."""

    name: str
    """Such as micropref/mixture-1a2b3c4d."""
    chat_template: str
    """tokenizer: the model's own; else how texts are written without one."""

    @property
    def short(self) -> str:
        """Return the name without its owner."""
        return self.name.rpartition("/")[2]


Scored = Sequence[tuple[Item, ScoredItem]]
"""Rows with their scores, in the order in which they were read."""


@dataclass(frozen=True, eq=False)
class Benchmark:
    """A published benchmark."""

    name: BenchmarkName
    title: str
    """As its authors write it."""
    dataset: NamedDataset
    """Where it is on the hub."""
    split: str
    """Which split of it is the benchmark; also a word of the names of its files where nothing names splits."""
    columns: tuple[str, ...]
    """Without these a file is another data set's."""
    read: Callable[[Row, str | None], Item]
    """Reads a row; the second argument is the config that its file belongs to. Raises RowError."""
    measure: Callable[[Sequence[ScoredItem]], BenchmarkScores]
    """Scores rows by the official rules. A row with a missing score is wrong."""
    files: Callable[[Scored, ModelFacts], dict[str, str]]
    """Relative path -> content of the files of results that its own scripts write."""
    differs: tuple[str, ...]
    """How scoring here differs from its own scripts."""

    @property
    def configs(self) -> tuple[str | None, ...]:
        """Return the configs of the hub that it consists of; None: it has one."""
        names = tuple(self.dataset.configs)
        return names if len(names) > 1 else (None,)


def known_subset(row: Row, field: str, subsets: Sequence[str]) -> str:
    """Return which subset a row is of. Raises RowError for one that is unknown."""
    value = row.values.get(field)
    if not isinstance(value, str) or value not in subsets:
        raise RowError(field, describe(value), f"one of {', '.join(subsets)}")
    return value


def answers(row: Row, field: str, prompt: Text, count: int | None = None) -> tuple[Text, ...]:
    """Return the responses of a field that is a list of texts, `count` of them. Raises RowError."""
    value = row.values.get(field)
    wanted = "a list of texts" if count is None else f"a list of {count} texts"
    if not isinstance(value, list) or not value or (count is not None and len(value) != count):
        raise RowError(field, f"a list of {len(value)}" if isinstance(value, list) else describe(value), wanted)
    return tuple(answer(row, f"{field}[{at}]", one, prompt) for at, one in enumerate(value))


def answer(row: Row, field: str, value: Any, prompt: Text) -> Text:
    """Return a response in the prompt's form: a text, or the assistant's message. Raises RowError."""
    text = "" if value is None and row.textual else value
    if not isinstance(text, str):
        raise RowError(field, describe(value), "a text")
    return text if isinstance(prompt, str) else (Message("assistant", text),)


def sentence(field: str, value: Any) -> str:
    """Return a text that is not blank. Raises RowError."""
    if not isinstance(value, str) or is_blank(value):
        raise RowError(field, describe(value), "a text")
    return value


def conversation(item: Item, response: Text) -> list[dict[str, Any]]:
    """Return prompt and response as files of results have them: messages."""
    asked = [{"role": "user", "content": item.prompt}] if isinstance(item.prompt, str) else plain(item.prompt)
    said = [{"role": "assistant", "content": response}] if isinstance(response, str) else plain(response)
    return [*asked, *said]


def as_results(value: Any, *, sort_keys: bool = True) -> str:
    """Return JSON as the scripts of the benchmarks write it, a missing score being null."""
    return json.dumps(value, indent=4, sort_keys=sort_keys, ensure_ascii=sort_keys, allow_nan=False)
