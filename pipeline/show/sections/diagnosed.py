"""The page of `diagnose`."""

from __future__ import annotations

from typing import Any

from micropref.pipeline.people.diagnose import Diagnosis, UnitDiagnosis
from micropref.pipeline.show.diagnose import diagnosis_gains, diagnosis_verdicts
from micropref.pipeline.show.figures import few_clusters
from micropref.pipeline.show.page.figures import (
    Charts,
    Figure,
    IntervalTable,
    LineChart,
    Numbers,
    Page,
    PlainTable,
    Point,
    Section,
    Series,
)
from micropref.pipeline.show.sections.values import bounds, gain_row


def diagnosis_page(diagnosis: Diagnosis) -> Page:
    """Return what knowing each kind of unit is worth, and by how many of its pairs."""
    figures = [_gains(diagnosis), _losses(diagnosis)]
    if any(one.by_count for one in diagnosis.units):
        figures.append(_by_count(diagnosis))
    warnings = dict.fromkeys(line for one in diagnosis.units for line in few_clusters(one.clusters))
    return Page(
        f"micropref diagnose: {diagnosis.data}",
        tuple(diagnosis_verdicts(diagnosis)),
        (Section("worth", "What knowing who chose is worth", (), tuple(figures)),),
        tuple(line.removeprefix("warning: ") for line in warnings),
    )


def _gains(diagnosis: Diagnosis) -> Figure:
    groups, saved = [], []
    for one in diagnosis.units:
        rows = []
        for place, (over, gain) in enumerate(diagnosis_gains(one)):
            rows.append(gain_row(f"over {over}", gain.mean, gain.low, gain.high, place, ""))
            saved.append({"kind": one.kind, "over": over, "mean": gain.mean, "low": gain.low, "high": gain.high})
        groups.append((f"by {one.kind}, {one.scored:,} pairs", tuple(rows)))
    resampled = "; ".join(f"{one.resampled} (by {one.kind})" for one in diagnosis.units)
    return Figure(
        "gains",
        "Gain from knowing who chose",
        "Nats per pair on test prompts that the prediction is better by when each unit is known by its pairs to fit; "
        f"what it is worth is the least of the three. 95 % intervals over {resampled}.",
        IntervalTable("gain", "nats per pair", tuple(groups), 0.0, bounds(groups, 0.0, 0.02)),
        Numbers.of(saved),
    )


def _losses(diagnosis: Diagnosis) -> Figure:
    columns = ("by", "units", "pairs each", "scored", "single NLL", "nobody known", "known NLL", "another's", "β")
    rows = tuple(
        (
            one.kind, f"{one.units:,}", f"{one.pairs_per_unit:,.0f}", f"{one.scored:,}", f"{one.single_nll:.4f}",
            f"{one.nobody_nll:.4f}", f"{one.unit_nll:.4f}", f"{one.stranger_nll:.4f}", f"{one.beta:g}",
        )
        for one in diagnosis.units
    )  # fmt: skip
    return Figure(
        "losses",
        "NLL of the predictions",
        f"Nats per pair. Single: one reward for everybody. The others are of groups' heads (K = {diagnosis.k}), each "
        "unit unknown, known by its pairs to fit, which count β, or known by those of another unit.",
        PlainTable(columns, rows, frozenset(range(1, len(columns)))),
        Numbers.of([_saved(one) for one in diagnosis.units]),
    )


def _saved(one: UnitDiagnosis) -> dict[str, Any]:
    names = (
        *("kind", "units", "pairs_per_unit", "scored", "unknown", "single_nll", "nobody_nll", "unit_nll"),
        *("stranger_nll", "worth", "beta", "worth_it", "more_pairs"),
    )
    return {name: getattr(one, name) for name in names}


def _by_count(diagnosis: Diagnosis) -> Figure:
    kinds = [one for one in diagnosis.units if one.by_count]
    counts = tuple(float(count) for count in sorted({count for one in kinds for count in one.by_count}))
    series = tuple(
        Series(f"by {one.kind}", tuple(Point(count, gain) for count, gain in one.by_count.items())) for one in kinds
    )
    chart = LineChart("Gain by pairs of each", "pairs to learn from", "nats per pair", series, counts, reference=0.0)
    saved = [{"kind": one.kind, "pairs": count, "gain": gain} for one in kinds for count, gain in one.by_count.items()]
    return Figure(
        "by-count",
        "Gain by how much is known",
        "Over the better of the two predictions that do not know the unit.",
        Charts((chart,)),
        Numbers.of(saved),
    )
