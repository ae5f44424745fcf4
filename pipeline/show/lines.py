"""Sentences of a report, folded to the width of a terminal, and the command to type next."""

from __future__ import annotations

import os
import shlex
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from micropref.cache.choices import TEST, TRAIN
from micropref.pipeline.options import DEFAULT_STORE

WIDTH = 80
"""Columns of the narrowest terminal that reports are made for."""


def paragraph(line: str) -> str:
    """Return a line folded at spaces, what follows indented; a path or name is never broken."""
    indent = line[: len(line) - len(line.lstrip())] + "  "
    return textwrap.fill(line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def paragraphs(lines: Iterable[str]) -> str:
    """Return lines, each folded, each with its end."""
    return "".join(paragraph(line) + "\n" for line in lines)


def without_reward(reasons: Mapping[str, int]) -> list[str]:
    """Return a line for each reason why responses have no reward."""
    return [f"without a reward: {count:,} ({reason})" for reason, count in reasons.items()]


def next_step(*words: str | None, store: Path | None = None) -> str:
    """Return the line that names the next command, which runs as it is printed; words that are None are left out.

    `store` is named where the command would not find it by itself. A line too long goes on after a backslash.
    """
    default = Path(os.environ.get("MICROPREF_STORE", DEFAULT_STORE))
    where = [] if store is None or store == default else ["--store", str(store)]
    shown = [_quoted(word) for word in ("micropref", *words, *where) if word is not None]
    lines = [f"next: {shown[0]}"]
    for place, word in enumerate(shown[1:], 1):
        backslash = 2 if place + 1 < len(shown) else 0
        if len(lines[-1]) + 1 + len(word) + backslash > WIDTH:
            lines[-1] += " \\"
            lines.append(f"        {word}")
        else:
            lines[-1] += f" {word}"
    return "\n".join(lines) + "\n"


def next_evaluation(run: str, splits: Sequence[str], store: Path | None) -> str:
    """Return the line that scores a run: on test, or on another split where the data set has none."""
    others = [split for split in splits if split != TRAIN] or [TRAIN]
    chosen = [] if TEST in splits or not splits else ["--split", others[0]]
    return next_step("eval", run, *chosen, store=store)


def folded_query(query: str) -> str:
    """Return the command that runs a query, folded between words, which neither a shell nor SQL minds."""
    command = f'  micropref sql "{query}"'
    return textwrap.fill(command, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)


def rows_of(view: str, run: str) -> tuple[str, str]:
    """Return the words of the query for a run's rows of a view."""
    return "sql", f"FROM {view} WHERE run = '{run}'"


def _quoted(word: str) -> str:
    """Return a word for a shell, a query in double quotes, as people type it."""
    if "'" in word and not set(word) & set('"$`\\!'):
        return f'"{word}"'
    return shlex.quote(word)
