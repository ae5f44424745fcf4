"""The demo's comparison as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from micropref.pipeline.show.figures import few_clusters, over, with_interval
from micropref.pipeline.show.lines import folded_query, paragraphs
from micropref.pipeline.show.tables import show_rows

if TYPE_CHECKING:  # the commands that list and verify have no need of torch
    from micropref.pipeline.demo.demo import Demo


def show_demo(demo: Demo) -> str:
    """Return the comparison, three queries to try, and what the first returns."""
    rows: list[dict[str, Any]] = [dict(row) for row in demo.rows]
    whole = [
        {
            "held-out prompts": row.pop("held-out prompts"),
            "accuracy (95 %)": with_interval(row.pop("accuracy"), row.pop("low"), row.pop("high")),
        }
        for row in rows
    ]
    by_group = [{"accuracy by group": total["held-out prompts"], **row} for total, row in zip(whole, rows, strict=True)]
    queries = "\n".join(folded_query(query) for query in demo.queries)
    about = paragraphs([f"intervals over {over(demo.clusters)}", *few_clusters(demo.clusters)])
    return f"\n{show_rows(whole)}{about}\n{show_rows(by_group)}\nTry:\n{queries}\n\nThe first of them:\n{demo.answer}"
