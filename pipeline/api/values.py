"""Typed values of the API in the form that the stages take."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

from micropref.cache.errors import BadInput
from micropref.pipeline.api.run import Run

UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12}


def run_id(run: str | Run) -> str:
    """Return the name of a run that is given by name or as it is."""
    return run.id if isinstance(run, Run) else run


def several(value: Any) -> list[Any]:
    """Return one value or several as a list."""
    return [value] if isinstance(value, int | float | str) else list(value)


def words(value: str | Sequence[str]) -> list[str]:
    """Return words given as one text or as several."""
    return [word.strip() for word in value.split(",")] if isinstance(value, str) else list(value)


def size(memory: str | int | None) -> int | None:
    """Return bytes given as such, or as a text such as 6GB. Raises BadInput for other texts, and for nothing."""
    if memory is None:
        return None
    if isinstance(memory, str):
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([MGT]B)", memory.strip().upper())
        count = int(float(found[1]) * UNITS[found[2]]) if found else 0
    else:
        count = memory
    if count <= 0:
        raise BadInput(f"memory is {memory!r}: expected bytes, or a size such as 6GB or 800MB")
    return count


def changed(method: Callable[..., Any], values: dict[str, Any]) -> list[str]:
    """Return the arguments of a method whose values differ from their defaults."""
    parameters = inspect.signature(method).parameters.values()
    optional = [one for one in parameters if one.default is not inspect.Parameter.empty]
    return [one.name for one in optional if values[one.name] != one.default]
