"""Pairs to read, filtered in the page."""

from __future__ import annotations

from typing import Any

from micropref.pipeline.evaluation.reporting.pairs import LONGEST, ShownPair
from micropref.pipeline.evaluation.reporting.run_report import RunReport
from micropref.pipeline.show.page.figures import PairBrowser, Section
from micropref.pipeline.show.page.texts import shown, visible


def pairs_section(run: RunReport, prefix: str, title: str) -> Section:
    """Return the pairs that heads disagree on most and those the run gets most wrong."""
    count = len(run.pairs.browsed)
    orders = "those its heads disagree on most and those it gets most wrong" if run.heads > 1 else "those most wrong"
    browser = PairBrowser(
        f"{prefix}browser",
        "Where heads disagree and where the run is wrong",
        f"{count:,} of {run.tables.pairs:,} pairs: of each attribute {orders}, until the page is full. They are "
        "extremes, not a sample: shares of them say nothing about the rest. A margin above 0 prefers the chosen "
        f"response. {_combined(run)}",
        run.heads,
        tuple(_pair(pair) for pair in run.pairs.browsed),
    )
    return Section(f"{prefix}pairs", title, (), (browser,))


def _combined(run: RunReport) -> str:
    """Return how margins and weights become a probability."""
    if run.heads == 1:
        return "P(chosen) is σ(margin)."
    if run.run.record.get("combine", "probability") == "probability":
        return "P(chosen) is Σ weight · σ(margin), its log-odds multiplied by the run's scale."
    return "P(chosen) is σ(Σ weight · margin), its log-odds multiplied by the run's scale."


def _pair(pair: ShownPair) -> dict[str, Any]:
    names = {name: getattr(pair, name) for name in ("attribute", "user", "context")}
    texts = {name: shown(getattr(pair, name), LONGEST) for name in ("prompt", "chosen", "rejected")}
    return {
        **{name: None if value is None else visible(value) for name, value in names.items()},
        **texts,
        "m": [round(margin, 3) for margin in pair.margins],
        "w": [round(weight, 3) for weight in pair.weights] if len(pair.weights) > 1 else None,
        "p": round(pair.probability, 3),
        "spread": None if pair.spread is None else round(pair.spread, 3),
    }
