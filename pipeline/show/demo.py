"""The demo's comparison as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the commands that list and verify have no need of torch
    from micropref.pipeline.demo.demo import Demo
from micropref.pipeline.show.tables import show_rows


def show_demo(demo: Demo) -> str:
    """Return the comparison, three queries to try, and what the first returns."""
    queries = "\n".join(f'  micropref sql "{query}"' for query in demo.queries)
    return f"\n{show_rows(demo.rows)}\nTry:\n{queries}\n\nThe first of them:\n{demo.answer}"
