"""Reports as a notebook shows them: the dataclass that a stage returns, with the command's text as its repr.

Some have figures as well, which a notebook shows instead.
"""

from __future__ import annotations

import html
from dataclasses import fields
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from micropref.pipeline.show.page.figures import Page

_Report = TypeVar("_Report", bound="DataclassInstance")


def readable(report: _Report, text: str, page: Page | None = None) -> _Report:
    """Return the same report, of a subclass of its class, that reads as `text` in a terminal and in a notebook.

    A notebook shows the figures of its page, where it has one.
    """
    shown: _Report = _readable_class(type(report))(
        **{field.name: getattr(report, field.name) for field in fields(report)}
    )
    object.__setattr__(shown, "_text", text.rstrip("\n"))
    object.__setattr__(shown, "_page", page)
    return shown


@cache
def _readable_class(kind: type[Any]) -> type[Any]:
    def text(self: Any) -> str:
        return str(self._text)

    def as_html(self: Any) -> str:
        if self._page is None:
            return f"<pre>{html.escape(self._text)}</pre>"
        from micropref.pipeline.show.page.document import render_figures

        return render_figures(self._page)

    members = {"__repr__": text, "_repr_html_": as_html, "__module__": kind.__module__, "__doc__": kind.__doc__}
    return type(kind.__name__, (kind,), members)
