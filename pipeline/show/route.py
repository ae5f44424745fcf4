"""What routing gained, as text."""

from __future__ import annotations

from pathlib import Path

from micropref.pipeline.routing.route import Routed
from micropref.pipeline.show.figures import accuracy, counted, few_clusters, gain_with_interval, over, with_interval
from micropref.pipeline.show.lines import next_evaluation, paragraphs
from micropref.pipeline.show.tables import show_rows


def show_routed(routed: Routed, store: Path | None = None) -> str:
    """Return the new run, then accuracy and gain for each size of the budget, in all and by attribute."""
    rows = [
        {
            "budget": row["budget"],
            "tau": "" if row["tau"] is None else f"{row['tau']:g}",
            "accuracy (95 %)": with_interval(row["accuracy"], row["low"], row["high"]),
            "gain (95 %)": gain_with_interval(row["gain"], row["gain_low"], row["gain_high"]) if row["budget"] else "",
        }
        for row in routed.totals.iter_rows(named=True)
    ]
    by_attribute = [
        {
            "attribute": row["attribute"] or "",
            "budget": row["budget"],
            "pairs": row["n"],
            "accuracy (95 %)": with_interval(row["accuracy"], row["low"], row["high"]),
        }
        for row in routed.budget_curve.iter_rows(named=True)
    ]
    last = routed.totals.row(-1, named=True)
    missing = f", {routed.without_context:,} of them without a context" if routed.without_context else ""
    lines = [
        f"run {routed.run}: the heads of {routed.parent}, router re-fitted on {routed.data}/{routed.drawn_from}, "
        f"{counted(last['budget'], 'pair')} for each of {counted(len(routed.groups), routed.by)}",
        f"{routed.pairs:,} {routed.split} pairs scored at every budget{missing}; none has a prompt of the budget",
        f"oracle, the frozen head best on these pairs for each attribute: {accuracy(routed.oracle)}",
        f"95 % intervals over {over(routed.clusters)}",
        *few_clusters(routed.clusters),
    ]
    if last["tau"] is None:
        lines.append("the router was left as it is: no temperature did clearly better on what was held out")
    ending = next_evaluation(routed.run, [routed.split], store)
    return f"{paragraphs(lines)}\n{show_rows(rows)}\n{show_rows(by_attribute, keys=2)}\n{ending}"
