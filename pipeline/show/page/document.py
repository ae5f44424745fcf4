"""A page as one HTML file that asks for nothing: no request, no style or script but its own.

Jinja2 escapes every value. A content security policy, which names script and style by their hash, keeps the page from
running or loading anything else even if a text got past that.
"""

from __future__ import annotations

import base64
import hashlib
import math
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from micropref.pipeline.show.page import drawing
from micropref.pipeline.show.page.colours import LINES, style_sheet
from micropref.pipeline.show.page.figures import Figure, Numbers, Page
from micropref.pipeline.show.page.texts import json_in_page, shown, visible

GENERATOR = "micropref"
"""Says in a file that it is a page, which a new one may replace."""


def render_page(page: Page) -> str:
    """Return a page as HTML."""
    style, script = _style(), _source("page.js")
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    ours = {"style": Markup(style), "script": Markup(script)}  # noqa: S704 - files of this package
    return _environment().get_template("page.html").render(page=page, policy=policy, generator=GENERATOR, **ours)


def render_figures(page: Page) -> str:
    """Return a page's first lines and figures, for a notebook: their styles with them, and no script."""
    figures = [part for section in page.sections for part in section.parts if isinstance(part, Figure)]
    template = _environment().get_template("fragment.html")
    return template.render(page=page, figures=figures, style=Markup(_scoped()))  # noqa: S704 - a file of this package


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _source(name: str) -> str:
    return (files("micropref.pipeline.show.page") / "templates" / name).read_text(encoding="utf-8")


@cache
def _scoped() -> str:
    """Return the styles for a part of somebody else's page, which they leave as it is."""
    return "@scope (.micropref){" + _style().replace(":root", ":scope") + "}"


@cache
def _style() -> str:
    light, dark = style_sheet("light"), style_sheet("dark")
    return f"{light}@media screen and (prefers-color-scheme:dark){{{dark}}}{_source('page.css')}"


@cache
def _environment() -> jinja2.Environment:
    loader = jinja2.FunctionLoader(_source)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=_finalize,
    )  # fmt: skip
    environment.filters |= {"shown": shown, "json": _json, "numbers": _numbers}
    environment.globals |= {
        "draw": drawing.draw,
        "strip": drawing.strip,
        "strip_ticks": drawing.strip_ticks,
        "strip_axis": drawing.strip_axis,
        "sizes": {
            name: getattr(drawing, name)
            for name in ("STRIP", "STRIP_HEIGHT", "LEFT", "RIGHT", "TOP", "WIDTH", "HEIGHT", "LEGEND")
        },
        "mark_path": drawing.mark_path,
        "lines": LINES,
    }
    return environment


def _finalize(value: Any) -> Any:
    """Make hidden characters of every text visible, whatever template writes it."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _json(value: Any) -> Markup:
    return Markup(json_in_page(_as_data(value)))  # noqa: S704 - nothing in it can end the element


def _numbers(numbers: Numbers) -> Markup:
    return _json({"columns": numbers.columns, "rows": numbers.rows})


def _as_data(value: Any) -> Any:
    """Return a value as the page's data has it: texts visible as elsewhere, numbers in as many digits as are read."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, float):
        return float(f"{value:.8g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _as_data(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_as_data(inner) for inner in value]
    return value
