"""What was run and on what: settings, data, features, provenance, versions, machine."""

from __future__ import annotations

from typing import Any

from micropref.pipeline.evaluation.reporting.run_report import RunReport
from micropref.pipeline.show.entries import as_text
from micropref.pipeline.show.figures import about_scale, few_clusters
from micropref.pipeline.show.page.figures import Figure, Numbers, PlainTable, Section
from micropref.pipeline.show.page.texts import visible
from micropref.pipeline.show.sections.values import numbers_of
from micropref.pipeline.show.train import HALF


def about_section(run: RunReport, prefix: str, title: str) -> Section:
    """Return all that is known of how a run came to be."""
    about = run.about
    first: dict[str, Any] = {
        "run": about.run, "names": ", ".join(about.names), "note": about.note, "method": about.method,
        "derives from": about.parent, "derived from it": ", ".join(about.derived), "people": about.people or None,
    }  # fmt: skip
    blocks = {"run": first, **about.sections}
    rows = tuple(
        (block, name, visible(as_text(value)))
        for block, entries in blocks.items()
        for name, value in entries.items()
        if value not in (None, "", [], {})
    )
    record = Figure(
        f"{prefix}record",
        "Record",
        "Every setting and figure of the run, as micropref show prints it.",
        PlainTable(("of", "what", "value"), rows),
        Numbers(("of", "what", "value"), rows),
    )
    return Section(f"{prefix}about", title, (), (_data(run, prefix), record))


def _data(run: RunReport, prefix: str) -> Figure:
    rows = tuple(tuple(f"{value:,}" if isinstance(value, int) else value for value in row) for row in run.data.rows())
    return Figure(
        f"{prefix}data",
        f"Data set {run.tables.data}",
        f"Every source of each split. The figures of this page are of {run.tables.data}/{run.tables.split}: "
        f"{run.tables.pairs:,} pairs have scores.",
        PlainTable(tuple(run.data.columns), rows, frozenset(range(2, len(run.data.columns)))),
        numbers_of(run.data),
    )


def warnings_of(run: RunReport) -> list[str]:
    """Return what a reader should know before the figures."""
    record, found = run.run.record, []
    changed = run.about.sections["data"].get("now")
    if changed != "as it was":
        found.append(f"the data it was trained on is {changed}")
    found += about_scale(record)
    if record.get("dead_heads"):
        found.append(f"dead heads, next to no weight anywhere: {', '.join(map(str, record['dead_heads']))}")
    for first, second, correlation in record.get("duplicate_heads") or ():
        found.append(f"heads {first} and {second} predict alike (correlation {correlation:.3f})")
    epochs = record["settings"].get("epochs")
    if record.get("best_epoch") is not None and record["best_epoch"] == epochs:
        found.append(f"validation NLL still fell in the last of {epochs} epochs: more may be better")
    share = record.get("restarts_agreeing")
    if share is not None and share < HALF:
        found.append(
            f"{share:.0%} of the other restarts found the same groups: do not read much into what a single head "
            "stands for"
        )
    found += [line.removeprefix("warning: ") for line in few_clusters(run.accuracy.clusters)]
    return found
