"""Typed values of the API in the form that the stages take."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from micropref.pipeline.api.run import Run


def run_id(run: str | Run) -> str:
    """Return the name of a run that is given by name or as it is."""
    return run.id if isinstance(run, Run) else run


def several(value: Any) -> list[Any]:
    """Return one value or several as a list."""
    return [value] if isinstance(value, int | float | str) else list(value)


def words(value: str | Sequence[str]) -> list[str]:
    """Return words given as one text or as several."""
    return [word.strip() for word in value.split(",")] if isinstance(value, str) else list(value)


def size(memory: str | int | None) -> str | None:
    """Return a size as the option `--memory` has it."""
    return f"{memory / 10**6}MB" if isinstance(memory, int) else memory


def changed(method: Callable[..., Any], values: dict[str, Any]) -> list[str]:
    """Return the arguments of a method whose values differ from their defaults."""
    parameters = inspect.signature(method).parameters.values()
    optional = [one for one in parameters if one.default is not inspect.Parameter.empty]
    return [one.name for one in optional if values[one.name] != one.default]
