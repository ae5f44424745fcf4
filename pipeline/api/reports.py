"""Reports as a notebook shows them: the dataclass that a stage returns, with the command's text as its repr."""

from __future__ import annotations

import html
from dataclasses import fields
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Report = TypeVar("_Report", bound="DataclassInstance")


def readable(report: _Report, text: str) -> _Report:
    """Return the same report, of a subclass of its class, that reads as `text` in a terminal and in a notebook."""
    shown: _Report = _readable_class(type(report))(
        **{field.name: getattr(report, field.name) for field in fields(report)}
    )
    object.__setattr__(shown, "_text", text.rstrip("\n"))
    return shown


@cache
def _readable_class(kind: type[Any]) -> type[Any]:
    def text(self: Any) -> str:
        return str(self._text)

    def as_html(self: Any) -> str:
        return f"<pre>{html.escape(self._text)}</pre>"

    members = {"__repr__": text, "_repr_html_": as_html, "__module__": kind.__module__, "__doc__": kind.__doc__}
    return type(kind.__name__, (kind,), members)
