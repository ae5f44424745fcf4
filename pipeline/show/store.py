"""What a store holds as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the commands that list and verify have no need of torch
    from micropref.cache.maintenance.listing import Listing
from micropref.pipeline.show.tables import show_rows


def show_listing(listing: Listing) -> str:
    """Return three tables, or what to do where there is nothing."""
    blocks = []
    for title, rows in (("features", listing.features), ("data sets", listing.datasets), ("runs", listing.runs)):
        shown = [{name: value for name, value in row.items() if name != "damage"} for row in rows]
        blocks.append(f"{title}\n{show_rows(shown)}" if rows else f"{title}: none yet\n")
    blocks += [f"{row['damage']}\n" for row in listing.runs if row["damage"]]
    return "\n".join(blocks)
