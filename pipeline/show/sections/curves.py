"""Curves of what was made of a run's heads, by budget, shots and rounds, and what its probabilities are worth."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from micropref.pipeline.evaluation.curve_tables import Variant
from micropref.pipeline.evaluation.curves import adaptation_curve, budget_curve, regret_curve
from micropref.pipeline.evaluation.reporting.run_report import RunReport
from micropref.pipeline.show.figures import over
from micropref.pipeline.show.page.colours import LINES
from micropref.pipeline.show.page.figures import Charts, Figure, LineChart, Section, Series
from micropref.pipeline.show.sections.sweeps import own_history, refit_figure, sweep_figures
from micropref.pipeline.show.sections.values import by_attribute, in_brackets, named, numbers_of, points

MOST_ROUNDS = 200
"""Rounds of a replay that are drawn and saved."""
FEWEST = 10
"""Pairs of a bin below which the chart by attribute leaves it out."""


def curves_section(run: RunReport, prefix: str, title: str) -> Section:
    """Return the curves there are, and which are missing with the command that makes them."""
    figures = [_calibration(run, prefix)]
    missing = []
    if run.sweep is not None:
        figures += sweep_figures(run.sweep, prefix)
    else:
        missing.append("curves by K and λ (made by micropref sweep)")
    if run.history is not None and run.history.height > 1:
        figures.append(own_history(run.history, prefix))
    drawn = {"budget_curve": _budget, "history": _refits, "regret_by_round": _regret}
    for role, draw in drawn.items():
        for number, variant in enumerate(run.curves.get(role, []), 1):
            figures += draw(variant, f"{prefix}{number}-")
    if "adaptation" in run.curves:
        figures.append(_adaptation(run.curves["adaptation"], prefix))
    for role, what in (
        ("budget_curve", "accuracy by budget (micropref route)"),
        ("adaptation", "accuracy by shots (micropref adapt)"),
        ("regret_by_round", "regret by round (micropref adapt --online)"),
    ):
        if role not in run.curves:
            missing.append(what)
    text = (f"Not drawn, as the run has none: {'; '.join(missing)}.",) if missing else ()
    return Section(f"{prefix}curves", title, text, tuple(figures))


def _made_by(variant: Variant) -> str:
    return f"Made by {', '.join(variant.runs)}."


def _calibration(run: RunReport, prefix: str) -> Figure:
    rows = run.calibration
    table = run.tables.calibration
    enough = pl.col("n") >= FEWEST
    overall = Series("all pairs", points(rows.filter(enough), "mean_probability", "accuracy", "low", "high"))
    attributes = dict(by_attribute(table))
    charts = [_calibrated("All pairs", (overall,))]
    if 1 < len(attributes) <= LINES:
        lines = (
            Series(named(attribute), points(own.filter(enough), "mean_probability", "accuracy"))
            for attribute, own in attributes.items()
        )
        charts.append(_calibrated("By attribute", tuple(lines)))
    note = (
        f"{len(attributes)} attributes are too many for one chart; the CSV has them." if len(attributes) > LINES else ""
    )
    return Figure(
        f"{prefix}calibration",
        "Calibration",
        "Pairs whose likelier response was predicted with nearly the same probability, and the share of them in which "
        "it was chosen: on the dashed line probabilities are what they say, below it they are too sure, above it too "
        f"timid. 95 % intervals over {over(run.accuracy.clusters)}; bins of {FEWEST} pairs or more are drawn. "
        f"{_gap(rows)}",
        Charts(tuple(charts)),
        numbers_of(pl.concat([rows, table])),
        (note,) if note else (),
    )


def _gap(rows: pl.DataFrame) -> str:
    """Return how far predictions are from what happened, over all pairs."""
    share = rows["n"] / rows["n"].sum()
    said, right = float((share * rows["mean_probability"]).sum()), float((share * rows["accuracy"]).sum())
    far = float((share * (rows["mean_probability"] - rows["accuracy"]).abs()).sum())
    what = "too sure" if said > right else "too timid"
    return (
        f"Over all pairs the likelier response was given {said:.3f} and chosen in {right:.3f}: {what} by "
        f"{abs(said - right):.3f}. Expected calibration error: {far:.3f}."
    )


def _calibrated(title: str, series: tuple[Series, ...]) -> LineChart:
    return LineChart(title, "mean predicted probability", "share chosen", series, diagonal=True)


def _budget(variant: Variant, prefix: str) -> list[Figure]:
    found = budget_curve(variant.tables["budget_curve"], variant.tables.get("budget_totals"))
    budgets = tuple(found.overall["budget"].to_list())
    overall = Series("all scored pairs", points(found.overall, "budget", "accuracy", "low", "high"))
    charts = [LineChart("Accuracy by budget", "pairs of each attribute", "accuracy", (overall,), places=budgets)]
    attributes = list(by_attribute(found.by_attribute))
    if len(attributes) > 1:
        lines = tuple(Series(named(name), points(rows, "budget", "accuracy")) for name, rows in attributes[:LINES])
        charts.append(LineChart("By attribute", "pairs of each attribute", "accuracy", lines, places=budgets))
    left = len(attributes) - LINES
    numbers = pl.concat(
        [found.overall.with_columns(attribute=pl.lit(None, pl.String)), found.by_attribute], how="diagonal"
    )
    return [
        Figure(
            f"{prefix}budget",
            f"Router re-fitted on a budget{in_brackets(variant.label)}",
            "Accuracy once the router has read so many labelled pairs with context of each attribute; budget 0 is the "
            "run as it was, and the same pairs are scored for every budget. Several seeds: their mean, with intervals "
            f"over pairs and seeds (Figure 4 of the MiCRo paper). {_made_by(variant)}",
            Charts(tuple(charts)),
            numbers_of(numbers),
            (f"{left} more attributes are in the CSV.",) if left > 0 else (),
        )
    ]


def _refits(variant: Variant, prefix: str) -> list[Figure]:
    return [refit_figure(variant.label, variant.tables["history"], prefix)]


def _adaptation(variants: Sequence[Variant], prefix: str) -> Figure:
    """Return all ways to adapt in one figure, so that they can be compared."""
    tables = [(one, adaptation_curve(one.tables["adaptation"])) for one in variants]
    shots = tuple(sorted({value for _, table in tables for value in table["shots"].to_list()}))
    several = len({(row["method"], row["grouped_by"]) for _, table in tables for row in table.iter_rows(named=True)})
    charts = []
    for name, title, low, high in (
        ("accuracy", "Accuracy by shots", "low", "high"),
        ("gain", "Gain over no choices", "gain_low", "gain_high"),
        ("nll", "NLL by shots", "nll_low", "nll_high"),
    ):
        series = []
        for variant, table in tables:
            for (method, grouped), rows in table.group_by("method", "grouped_by", maintain_order=True):
                label = f"{method}, by {grouped}" + (in_brackets(variant.label) if several < len(tables) else "")
                series.append(Series(label, points(rows, "shots", name, low, high)))
        charts.append(LineChart(title, "choices of each", name, tuple(series), places=shots))
    return Figure(
        f"{prefix}adaptation",
        "Adapted to people",
        "How well heads weighted for each user, attribute or context predict the rest of their choices, by how many "
        "they learned from; none of those is scored, and every line has the same pairs for all of its points. 95 % "
        f"intervals. Made by {', '.join(run for one in variants for run in one.runs)}.",
        Charts(tuple(charts)),
        numbers_of(pl.concat([table.with_columns(made=pl.lit(one.label)) for one, table in tables])),
    )


def _regret(variant: Variant, prefix: str) -> list[Figure]:
    return [
        _regret_of(run, regret_curve(rows), f"{prefix}{number}-")
        for number, run in enumerate(variant.runs, 1)
        if (rows := variant.tables["regret_by_round"].filter(pl.col("run") == run)).height
    ]


def _regret_of(run: str, table: pl.DataFrame, prefix: str) -> Figure:
    last = table["round"].max()
    every = -(-int(last) // MOST_ROUNDS) if isinstance(last, int) else 1
    kept = table.filter((pl.col("round") % every == 0) | (pl.col("round") == 1) | (pl.col("round") == last))
    charts = []
    for forecaster in table["forecaster"].unique().sort().to_list():
        own = kept.filter(pl.col("forecaster") == forecaster)
        lines = [Series("regret", points(own, "round", "regret", "low", "high"), marks=False)]
        if own["bound"].drop_nulls().len():
            lines.append(Series("bound", points(own, "round", "bound"), marks=False))
        charts.append(LineChart(f"Mean regret: {forecaster}", "round", "regret", tuple(lines)))
    return Figure(
        f"{prefix}regret",
        f"Regret of online forecasters ({run})",
        "Summed loss less that of the head best in hindsight, mean over groups that had so many rounds; a bound holds "
        "whatever the choices are. A forecaster under its bound keeps its promise; one below 0 beats every single "
        "head. Router is the run's own weights, which learn nothing.",
        Charts(tuple(charts)),
        numbers_of(kept),
        (f"Every {every}th round is drawn and saved; the view regret_by_round has all.",) if every > 1 else (),
    )
