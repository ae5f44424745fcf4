"""Runs on the same pairs, one under the other, and how far each is from one of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from micropref.pipeline.evaluation.reporting.run_report import RunReport
from micropref.pipeline.evaluation.reporting.side_by_side import MEAN, SideBySide
from micropref.pipeline.show.compare import FALSE_ALARMS
from micropref.pipeline.show.figures import accuracy, gain_with_interval, over, with_interval
from micropref.pipeline.show.page.figures import Figure, IntervalRow, IntervalTable, Numbers, PlainTable, Section
from micropref.pipeline.show.sections.values import bounds, gain_row, interval_row, named
from micropref.pipeline.show.train import ROUTER_READS


def side_by_side_section(found: SideBySide, prefix: str, title: str) -> Section:
    """Return accuracies of runs by attribute and their paired differences to one of them."""
    rows = list(_rows(found))
    numbers = Numbers.of(rows)
    reference = found.runs[found.reference].title
    return Section(
        f"{prefix}runs",
        title,
        (),
        (
            _table(found, rows, prefix),
            _accuracies(found, rows, prefix, numbers),
            _differences(found, rows, prefix, numbers, reference),
        ),
    )


def _rows(found: SideBySide) -> Iterator[dict[str, Any]]:
    """Yield one row for each attribute, the mean over them last, and run."""
    comparison = found.comparison
    for column, attribute in enumerate((*map(named, found.attributes), MEAN)):
        count = found.counts[column] if column < len(found.counts) else found.pairs
        for place, run in enumerate(found.runs):
            figures = {
                name: getattr(comparison, name)[place, column].item()
                for name in ("accuracy", "low", "high", "difference", "difference_low", "difference_high")
            }
            yield {"run": run.id, "attribute": attribute, "n": count, **figures}


def _table(found: SideBySide, rows: list[dict[str, Any]], prefix: str) -> Figure:
    means = [row for row in rows if row["attribute"] == MEAN]
    lines, saved = [], []
    for place, (run, row) in enumerate(zip(found.runs, means, strict=True)):
        p_value = found.comparison.p_value[place]
        gain = gain_with_interval(row["difference"], row["difference_low"], row["difference_high"])
        gain += " *" if p_value <= FALSE_ALARMS else ""
        shown = with_interval(row["accuracy"], row["low"], row["high"])
        figures = (shown, "reference" if place == found.reference else gain, accuracy(run.accuracy.nll))
        lines.append((run.title, run.method, f"{run.heads}", _reads(run), *figures))
        about = {"method": run.method, "heads": run.heads, "reads": _reads(run), "nll": run.accuracy.nll}
        saved.append({"run": run.id, **about, **row, "p_value": p_value})
    reference = found.runs[found.reference].title
    differ = len({_reads(run) for run in found.runs}) > 1
    return Figure(
        f"{prefix}runs-table",
        "Runs",
        f"On the {found.pairs:,} pairs of {found.data}/{found.split} that all of them have scores for; NLL in nats per "
        f"pair, of all pairs that each has. Differences are to {reference}; * marks those that hold at 5 % when all "
        "runs are judged together (Holm).",
        PlainTable(
            ("run", "method", "heads", "reads", f"accuracy, {MEAN}", "difference", "NLL"),
            tuple(lines),
            frozenset({2, 4, 5, 6}),
        ),
        Numbers.of(saved),
        ("Runs differ in what they read: a difference may come from that as well as from the method.",)
        if differ
        else (),
    )


def _reads(run: RunReport) -> str:
    """Return what a run reads besides prompt and response."""
    rewards = "rewards: the context" if run.run.record["settings"]["reward_input"] == "context" else ""
    router = f"router: {ROUTER_READS[run.reads]}" if run.reads is not None else ""
    return "; ".join(filter(None, (router, rewards))) or "prompt and response alone"


def _groups(
    found: SideBySide, rows: list[dict[str, Any]], line: Any, skip: int | None = None
) -> tuple[tuple[str, tuple[IntervalRow, ...]], ...]:
    groups: dict[str, list[IntervalRow]] = {}
    for number, row in enumerate(rows):
        place = number % len(found.runs)
        if place != skip:
            label = f"{row['attribute']}, {row['n']:,} pairs"
            groups.setdefault(label, []).append(line(found.runs[place].title, row, place))
    return tuple((label, tuple(lines)) for label, lines in groups.items())


def _accuracies(found: SideBySide, rows: list[dict[str, Any]], prefix: str, numbers: Numbers) -> Figure:
    groups = _groups(found, rows, interval_row)
    return Figure(
        f"{prefix}runs-accuracy",
        "Accuracy of runs by attribute",
        f"95 % intervals over {over(found.comparison.clusters)}. Intervals that overlap may still differ: see the "
        "paired differences.",
        IntervalTable("run", "accuracy", groups, 0.5, bounds(groups, 0.5, 0.1)),
        numbers,
    )


def _differences(
    found: SideBySide, rows: list[dict[str, Any]], prefix: str, numbers: Numbers, reference: str
) -> Figure:
    def line(label: str, row: dict[str, Any], place: int) -> IntervalRow:
        return gain_row(label, row["difference"], row["difference_low"], row["difference_high"], place, "")

    groups = _groups(found, rows, line, found.reference)
    return Figure(
        f"{prefix}runs-differences",
        f"Paired differences to {reference}",
        "Accuracy less that of the reference on the same pairs, with the 95 % interval of the difference, not "
        "corrected for several comparisons.",
        IntervalTable("run", "difference in accuracy", groups, 0.0, bounds(groups, 0.0, 0.05)),
        numbers,
    )
