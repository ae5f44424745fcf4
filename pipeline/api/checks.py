"""Arguments of the Python API are checked against their annotations, so that a wrong one is named at once."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from micropref.cache.errors import BadInput
from micropref.pipeline.command_options import resolved_parameters

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "True or False",
    Path: "a path",
}


def checked(method: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Return a method that raises BadInput naming an argument whose value its annotation does not allow.

    Example: `train("mine", prior="x")` raises "prior is 'x': expected one of example, batch".
    """

    @functools.wraps(method)
    def call(*given: _Arguments.args, **named: _Arguments.kwargs) -> _Result:
        values = inspect.signature(method).bind(*given, **named).arguments
        for name, parameter in resolved_parameters(method).items():
            if name in values and not _allows(parameter.annotation, values[name]):
                wanted = _wanted(parameter.annotation)
                raise BadInput(f"{name} is {values[name]!r}: expected {wanted}")
        return method(*given, **named)

    return call


def _allows(hint: Any, value: Any) -> bool:
    """Say whether an annotation allows a value; numbers of NumPy count as numbers, and anything of an unknown type."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(_allows(one, value) for one in get_args(hint))
    if origin is Literal:
        return value in get_args(hint)
    if origin is not None:
        return _allows_all(origin, get_args(hint)[0], value)
    if hint in (int, float):
        return isinstance(value, Integral if hint is int else Real) and not isinstance(value, bool)
    return hint is Any or not isinstance(hint, type) or isinstance(value, hint)


def _allows_all(origin: type, kind: Any, value: Any) -> bool:
    if issubclass(origin, Mapping):
        return isinstance(value, Mapping)
    return isinstance(value, Iterable) and not isinstance(value, str) and all(_allows(kind, one) for one in value)


def _wanted(hint: Any) -> str:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_wanted(one) for one in get_args(hint)))
    if origin is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if origin is not None:
        return "a dict" if issubclass(origin, Mapping) else f"a list, each {_wanted(get_args(hint)[0])}"
    return "None" if hint is type(None) else _WORDS.get(hint, getattr(hint, "__name__", str(hint)))
