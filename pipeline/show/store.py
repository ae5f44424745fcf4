"""What a store holds as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the commands that list and verify have no need of torch
    from micropref.cache.maintenance.listing import Listing
from micropref.pipeline.show.tables import show_rows, start_of


def show_listing(listing: Listing) -> str:
    """Return three tables, or what to do where there is nothing."""
    blocks, named, noted = [], any(row["names"] for row in listing.runs), any(row["note"] for row in listing.runs)
    runs = [_shown_run(row, named=named, noted=noted) for row in listing.runs]
    for title, rows in (("features", listing.features), ("data sets", listing.datasets), ("runs", runs)):
        blocks.append(f"{title}\n{show_rows(rows)}" if rows else f"{title}: none yet\n")
    damage = [row["damage"] for row in listing.runs if row["damage"]] + listing.damaged_names
    return "\n".join([*blocks, *(f"{line}\n" for line in damage)])


def _shown_run(row: dict[str, Any], *, named: bool, noted: bool) -> dict[str, Any]:
    """Return a run's row as it is shown: with names and the start of the note where any run has one."""
    shown = {name: value for name, value in row.items() if name not in ("names", "note", "damage")}
    if named:
        shown = {"run": shown.pop("run"), "names": ", ".join(row["names"]), **shown}
    return {**shown, "note": start_of(row["note"] or "")} if noted else shown
