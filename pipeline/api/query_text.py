"""The text of a query that is in a file or on standard input, and what the views leave out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from micropref.cache.errors import BadInput
from micropref.cache.runs.records import read_runs
from micropref.cache.store import StoreFolder
from micropref.pipeline.api.stdin import STDIN

LONGEST = 1 << 22
"""Bytes of a query at most."""


def query_text(query: str | None, file: Path | None) -> str | None:
    """Return the query itself, that of a file, or that on standard input where either is `-`; None where none is given.

    A pipe is read like a file. Raises BadInput where both are given, and for what holds no text of a query.
    """
    if query is not None and file is not None:
        raise BadInput("query and `file` are both given; leave out one of them")
    given = query if file is None else str(file)
    if given == STDIN:
        return _decoded("standard input", sys.stdin.buffer.read(LONGEST + 1))
    if file is None:
        return query
    try:
        with file.open("rb") as opened:
            return _decoded(str(file), opened.read(LONGEST + 1))
    except OSError as error:
        raise BadInput(
            f"{file}: cannot be read ({error.strerror or error}); expected a file that holds a query"
        ) from None


def _decoded(where: str, content: bytes) -> str:
    if len(content) > LONGEST:
        raise BadInput(f"{where}: found more than {LONGEST >> 20} MiB; expected the text of a query")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise BadInput(f"{where}:{line}: found invalid UTF-8; expected the text of a query") from None
    if not text.strip():
        raise BadInput(f"{where}: found nothing; expected the text of a query")
    return text


def tell_of_damaged_runs(store: StoreFolder, announce: Callable[[str], None]) -> None:
    """Say which runs the views leave out, a line each."""
    for line in read_runs(store)[1]:
        announce(f"warning: left out: {line}")
