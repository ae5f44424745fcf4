"""The table of a comparison as text: one row a system, the paper's own figures beneath ours where asked for."""

from __future__ import annotations

from typing import Any

from micropref.pipeline.comparison.compare import AVERAGE, Compared, ComparedRow
from micropref.pipeline.comparison.published import published
from micropref.pipeline.show.tables import show_rows

ROUTED = "micro"
"""The one system that learns from a budget; without its row, none was drawn from train."""


def show_compared(compared: Compared) -> str:
    """Return the protocol, the table, its intervals, and the rows that could not be had with their reasons."""
    counts = ", ".join(f"{group} {count:,}" for group, count in compared.scored.items())
    routed = any(row.system == ROUTED for row in compared.rows)
    budget = f", {compared.budget} with context from {compared.budget_from}" if routed else ""
    lines = [
        f"trained on {compared.data}, scored on {compared.scored_on} ({compared.split}): {counts} pairs of "
        f"{compared.prompts:,} prompts; {compared.seeds} seeds, features {compared.features}",
        f"K = {compared.k}; {compared.shots} labelled pairs for each attribute from {compared.shots_from}"
        f"{budget}; none of their prompts is scored",
        "",
        show_rows(_accuracies(compared)),
        "95 % intervals over prompts, and differences to the single reward on the same resampled prompts",
        show_rows(_interval(row) for row in compared.rows),
    ]
    lines += [f"{name}: left out, {reason}" for name, reason in compared.skipped.items()]
    lines += [f"{group}: not scored, it has {count} pairs" for group, count in compared.groups_left_out.items()]
    if compared.paper is not None:
        table = published(compared.paper)
        lines += ["", f"paper: {table.title}", *(f"  {line}" for line in table.protocol)]
        lines += [f"  the paper disagrees with itself: {line}" for line in table.disagreements]
    return "\n".join(lines) + "\n"


def _accuracies(compared: Compared) -> list[dict[str, Any]]:
    """Return mean ± deviation over seeds on each attribute, under each row the paper's figures if it has any."""
    columns = [*compared.scored, AVERAGE]
    rows: list[dict[str, Any]] = []
    for row in compared.rows:
        shown = {name: _with_deviation(row.accuracy[name], row.deviation[name]) for name in columns}
        rows.append({"system": row.title, "learns from": row.supervision, **shown})
        if compared.paper is None:
            continue
        table = published(compared.paper)
        theirs = {name: table.value(row.system, name) for name in columns}
        if any(value is not None for value in theirs.values()):
            printed = {name: "" if value is None else f"{value:.4f}" for name, value in theirs.items()}
            rows.append({"system": "  paper", "learns from": "", **printed})
    return rows


def _with_deviation(accuracy: float, deviation: float | None) -> str:
    return f"{accuracy:.4f}" if deviation is None else f"{accuracy:.4f} ± {deviation:.4f}"


def _interval(row: ComparedRow) -> dict[str, Any]:
    return {
        "system": row.title,
        "average": row.accuracy[AVERAGE],
        "low": row.low[AVERAGE],
        "high": row.high[AVERAGE],
        "Δ vs. single": row.difference[AVERAGE],
        "from": row.difference_low[AVERAGE],
        "to": row.difference_high[AVERAGE],
        "seconds": round(row.seconds, 1),
    }
