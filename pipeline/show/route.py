"""What routing gained, as text."""

from __future__ import annotations

import polars as pl

from micropref.cache.sql.render import render
from micropref.pipeline.routing.route import Routed
from micropref.pipeline.show.tables import interval, show_rows


def show_routed(routed: Routed) -> str:
    """Return the new run, then accuracy and gain for each size of the budget, in all and by attribute."""
    rows = [
        {
            "budget": row["budget"],
            "tau": row["tau"],
            "accuracy": row["accuracy"],
            "95 %": f"{row['low']:.3f}-{row['high']:.3f}",
            "gain": f"{row['gain']:+.4f}" if row["budget"] else "",
            "95 % gain": f"{row['gain_low']:+.4f} to {row['gain_high']:+.4f}" if row["budget"] else "",
        }
        for row in routed.totals.iter_rows(named=True)
    ]
    missing = f", {routed.without_context:,} of them read by their prompt alone" if routed.without_context else ""
    lines = [
        f"run {routed.run}: the heads of {routed.parent}, router re-fitted on {routed.data}/{routed.drawn_from}, "
        f"{rows[-1]['budget']} pairs for each of {len(routed.groups)} {routed.by}s",
        f"{routed.pairs:,} {routed.split} pairs scored at every budget{missing}; none has a prompt of the budget",
        f"oracle, the frozen head best on these pairs for each attribute: {routed.oracle:.4f}",
    ]
    if rows[-1]["tau"] is None:
        lines.append("the router was left as it is: no temperature did better on pairs held out of the budget")
    by_attribute = routed.budget_curve.select("attribute", "budget", "n", "accuracy", interval("95 %"))
    by_attribute = by_attribute.with_columns(pl.col("accuracy").round(4))
    return "\n".join(lines) + "\n\n" + show_rows(rows) + "\n" + render(by_attribute.to_arrow(), "table")
