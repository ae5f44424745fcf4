"""The table of a comparison as text: one row a method, the paper's own figures beneath ours where asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from micropref.heads.methods.registry import methods
from micropref.pipeline.comparison.compare import AVERAGE, Compared, ComparedRow
from micropref.pipeline.comparison.published import LABEL, published
from micropref.pipeline.show.figures import (
    accuracy,
    counted,
    few_clusters,
    gain_with_interval,
    over,
    with_error,
    with_interval,
)
from micropref.pipeline.show.lines import next_step, paragraph, paragraphs
from micropref.pipeline.show.tables import show_rows
from micropref.pipeline.training.method_options import accepted_options

FALSE_ALARMS = 0.05
"""How often at most a table may mark any difference where there is none."""
ROUTED = ("micro", "micro-example")
"""The rows that learn from a budget; without them, none was drawn from train."""


def show_compared(compared: Compared, store: Path | None = None) -> str:
    """Return the protocol, the table, its intervals, and the rows that could not be had with their reasons."""
    tables = [
        "accuracy by attribute, mean ± standard deviation over seeds"
        if compared.seeds > 1
        else "accuracy by attribute",
        show_rows(accuracy_rows(compared)),
        paragraph(
            f"95 % intervals over {over(compared.clusters)}, and paired differences to the single reward; each "
            "interval is for itself; * marks differences that hold at 5 % when all rows are judged together (Holm)"
        ),
        show_rows(_interval(row) for row in compared.rows),
        *_sections(compared),
    ]
    about, notes = paragraphs(compared_lines(compared)), paragraphs([*compared_notes(compared), *_paper(compared)])
    return about + "\n" + "\n".join(tables) + notes + _next(compared, store)


def compared_lines(compared: Compared) -> list[str]:
    """Return what was fitted on what, and what is scored."""
    counts = ", ".join(f"{group} {count:,}" for group, count in compared.scored.items())
    routed = any(row.system in ROUTED for row in compared.rows)
    strength = "" if compared.lam is None else f", λ = {compared.lam:g}"
    budget = f", {compared.budget} with context from {compared.budget_from}" if routed else ""
    return [
        f"trained on {compared.data}, scored on {compared.scored_on} ({compared.split}): {counts} pairs of "
        f"{compared.prompts:,} prompts; {counted(compared.seeds, 'seed')}, features {compared.features}",
        f"K = {compared.k}{strength}; {compared.shots} labelled pairs for each attribute from {compared.shots_from}"
        f"{budget}; none of their prompts is scored",
    ]


def compared_notes(compared: Compared) -> list[str]:
    """Return warnings, and what is left out and why."""
    notes = [f"warning: {line}" for line in compared.warnings]
    notes += few_clusters(compared.clusters)
    notes += [f"{name}: left out, {reason}" for name, reason in compared.skipped.items()]
    return notes + [
        f"{group}: not scored, it has {counted(count, 'pair')}" for group, count in compared.groups_left_out.items()
    ]


def _paper(compared: Compared) -> list[str]:
    """Return how the paper did it, and where it disagrees with itself."""
    if compared.paper is None:
        return []
    table = published(compared.paper)
    disagreements = [f"  the paper disagrees with itself: {line}" for line in table.disagreements]
    return ["", f"paper: {table.title}", *(f"  {line}" for line in table.protocol), *disagreements]


def _next(compared: Compared, store: Path | None) -> str:
    """Return how to train the best of the methods that `train` fits as they are."""
    fits = [row for row in compared.rows if row.system in methods()]
    best = max(fits, key=lambda row: row.accuracy[AVERAGE])
    heads = ("--k", str(compared.k)) if "k" in accepted_options(best.system) else ()
    return "\n" + next_step("train", compared.data, "--method", best.system, *heads, store=store)


def accuracy_rows(compared: Compared) -> list[dict[str, Any]]:
    """Return mean ± deviation over seeds on each attribute, under each row the paper's figures if it has any."""
    columns = [*compared.scored, AVERAGE]
    rows: list[dict[str, Any]] = []
    for row in compared.rows:
        shown = {name: with_error(row.accuracy[name], row.deviation[name]) for name in columns}
        rows.append({"method": row.title, "learns from": row.supervision, **shown})
        if compared.paper is None:
            continue
        table = published(compared.paper)
        theirs = {name: table.value(row.system, name) for name in columns}
        if any(value is not None for value in theirs.values()):
            printed = {name: "" if value is None else accuracy(value) for name, value in theirs.items()}
            rows.append({"method": f"  {LABEL}", "learns from": "", **printed})
    for head in compared.published_heads:
        printed = {name: accuracy(head.accuracy[name]) if name in head.accuracy else "" for name in columns}
        rows.append({"method": f"{head.title} ({LABEL})", "learns from": head.source, **printed})
    return rows


def _sections(compared: Compared) -> list[str]:
    """Return RewardBench's table where attributes are its subsets, under each row the paper's figures if it has any."""
    if not compared.rows[0].sections:
        return []
    table = published("rewardbench")
    rows: list[dict[str, str]] = []
    for row in compared.rows:
        rows.append({"method": row.title, **{name: accuracy(value) for name, value in row.sections.items()}})
        theirs = {name: table.value(row.system, name) for name in row.sections}
        if compared.paper == "rewardbench" and any(value is not None for value in theirs.values()):
            printed = {name: "" if value is None else accuracy(value) for name, value in theirs.items()}
            rows.append({"method": f"  {LABEL}", **printed})
    return [
        "\n" + paragraph("RewardBench: subsets weighed by the official counts in each section, ties are wrong"),
        show_rows(rows),
    ]


def _interval(row: ComparedRow) -> dict[str, Any]:
    difference = (row.difference[AVERAGE], row.difference_low[AVERAGE], row.difference_high[AVERAGE])
    return {
        "method": row.title,
        "average (95 %)": with_interval(row.accuracy[AVERAGE], row.low[AVERAGE], row.high[AVERAGE]),
        "Δ vs. single (95 %)": gain_with_interval(*difference) + (" *" if row.difference_p <= FALSE_ALARMS else "  "),
        "NLL": accuracy(row.nll),
        "scale": f"{row.scale:.2f}",
        "seconds": f"{row.seconds:,.1f}",
    }
