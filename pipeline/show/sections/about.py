"""What was run and on what: settings, data, features, provenance, versions, machine."""

from __future__ import annotations

from typing import Any

from micropref.pipeline.evaluation.reporting.run_report import RunReport
from micropref.pipeline.show.entries import as_text
from micropref.pipeline.show.page.figures import Figure, Numbers, PlainTable, Section
from micropref.pipeline.show.page.texts import visible


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
    figure = Figure(
        f"{prefix}record",
        "Record",
        "Every setting and figure of the run, as micropref show prints it.",
        PlainTable(("of", "what", "value"), rows),
        Numbers(("of", "what", "value"), rows),
    )
    return Section(f"{prefix}about", title, (), (figure,))


def warnings_of(run: RunReport) -> list[str]:
    """Return what a reader should know before the figures."""
    from micropref.pipeline.show.figures import about_scale, few_clusters

    record, found = run.run.record, []
    changed = run.about.sections["data"].get("now")
    if changed != "as it was":
        found.append(f"the data it was trained on is {changed}")
    for name, what in (("dead_heads", "have next to no weight"), ("duplicate_heads", "are nearly the same")):
        if record.get(name):
            found.append(f"heads {as_text(record[name])} {what}")
    found += about_scale(record)
    found += [line.removeprefix("warning: ") for line in few_clusters(run.accuracy.clusters)]
    return found
