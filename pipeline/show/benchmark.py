"""A run's score on a benchmark as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from micropref.pipeline.show.figures import counted, with_interval
from micropref.pipeline.show.lines import paragraphs, without_reward
from micropref.pipeline.show.tables import show_rows

if TYPE_CHECKING:
    from micropref.pipeline.benchmarks.benchmark import BenchmarkReport
    from micropref.pipeline.benchmarks.scores import SubsetScore

SHOWN_MISSING = 6
"""Subsets that are not whole, before the rest is counted."""


def show_benchmark(report: BenchmarkReport) -> str:
    """Return each subset's score with its interval, sections, the figure that is cited, and how they came to be."""
    taste = ", ".join(f"{name} {value!r}" for name, value in report.taste.items())
    of_whom = f", {taste}" if taste else ""
    lines = [
        f"run {report.run} on {report.title} ({report.source}): {counted(report.rows, 'row')}{of_whom}, "
        f"overall {_figure(report.overall)}"
    ]
    if report.missing:
        shown, rest = report.missing[:SHOWN_MISSING], report.missing[SHOWN_MISSING:]
        more = f" and {len(rest)} more" if rest else ""
        lines.append(f"not the whole benchmark, so not a figure to cite: {', '.join(shown)}{more}")
    if report.rows_without_reward:
        lines.append(
            f"rows with a response that has no reward: {report.rows_without_reward:,}, counted as wrong; without them "
            f"the score is {_figure(report.overall_without_them)}"
        )
    lines += without_reward(report.without_reward)
    if report.trimmed:
        lines.append(f"responses whose prompt was cut to fit: {report.trimmed:,}")
    if report.profiles:
        read = report.profiles
        lines.append(
            f"contexts are people's posts: {read['whole']:,} whole, {read['cut']:,} cut, {read['unread']:,} without"
        )
    counted_missing = report.rows_without_reward > 0
    tables = [show_rows([_row(one, counted_missing) for one in report.subsets if one.n])]
    for name, figures in (("section", report.sections), ("figure", report.figures)):
        if figures:
            tables.append(show_rows([{name: each, "score": value} for each, value in figures.items()]))
    ending = [f"unlike its own scripts: {one}" for one in report.differs]
    ending += [f"written: {one}" for one in report.files]
    return "\n".join([paragraphs(lines), *tables, paragraphs(ending)])


def _row(one: SubsetScore, counted_missing: bool) -> dict[str, Any]:
    missing = {"no reward": one.without_reward} if counted_missing else {}
    shown = "unknown" if one.accuracy is None else with_interval(one.accuracy, one.low, one.high)
    return {"subset": one.subset, "n": one.n, **missing, "accuracy (95 %)": shown}


def _figure(value: float | None) -> str:
    return "unknown (a part is not there)" if value is None else f"{value:.4f}"
