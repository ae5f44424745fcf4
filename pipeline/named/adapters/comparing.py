"""What adapters have in common: rows of comparisons, and labels in their forms."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from micropref.pipeline.sources.adapters import Ordinary
from micropref.pipeline.sources.rows import NoPreference, Row, RowError, describe

Known = TypeVar("Known")

TIE = "tie"
NO_LABEL = "no label"


def comparison(first: Any, second: Any, prefers_second: bool | None, **fields: Any) -> Ordinary:
    """Return the preference row of two responses; `fields` are its prompt and labels. None: a tie."""
    if prefers_second is None:
        return NoPreference(TIE)
    chosen, rejected = (second, first) if prefers_second else (first, second)
    return {"chosen": chosen, "rejected": rejected, **fields}


def of_signed(row: Row, field: str, **fields: Any) -> dict[str, Any]:
    """Return what a signed strength says: above 0 the second is preferred, its size is the margin, 0 is a tie."""
    strength = number(row, field)
    if strength is None:
        raise NoPreference(NO_LABEL)
    return {"prefers_second": None if strength == 0 else strength > 0, "margin": abs(strength), **fields}


def of_index(row: Row, field: str, *, second: int) -> bool:
    """Return whether a 0/1 label names the second response, which `second` stands for. Raises RowError."""
    value = number(row, field)
    if value is None:
        raise NoPreference(NO_LABEL)
    if value not in (0, 1):
        raise RowError(field, describe(row.values[field]), "0 or 1")
    return value == second


def number(row: Row, field: str) -> float | None:
    """Return a number, in whichever form the file has it; None for null. Raises RowError."""
    value = row.values.get(field)
    if value is None:
        return None
    try:
        found = float(value) if not isinstance(value, str) or row.textual else math.nan
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise RowError(field, describe(value), "a finite number")
    return found


def listed(row: Row, field: str) -> list[Any]:
    """Return a field that is a list; an absent or null one is empty. Raises RowError."""
    value = row.values.get(field)
    if value is None:
        return []
    if not isinstance(value, list):
        raise RowError(field, describe(value), "a list")
    return value


def member(field: str, item: Any, name: str) -> Any:
    """Return a member of an object inside a field. Raises RowError where the item is no object or lacks it."""
    if not isinstance(item, Mapping) or name not in item:
        raise RowError(field, describe(item), f"an object with {name!r}")
    return item[name]


def one_of(field: str, value: Any, known: Mapping[str, Known]) -> Known:
    """Return what a word stands for. Raises RowError for another word or another kind of value."""
    if not isinstance(value, str) or value not in known:
        raise RowError(field, describe(value), "one of " + ", ".join(known))
    return known[value]


def whole_conversations(row: Row) -> Iterator[Ordinary]:
    """Read chosen and rejected as whole conversations, whose prompt is what they have in common."""
    yield {"chosen": row.values["chosen"], "rejected": row.values["rejected"], **labelled(row, attribute="source")}


def labelled(row: Row, **names: str) -> dict[str, Any]:
    """Return labels that are texts in columns, by the role they play; others are left out."""
    found = {role: row.values.get(column) for role, column in names.items()}
    return {role: value for role, value in found.items() if isinstance(value, str) and value.strip()}
