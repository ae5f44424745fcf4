"""Curves of a sweep: what K and λ were chosen by, what that did on test pairs, how fits converge."""

from __future__ import annotations

import polars as pl

from micropref.pipeline.evaluation.curve_tables import SweepTables
from micropref.pipeline.evaluation.curves import KCurve, convergence, k_curve, lam_curve
from micropref.pipeline.show.figures import accuracy
from micropref.pipeline.show.page.figures import Charts, Figure, LineChart, Series
from micropref.pipeline.show.sections.values import in_brackets, lines_by_k, numbers_of, points

KNOWN = "validation NLL of known people or contexts"
NLL = "validation NLL (nats per pair)"


def sweep_figures(found: SweepTables, prefix: str) -> list[Figure]:
    """Return the curves by K, by λ and by epoch of a sweep."""
    curve = k_curve(found.leaderboard, found.by_k)
    figures = [_by_k(curve, prefix)]
    if found.leaderboard.filter(pl.col("k") > 1)["lam"].n_unique() > 1:
        figures.append(_by_lam(found, curve, prefix))
    if found.history is not None and found.history.height:
        figures.append(_by_epoch(found.history, curve, prefix))
    return figures


def _by_k(curve: KCurve, prefix: str) -> Figure:
    sizes = tuple(curve.points["k"].to_list())
    error = pl.col("validation_nll_se")
    rows = curve.points.with_columns(low=pl.col("validation_nll") - error, high=pl.col("validation_nll") + error)
    charts = [
        LineChart(
            "Validation NLL by K", "K", KNOWN if curve.known else NLL,
            (Series("best λ and seed", points(rows, "k", "validation_nll", "low", "high")),),
            places=sizes, reference=curve.limit,
            reference_label="" if curve.limit is None else "one standard error above the best",
        )
    ]  # fmt: skip
    if curve.points["test_accuracy"].drop_nulls().len():
        charts.append(_test_by_k(curve, sizes))
    chosen = (
        "No K is chosen here: errors of known people are not known to the table."
        if curve.chosen is None
        else f"K = {curve.chosen} (ringed) is the smallest within one standard error of the best."
    )
    largest = max(sizes)
    edge = curve.chosen == largest and len(sizes) > 1
    return Figure(
        f"{prefix}k-curve",
        "Choice of K",
        f"{chosen} Bars of NLLs are standard errors over prompts. Test pairs choose nothing: their accuracies are of "
        "each K's setting with the lowest validation NLL, with 95 % intervals, and the mean over seeds at its λ, with "
        "the standard deviation over them (Figure 5 of the MiCRo paper). These are settings as fitted; the saved run "
        "may be several of them merged, and its own figures may differ.",
        Charts(tuple(charts)),
        numbers_of(curve.points),
        (f"K = {largest:g} is the largest tried: a sweep with larger ones may choose another.",) if edge else (),
    )


def _test_by_k(curve: KCurve, sizes: tuple[float, ...]) -> LineChart:
    spread = pl.col("test_accuracy_sd").fill_null(0.0)
    mean = pl.col("test_accuracy_mean")
    rows = curve.points.with_columns(mean_low=mean - spread, mean_high=mean + spread)
    series = [Series("lowest validation NLL", points(rows, "k", "test_accuracy", "test_low", "test_high"))]
    if (curve.points["seeds"] > 1).any():
        several = rows.drop("chosen")
        series.append(Series("mean over seeds", points(several, "k", "test_accuracy_mean", "mean_low", "mean_high")))
    return LineChart("Test accuracy by K", "K", "test accuracy", tuple(series), places=sizes)


def _by_lam(found: SweepTables, curve: KCurve, prefix: str) -> Figure:
    table = lam_curve(found.leaderboard)
    # K = 1 has no mixture weights, so λ changes nothing there.
    several = table.filter(pl.col("k") > 1)
    values = tuple(sorted(several["lam"].unique().to_list()))
    charts = []
    error = pl.col("validation_nll_se")
    nll = pl.col("validation_nll")
    rows = several.with_columns(
        low=nll - error, high=nll + error, chosen=pl.col("chosen") & (pl.col("k") == pl.lit(curve.chosen, pl.Int64))
    )
    for name, title, y, ends in (
        ("validation_nll", "Validation NLL by λ", NLL, ("low", "high")),
        ("test_accuracy", "Test accuracy by λ", "test accuracy", ("test_low", "test_high")),
    ):
        lines = lines_by_k(rows, "lam", name, *ends)
        if any(one.points for one in lines):
            charts.append(LineChart(title, "λ", y, lines, places=values))
    taken = several.filter(pl.col("chosen"), pl.col("k") == curve.chosen)["lam"].to_list()
    last = [value for value in taken if value in (values[0], values[-1]) and value != 0]
    return Figure(
        f"{prefix}lam-curve",
        "Choice of λ",
        "λ is the penalty that pulls mixture weights towards equal ones. Each point is the best of the seeds by "
        "validation NLL; bars of NLLs are standard errors over prompts, of accuracies 95 % intervals. The ringed "
        "point is the λ of the chosen K.",
        Charts(tuple(charts)),
        numbers_of(table),
        tuple(f"λ = {value:g} is at the end of those tried: others beyond it may be better." for value in last),
    )


def _by_epoch(history: pl.DataFrame, curve: KCurve, prefix: str) -> Figure:
    table = convergence(history, curve.lams)
    return Figure(
        f"{prefix}convergence",
        "Convergence by epoch",
        "Mean over seeds at each K's λ; a seed that stopped early counts with its last figures. A single reward "
        "(K = 1) has steps of its path of penalties as epochs.",
        Charts(_epoch_charts(table)),
        numbers_of(table),
    )


def _epoch_charts(table: pl.DataFrame) -> tuple[LineChart, ...]:
    charts = []
    for name, title in (
        ("train_nll", "Train NLL by epoch"),
        ("validation_nll", "Validation NLL by epoch"),
        ("validation_accuracy", "Validation accuracy by epoch"),
        ("test_accuracy", "Test accuracy by epoch"),
    ):
        if name not in table or table[name].drop_nulls().is_empty():
            continue
        lines = lines_by_k(table, "epoch", name, marks=False)
        charts.append(LineChart(title, "epoch", title.removesuffix(" by epoch"), lines))
    return tuple(charts)


def own_history(history: pl.DataFrame, prefix: str) -> Figure:
    """Return how a run's own fit converged."""
    table = convergence(history)
    last = history.filter(pl.col("validation_nll") == history["validation_nll"].min())
    told = "" if last.is_empty() else f" Its lowest validation NLL is {accuracy(last['validation_nll'][0])}, "
    told += "" if last.is_empty() else f"in epoch {last['epoch'][0]}."
    return Figure(
        f"{prefix}fit",
        "Fit by epoch",
        f"The restart that was kept, or the best of those that were merged.{told}",
        Charts(_epoch_charts(table)),
        numbers_of(history),
    )


def refit_figure(label: str, history: pl.DataFrame, prefix: str) -> Figure:
    """Return how routers that `route` re-fitted converge, by round: Figure 6 of the MiCRo paper."""
    table = convergence(history)
    charts = []
    for name, title in (("train_nll", "NLL of the budget by round"), ("test_accuracy", "Accuracy by round")):
        if name in table and table[name].drop_nulls().len():
            error = pl.col(f"{name}_se").fill_null(0.0)
            rows = table.with_columns(low=pl.col(name) - error, high=pl.col(name) + error)
            lines = lines_by_k(rows, "epoch", name, "low", "high")
            charts.append(LineChart(title, "round", title.removesuffix(" by round"), lines))
    return Figure(
        f"{prefix}refits",
        f"Routers re-fitted, round by round{in_brackets(label)}",
        "Round 0 is the router before it read a budget. Means over seeds, bars one standard error over them: the "
        "paper's Figure 6. The accuracy is of the scored pairs, by which nothing is chosen.",
        Charts(tuple(charts)),
        numbers_of(table),
    )
