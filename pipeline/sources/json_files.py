"""The rows of JSON files: an object a line, an array of objects, or one object that holds all rows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from micropref.cache.errors import BadInput
from micropref.pipeline.sources.jsonl import first_character, line_fields, lines, strict_json, value_end, whole_text
from micropref.pipeline.sources.rows import Record, RowError, describe

WRAPPERS = ("data", "rows", "examples", "instances", "items", "records", "samples", "train", "test", "validation")
"""Names under which an object may hold all rows."""
ROW_WORDS = frozenset(
    ("prompt", "chosen", "rejected", "response", "instruction", "question", "text", "messages", "context")
)
"""Fields that tell an object of one row from one that holds rows under a name of its own."""
RESPONSES = frozenset(("chosen", "rejected", "response"))
"""Fields that an object with rows inside never has."""
EXPECTED = "one JSON object per line, an array of objects, or an object of columns"
_SPACE = re.compile(r"[ \t\n\r]*")
_GOES_ON = (b"{", b"[", b",")
"""How the first line of a value over several lines ends."""


def json_records(path: Path) -> Iterator[Record]:
    """Yield (place, fields or RowError) of every row: its line where a line is a row, else its number.

    Raises BadInput where `lines` does, and for an array or object whose end cannot be told.
    """
    if first_character(path) == b"[":
        yield from _array(path, whole_text(path))
        return
    filled = ((number, line) for number, line in lines(path) if not line.isspace())
    first = next(filled, None)
    if first is None:
        return
    second = next(filled, None)
    if second is None:
        fields = line_fields(first[1])
        yield from enumerate(_rows(path, fields), 1) if isinstance(fields, dict) else [(first[0], fields)]
    elif first[1].strip().endswith(_GOES_ON) and (values := _values(whole_text(path))):
        yield from enumerate(_rows(path, values[0]) if len(values) == 1 else values, 1)
    else:
        yield from ((number, line_fields(line)) for number, line in chain([first, second], filled))


def _array(path: Path, text: str) -> Iterator[Record]:
    """Yield (1-based number, fields or RowError) of an array's items. Raises BadInput for a broken array."""
    at, number = _after_space(text, text.index("[") + 1), 0
    while text[at : at + 1] != "]" or number:
        try:
            end = value_end(text, at)
        except json.JSONDecodeError as error:
            raise _broken(path, text, error.pos, error.msg) from None
        except RecursionError:
            raise _broken(path, text, at, "JSON nested too deeply") from None
        number += 1
        yield number, _fields(text[at:end])
        at = _after_space(text, end)
        if text[at : at + 1] != ",":
            break
        at = _after_space(text, at + 1)
    if text[at : at + 1] != "]":
        raise _broken(path, text, at, "a comma or ] missing")
    behind = _after_space(text, at + 1)
    if behind < len(text):
        raise _broken(path, text, behind, "more text behind the array")


def _values(text: str) -> list[dict[str, Any] | RowError]:
    """Return the objects that a text is made of, one behind the other; none where it is not."""
    found = []
    at = _after_space(text, 0)
    while at < len(text):
        try:
            end = value_end(text, at)
        except (json.JSONDecodeError, RecursionError):
            return []
        found.append(_fields(text[at:end]))
        at = _after_space(text, end)
    return found


def _fields(text: str) -> dict[str, Any] | RowError:
    try:
        value = strict_json(text)
    except RowError as error:
        return error
    return value if isinstance(value, dict) else RowError(None, describe(value), "a JSON object")


def _rows(path: Path, whole: dict[str, Any] | RowError) -> list[dict[str, Any] | RowError]:
    """Return the rows that a file's only object holds: those under a known name, of columns, or itself."""
    if isinstance(whole, RowError) or not whole:
        return [whole]
    inner = [name for name in WRAPPERS if isinstance(whole.get(name), dict)]
    if inner and not ROW_WORDS & whole.keys():
        _refuse_several(path, whole, inner + [name for name, value in whole.items() if _has_row_words(value)])
        return _rows(path, whole[inner[0]])
    named = _tables(whole)
    _refuse_several(path, whole, named)
    if named:
        return [_unwrapped(item) for item in whole[named[0]]]
    if all(isinstance(value, dict) and ROW_WORDS & value.keys() for value in whole.values()):
        return list(whole.values())  # number or id → row
    columns = _cells(whole) or _columns(path, whole)
    return [whole] if columns is None else [dict(zip(columns, cells, strict=True)) for cells in _across(columns)]


def _tables(whole: dict[str, Any]) -> list[str]:
    """Return the names under which an object holds rows: known ones, else the only list in an object of other facts."""
    if RESPONSES & whole.keys():
        return []  # a row, whatever else it has
    known = [name for name in WRAPPERS if _is_table(whole.get(name))]
    if known:
        rows = whole[known[0]]
        alike = (name for name, value in whole.items() if _has_row_words(value) or _has_keys_of(value, rows))
        return list(dict.fromkeys([*known, *alike]))
    if ROW_WORDS & whole.keys():
        return []
    nested = [name for name, value in whole.items() if isinstance(value, list | dict)]
    return [name for name in nested if len(nested) == 1 and _is_table(whole[name])]


def _refuse_several(path: Path, whole: dict[str, Any], named: list[str]) -> None:
    """Raise BadInput where there are several lists of rows: to read one would lose the others."""
    if len(named) > 1:
        one = named[0] + ("[]" if isinstance(whole[named[0]], list) else "")
        raise BadInput(
            f"{path}: found an object with several lists of rows ({', '.join(map(repr, named))}); expected one: "
            f"take one of them into a file of its own, for example with jq -c '.{one}'"
        )


def _has_row_words(value: Any) -> bool:
    """Say whether a value is a list of rows by the names of their fields."""
    return _is_table(value) and any(ROW_WORDS & item.keys() for item in value)


def _has_keys_of(value: Any, rows: list[dict[str, Any]]) -> bool:
    """Say whether a value is a list of rows with the fields of others."""
    return _is_table(value) and value[0].keys() == rows[0].keys()


def _cells(whole: dict[str, Any]) -> dict[str, list[Any]] | None:
    """Return column → its values of an object with names and rows of cells, as pandas writes it; None for others."""
    names, rows = whole.get("columns"), whole.get("data")
    if not isinstance(names, list) or not isinstance(rows, list):
        return None
    if not all(isinstance(cells, list) and len(cells) == len(names) for cells in rows):
        return None
    return {str(name): [cells[at] for cells in rows] for at, name in enumerate(names)}


def _is_table(value: Any) -> bool:
    """Say whether a value is a list of rows: of objects that are no messages."""
    return (
        isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value) and not _talk(value)
    )


def _talk(items: list[Any]) -> bool:
    """Say whether some item is a message of a conversation."""
    return any(isinstance(item, dict) and not item.keys().isdisjoint(("role", "from")) for item in items)


def _unwrapped(item: dict[str, Any]) -> dict[str, Any]:
    """Return a row; the hub's viewer has each under `row`, next to its number."""
    inner = item.get("row")
    return inner if isinstance(inner, dict) and "row_idx" in item else item


def _columns(path: Path, whole: dict[str, Any]) -> dict[str, list[Any]] | None:
    """Return column → its values; None where the object is a row of its own. Raises BadInput for uneven columns."""
    if all(isinstance(value, list) and not _talk(value) for value in whole.values()):
        found = whole
    elif all(isinstance(value, dict) and value and all(map(str.isdecimal, value)) for value in whole.values()):
        found = _in_order_of_the_first(path, whole)  # pandas: column → number → value
    else:
        return None
    lengths = {name: len(values) for name, values in found.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name!r} {length:,}" for name, length in lengths.items())
        raise BadInput(f"{path}: found columns of different lengths ({told}); expected a value for every row in each")
    return found


def _in_order_of_the_first(path: Path, whole: dict[str, dict[str, Any]]) -> dict[str, list[Any]]:
    """Return column → its values, row by row. Raises BadInput where columns have other row numbers than the first."""
    first, numbers = next(iter(whole.items()))
    for name, values in whole.items():
        if values.keys() != numbers.keys():
            odd = min(values.keys() ^ numbers.keys(), key=int)
            raise BadInput(
                f"{path}: found columns with different row numbers (row {odd} is in {first!r} or in {name!r} alone); "
                "expected a value, or null, for every row in each column"
            )
    return {name: [values[number] for number in numbers] for name, values in whole.items()}


def _across(columns: dict[str, list[Any]]) -> Iterator[tuple[Any, ...]]:
    return zip(*columns.values(), strict=True)


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None, "the pattern matches nothing too"
    return found.end()


def _broken(path: Path, text: str, at: int, reason: str) -> BadInput:
    line = text.count("\n", 0, at) + 1
    column = at - text.rfind("\n", 0, at)
    return BadInput(f"{path}:{line}: found broken JSON at column {column} ({reason}); expected {EXPECTED}")
