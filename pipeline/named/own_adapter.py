"""An adapter of the user's own: a Python file with a function `rows`, run only when it is asked for."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from micropref.cache.errors import BadInput
from micropref.cache.keys import sha256_hex
from micropref.pipeline.sources.adapters import Adapter, Ordinary
from micropref.pipeline.sources.rows import NoPreference, Row, RowError, describe

EXPECTED = "a function rows(row) that returns a dict, a list of dicts, or None for a row to leave out"


def load_adapter(path: Path) -> Adapter:
    """Run a Python file and return its adapter. Raises BadInput where it fails or has no function `rows`.

    `COLUMNS`, a tuple of names, says without which columns a file is another data set's.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"adapter {path}: cannot be read ({error}); expected a Python file with {EXPECTED}") from None
    names: dict[str, Any] = {"__name__": "micropref_adapter", "__file__": str(path)}
    try:
        exec(compile(text, str(path), "exec"), names)  # noqa: S102 - the user's own file, which he asked for
    except Exception as error:  # noqa: BLE001 - whatever it raises
        raise BadInput(f"adapter {path}: {_told(path, error)}; expected a Python file with {EXPECTED}") from None
    made = names.get("rows")
    if not callable(made):
        raise BadInput(f"adapter {path}: found no function `rows`; expected {EXPECTED}")

    def read(row: Row) -> Iterator[Ordinary]:
        try:
            found = made(dict(row.values))
            items = list(found) if isinstance(found, Iterable) and not isinstance(found, Mapping | str) else [found]
        except Exception as error:  # noqa: BLE001 - whatever it raises
            raise RowError(None, _told(path, error), "rows(row) to read it") from None
        for item in items:
            if item is None:
                yield NoPreference("left out by the adapter")
            elif isinstance(item, Mapping):
                yield item
            else:
                raise RowError(None, f"{describe(item)} from rows(row)", "a dict, a list of dicts, or None")

    return Adapter(str(path.name), read, tuple(names.get("COLUMNS", ())), version=sha256_hex(text)[:16])


def _told(path: Path, error: Exception) -> str:
    """Return an error in one line, with the line of the file that raised it."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    line = getattr(error, "lineno", None) if isinstance(error, SyntaxError) else next(iter(lines[::-1]), None)
    said = " ".join(str(error).split())[:160]
    return f"{type(error).__name__} at line {line} ({said})" if line else f"{type(error).__name__} ({said})"
