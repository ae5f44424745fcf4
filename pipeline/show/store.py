"""What a store holds as text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from micropref.pipeline.show.figures import counted
from micropref.pipeline.show.lines import next_step, paragraphs
from micropref.pipeline.show.tables import show_rows, start_of

if TYPE_CHECKING:  # the commands that list and verify have no need of torch
    from micropref.cache.maintenance.gc import Collection
    from micropref.cache.maintenance.listing import Listing
    from micropref.cache.maintenance.verify import Verification


def show_listing(listing: Listing, store: Path | None = None) -> str:
    """Return three tables, and what to do where something is still missing."""
    several = len(listing.features) > 1
    named, noted = any(row["names"] for row in listing.runs), any(row["note"] for row in listing.runs)
    runs = [_run(row, several=several, named=named, noted=noted) for row in listing.runs]
    tables = (
        ("features", [_features(row) for row in listing.features], 1),
        ("data sets", [_source(row) for row in listing.datasets], 2),
        ("runs", runs, 1),
    )
    blocks = [f"{title}\n{show_rows(rows, keys)}" if rows else f"{title}: none yet\n" for title, rows, keys in tables]
    there = {row["data"] for row in listing.datasets}
    lacking = [row for row in listing.runs if row["data_changed"] and row["data"] not in there]
    gone = [row["run"] for row in lacking if row["came_from"] is None]
    if came := [row["run"] for row in lacking if row["came_from"] is not None]:
        blocks.append(paragraphs([f"these came from elsewhere, without their data: {', '.join(came)}"]))
    if gone:
        blocks.append(paragraphs([f"their data set is gone: {', '.join(gone)}; embed its sources again to use them"]))
    changed = [row["run"] for row in listing.runs if row["data_changed"] and row["data"] in there]
    if changed:
        blocks.append(paragraphs([f"training data changed since: {', '.join(changed)}; train again to use it"]))
    damaged = [row["damage"] for row in listing.runs if row["damage"]] + listing.damaged_names
    if damaged:
        blocks.append(paragraphs(damaged))
    if not listing.datasets:
        blocks.append(next_step("embed", "pairs.jsonl", "--name", "mine", store=store))
    elif not listing.runs:
        blocks.append(next_step("train", listing.datasets[0]["data"], store=store))
    return "\n".join(blocks)


def _features(row: dict[str, Any]) -> dict[str, Any]:
    shown = {name: value for name, value in row.items() if name != "bytes"}
    return shown | {
        "width": str(row["width"]),
        "max_length": "" if row["max_length"] is None else str(row["max_length"]),
        "MB": f"{row['bytes'] / 1e6:,.1f}",
    }


def _source(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "data": row["data"],
        "split": row["split"],
        "pairs": row["pairs"],
        "limit": "" if row["limit"] is None else f"{row['limit']:,}",
        "rows": str(row["rows"]),
        "features": " ".join(row["features"]),
        "source": row["source"],
    }


def _run(row: dict[str, Any], *, several: bool, named: bool, noted: bool) -> dict[str, Any]:
    """Return a run without its method, which its id starts with, and without what no run or every run has alike.

    Features are shown where there are several, names and notes where a run has any.
    """
    features = {"features": row["features"] or ""} if several else {}
    names = {"names": ", ".join(row["names"])} if named else {}
    note = {"note": start_of(row["note"] or "")} if noted else {}
    return {
        "run": row["run"],
        **names,
        "data": row["data"] or "",
        **features,
        "K": row["k"],
        "λ": "" if row["lam"] is None else f"{row['lam']:g}",
        "NLL": row["validation_nll"],
        "accuracy": row["validation_accuracy"],
        "created": "" if row["created"] is None else row["created"][:16].replace("T", " "),
        **note,
    }


def show_verification(found: Verification) -> str:
    """Return every problem, then what was checked."""
    counts = (
        f"{counted(found.files, 'file')}, {counted(found.vectors, 'vector')}, {found.duplicate_vectors:,} stored twice"
    )
    return "".join(f"{problem}\n" for problem in found.problems) + paragraphs([counts])  # a problem is a line to search


def show_collection(gone: Collection, *, dry_run: bool) -> str:
    """Return what was removed, or would be."""
    what = f"{counted(gone.vectors, 'vector')} in {counted(gone.shards, 'shard')} and {counted(gone.files, 'file')}"
    return paragraphs([f"{'would remove' if dry_run else 'removed'} {what}: {gone.bytes / 1e6:,.1f} MB"])
