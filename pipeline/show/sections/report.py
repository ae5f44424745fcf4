"""The page of `report`: what comes first, and which section of which run follows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl

from micropref.pipeline.evaluation.reporting.run_report import RunReport
from micropref.pipeline.evaluation.reporting.side_by_side import SideBySide, side_by_side
from micropref.pipeline.show.figures import counted, gain_with_interval
from micropref.pipeline.show.page.figures import Page, Section
from micropref.pipeline.show.sections.about import about_section, warnings_of
from micropref.pipeline.show.sections.accuracy import accuracy_section, overall
from micropref.pipeline.show.sections.curves import curves_section
from micropref.pipeline.show.sections.heads import heads_section
from micropref.pipeline.show.sections.pairs import pairs_section
from micropref.pipeline.show.sections.routing import routing_section
from micropref.pipeline.show.sections.side_by_side import side_by_side_section

ALIKE = 0.9
"""Correlation of margins from which two heads are named as alike or opposite."""
PAIR = ("head", "other", "correlation")
MOST = 6
"""Pairs of heads that are named at the top."""


def report_page(runs: Sequence[RunReport]) -> Page:
    """Return the page of one run, or of several, compared first."""
    compared, several = side_by_side(runs), len(runs) > 1
    sections = [
        side_by_side_section(found, f"s{number}-" if len(compared) > 1 else "", _heading(found, compared))
        for number, found in enumerate(compared, 1)
    ]
    told = frozenset(run.id for found in compared for run in found.runs)
    for number, run in enumerate(runs, 1):
        sections += _sections(run, f"r{number}-" if several else "", f"{run.title}: " if several else "", told)
    warnings = [f"{run.title}: {line}" if several else line for run in runs for line in warnings_of(run)]
    title = f"micropref: {', '.join(run.title for run in runs)}"
    return Page(title, tuple(_lead(runs, compared)), tuple(sections), tuple(warnings))


def _heading(found: SideBySide, compared: Sequence[SideBySide]) -> str:
    return "Runs side by side" + (f" on {found.data}/{found.split}" if len(compared) > 1 else "")


def _sections(run: RunReport, prefix: str, start: str, told: frozenset[str]) -> Iterator[Section]:
    def title(text: str) -> str:
        return start + (text if start else text[0].upper() + text[1:])

    yield accuracy_section(run, prefix, title("heads and attributes"), told)
    yield heads_section(run, prefix, title("what heads like"))
    router = routing_section(run, prefix, title("router"))
    if router is not None:
        yield router
    yield curves_section(run, prefix, title("curves"))
    yield pairs_section(run, prefix, title("pairs to read"))
    yield about_section(run, prefix, title("what was run"))


def _lead(runs: Sequence[RunReport], compared: Sequence[SideBySide]) -> Iterator[str]:
    for run in runs:
        heads = "one head" if run.heads == 1 else f"{run.heads} heads"
        yield (
            f"{run.title} ({run.method}, {heads}) prefers the chosen response in {overall(run)} of "
            f"{counted(run.tables.pairs, 'pair')} of {run.tables.data}/{run.tables.split}."
        )
    for found in compared:
        best = max(range(len(found.runs)), key=lambda place: float(found.comparison.accuracy[place, -1]))
        if best != found.reference:
            figures = (
                float(getattr(found.comparison, name)[best, -1])
                for name in ("difference", "difference_low", "difference_high")
            )
            yield (
                f"Best over all attributes: {found.runs[best].title}, {gain_with_interval(*figures)} accuracy over "
                f"{found.runs[found.reference].title} on the same pairs."
            )
    for run in runs:
        yield from (f"{run.title}: {line}" if len(runs) > 1 else line for line in _about_heads(run))


def _about_heads(run: RunReport) -> Iterator[str]:
    """Yield how many heads are in use, which are alike, and which nothing tells from noise."""
    if run.heads < 2:
        return
    used = run.run.record.get("effective_heads")
    if used is not None:
        yield f"Heads in use, by their mean weights on validation pairs: {used:.1f} of {run.heads}."
    rows = run.tables.head_correlation.filter(pl.col("head") < pl.col("other")).drop_nulls("correlation")
    pairs = rows.filter(pl.col("correlation").abs() >= ALIKE).sort(pl.col("correlation").abs(), descending=True)
    for alike, what in ((True, "Nearly alike"), (False, "Nearly opposite")):
        kept = pairs.filter((pl.col("correlation") > 0) == alike)
        shown = [f"{head} and {other} ({value:+.2f})" for head, other, value in kept.select(*PAIR).rows()]
        if shown:
            yield f"{what} in their margins: heads {', '.join(shown[:MOST])}{', ...' if len(shown) > MOST else ''}."
    noise = [str(card.head) for card in run.cards if card.noise]
    if noise:
        yield f"Noise as far as these pairs can tell: head {', '.join(noise)}."
