"""Which head is good at which attribute, and what the mixture adds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl

from micropref.pipeline.evaluation.reporting.run_report import RunReport
from micropref.pipeline.show.figures import over, with_interval
from micropref.pipeline.show.page.colours import step_of
from micropref.pipeline.show.page.figures import Cell, Figure, HeatTable, IntervalRow, IntervalTable, Section
from micropref.pipeline.show.page.texts import shown
from micropref.pipeline.show.sections.values import bounds, by_attribute, gain_row, interval_row, named, numbers_of

LEAST_SPAN = 0.1
"""Accuracies this far from one half have the strongest colour at least, so that noise stays pale."""
Row = dict[str, Any]


def accuracy_section(run: RunReport, prefix: str, title: str, told: frozenset[str] = frozenset()) -> Section:
    """Return every head on every attribute, the best head and the mixture, and the gain over single rewards.

    `told` are runs that this one is compared with already.
    """
    parts = [_heat(run, prefix)]
    if run.heads > 1:
        parts.append(_best_heads(run, prefix))
    if run.contexts.height > 1:
        parts.append(_by_context(run, prefix))
    if not set(run.tables.mixture_vs_single["reference"]) <= told:
        parts.append(_over_single(run, prefix))
    return Section(f"{prefix}accuracy", title, (), tuple(parts))


def _rows(run: RunReport) -> Iterator[tuple[str, Row]]:
    """Yield the label of each row of mixture accuracies and the row."""
    table = run.tables.mixture_accuracy
    several = table["part"].n_unique() > 1
    for row in table.iter_rows(named=True):
        yield named(row["attribute"]) + (f" ({row['part']})" if several else ""), row


def _heat(run: RunReport, prefix: str) -> Figure:
    heads = run.tables.head_accuracy
    by_key = {(row["part"], row["attribute"], row["head"]): row for row in heads.iter_rows(named=True)}
    span = max(LEAST_SPAN, *(abs(value - 0.5) for value in heads["accuracy"].to_list()))
    validated = chosen_heads(run, "validation")
    chosen = validated or chosen_heads(run, "oracle")
    rows = []
    for label, row in _rows(run):
        cells = [_cell(by_key[row["part"], row["attribute"], head], span) for head in range(run.heads)]
        if run.heads > 1:
            best = chosen.get(row["attribute"])
            cells += [_cell(row, span), Cell("" if best is None else f"head {best}")]
        rows.append((f"{label}, {row['n']:,} pairs", tuple(cells)))
    by = "validation pairs" if validated else "these pairs themselves (an oracle's choice)"
    more = ("mixture", "best head") if run.heads > 1 else ()
    columns = (*(f"head {head}" for head in range(run.heads)), *more)
    caption = (
        "Share of pairs whose chosen response the head prefers, below it the 95 % interval over "
        f"{over(run.accuracy.clusters)}. Blue is above one half, orange below; ±{span:.2f} has the strongest colour."
        + (f" The best head of an attribute is chosen on {by}." if run.heads > 1 else "")
    )
    notes = () if run.heads > 1 else ("The run has one head, which is its prediction.",)
    return Figure(
        f"{prefix}heads-attributes",
        "Accuracy of heads by attribute",
        caption,
        HeatTable("attribute", columns, tuple(rows)),
        numbers_of(heads),
        notes,
    )


def chosen_heads(run: RunReport, by: str) -> dict[str | None, int]:
    """Return the best head of each attribute, chosen on validation pairs or by the oracle."""
    rows = run.tables.best_head.filter(pl.col("chosen_on") == by)
    return {row["attribute"]: row["head"] for row in rows.iter_rows(named=True)}


def _cell(row: Row, span: float) -> Cell:
    interval = "" if row["low"] is None else f"{row['low']:.2f}-{row['high']:.2f}"
    return Cell(f"{row['accuracy']:.3f}", interval, step_of(row["accuracy"], 0.5 - span, 0.5 + span))


def _best_heads(run: RunReport, prefix: str) -> Figure:
    """Return mixture and best heads with intervals: Figure 2 of the paper, with ours."""
    names = {"validation": "best head, chosen on validation", "oracle": "oracle: best head on these pairs"}
    best = {(row["attribute"], row["chosen_on"]): row for row in run.tables.best_head.iter_rows(named=True)}
    groups = []
    for label, row in _rows(run):
        lines = [interval_row("mixture", row, 0)]
        for series, (chosen_on, title) in enumerate(names.items(), 1):
            if found := best.get((row["attribute"], chosen_on)):
                lines.append(interval_row(f"{title} (head {found['head']})", found, series))
        groups.append((f"{label}, {row['n']:,} pairs", tuple(lines)))
    return Figure(
        f"{prefix}best-heads",
        "Mixture and best heads",
        "Accuracy with 95 % intervals. The oracle knows the labels of the pairs it is judged on: an upper bound of "
        "what one head reaches, which cannot be had in use. Figure 2 of the MiCRo paper shows best heads by attribute.",
        IntervalTable("prediction", "accuracy", tuple(groups), 0.5, bounds(groups, 0.5, 0.1)),
        numbers_of(_best_numbers(run)),
    )


def _best_numbers(run: RunReport) -> pl.DataFrame:
    columns = ["run", "data", "split", "attribute", "prediction", "head", "n", "accuracy", "low", "high"]
    mixture = run.tables.mixture_accuracy.with_columns(prediction=pl.lit("mixture"), head=pl.lit(None, pl.Int32))
    best = run.tables.best_head.with_columns(prediction=pl.lit("best head on ") + pl.col("chosen_on"))
    return pl.concat([mixture.select(columns), best.select(columns)])


def _by_context(run: RunReport, prefix: str) -> Figure:
    known = run.contexts.drop_nulls("accuracy")
    rows = [
        interval_row(shown(row["context"], 200), row, 0, f"{row['n']:,} pairs") for row in known.iter_rows(named=True)
    ]
    groups = [("", tuple(sorted(rows, key=lambda one: one.interval.value or 0.0)))]
    left = run.contexts.height - known.height
    return Figure(
        f"{prefix}contexts",
        "Accuracy by context",
        "Accuracy of the run on the pairs of one context sentence, lowest first, with 95 % intervals over people and "
        "prompts. The lowest of many is low by chance as well.",
        IntervalTable("context", "accuracy", tuple(groups), 0.5, bounds(groups, 0.5, 0.1)),
        numbers_of(known.select("context", "n", "accuracy", "low", "high")),
        (f"{left:,} rarer contexts are left out.",) if left else (),
    )


def _over_single(run: RunReport, prefix: str) -> Figure:
    table = run.tables.mixture_vs_single
    references = table["reference"].unique().sort().to_list()
    groups: list[tuple[str, tuple[IntervalRow, ...]]] = []
    for attribute, rows in by_attribute(table):
        lines = [
            gain_row(
                f"over {row['reference']}", row["difference"], row["low"], row["high"],
                references.index(row["reference"]), f"{row['n']:,} pairs",
            )
            for row in rows.iter_rows(named=True)
        ]  # fmt: skip
        groups.append((named(attribute), tuple(lines)))
    return Figure(
        f"{prefix}over-single",
        "Gain over single rewards",
        "Accuracy of the run less that of a single Bradley-Terry reward on the same pairs, with the 95 % interval of "
        "the paired difference: where it does not reach 0, the difference is unlikely to be chance.",
        IntervalTable("single reward", "difference in accuracy", tuple(groups), 0.0, bounds(groups, 0.0, 0.05)),
        numbers_of(table),
    )


def overall(run: RunReport) -> str:
    """Return a run's accuracy over all pairs, with its interval."""
    return with_interval(run.accuracy.value, run.accuracy.low, run.accuracy.high)
