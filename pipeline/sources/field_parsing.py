"""Strict readings of a row's fields: texts, messages, labels, numbers."""

from __future__ import annotations

import math
from typing import Any

from micropref.pipeline.sources.messages import read_message
from micropref.pipeline.sources.pairs import Message, Text, is_empty
from micropref.pipeline.sources.rows import Row, RowError, describe, is_blank
from micropref.pipeline.sources.scalars import is_absent, to_id, to_number

A_TEXT = "a non-empty text or a list of messages"
A_RESPONSE = "a text, which may be empty, or a list of messages"
A_NUMBER = "a finite number (null where there is none)"
AN_ID = "a text, a whole number or null"


def text(row: Row, field: str) -> Text:
    """Return a required text: a string or messages, of which something is not blank. Raises RowError."""
    value = row.values.get(field)
    if isinstance(value, str) and not is_blank(value):
        return value
    if isinstance(value, list):
        return _messages(row, value, field)
    raise RowError(field, _found(row, field), A_TEXT)


def response(row: Row, field: str) -> Text:
    """Return a required response, which may be empty: not answering is an answer. Raises RowError.

    Messages are at least one. In CSV, which has no null, an empty cell is an empty response.
    """
    value = row.values.get(field)
    if value is None and row.textual and field in row.values:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value:
        return tuple(read_message(row, item, f"{field}[{place}]") for place, item in enumerate(value))
    raise RowError(field, "an empty list" if value == [] else _found(row, field), A_RESPONSE)


def sentence(row: Row, field: str) -> str:
    """Return a required string that is not blank. Raises RowError."""
    value = row.values.get(field)
    if isinstance(value, str) and not is_blank(value):
        return value
    raise RowError(field, _found(row, field), "a non-empty text")


def label(row: Row, field: str) -> str | None:
    """Return an optional string, None where it is absent, null or blank. Raises RowError."""
    value = row.values.get(field)
    if value is None:
        return None
    if not isinstance(value, str):
        raise RowError(field, describe(value), "a text or null")
    return None if is_blank(value) else value


def user(row: Row) -> str | None:
    """Return the annotator of the row, None where it is absent, null or blank. Raises RowError for what is no id."""
    value = row.values.get("user")
    if value is None or (isinstance(value, str) and is_blank(value)):
        return None
    found = to_id(value)
    if found is None:
        raise RowError("user", describe(value), AN_ID)
    return found


def number(row: Row, field: str) -> float:
    """Return a required finite number. Raises RowError."""
    value = _finite(row.values.get(field), textual=row.textual)
    if value is None:
        raise RowError(field, _found(row, field), "a finite number" if row.values.get(field) is None else A_NUMBER)
    return value


def optional_number(row: Row, field: str) -> float | None:
    """Return a finite number, None where it is absent or null. Raises RowError."""
    return None if row.values.get(field) is None else number(row, field)


def ratings(row: Row, field: str) -> dict[str, float]:
    """Return optional ratings, attribute → finite number, without those that are absent. Raises RowError."""
    value = row.values.get(field)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RowError(field, describe(value), 'an object of numbers such as {"helpfulness": 4}')
    found = {}
    for attribute, rating in value.items():
        if is_absent(rating):
            continue
        finite = _finite(rating)
        if finite is None:
            raise RowError(f"{field}.{attribute}", describe(rating), A_NUMBER)
        found[attribute] = finite
    return found


def _finite(value: Any, *, textual: bool = False) -> float | None:
    """Return a number as it is kept, None where it is none, too large, infinite or not a number."""
    found = to_number(value, textual=textual)
    return found if found is not None and math.isfinite(found) else None


def _found(row: Row, field: str) -> str:
    return describe(row.values[field]) if field in row.values else "no such field"


def _messages(row: Row, items: list[Any], field: str) -> tuple[Message, ...]:
    messages = tuple(read_message(row, item, f"{field}[{place}]") for place, item in enumerate(items))
    if is_empty(messages):
        raise RowError(field, "messages without text" if messages else "an empty list", A_TEXT)
    return messages
