"""A page with one figure of each kind, made without a store."""

from __future__ import annotations

from collections.abc import Sequence

from micropref.pipeline.show.page.figures import (
    Card,
    Cards,
    Cell,
    Charts,
    Example,
    Figure,
    HeatTable,
    Interval,
    IntervalRow,
    IntervalTable,
    LineChart,
    Numbers,
    Page,
    PairBrowser,
    PlainTable,
    Point,
    Section,
    Series,
)


def every_kind(texts: Sequence[str]) -> Page:
    """Return a page that has every text in every place that a user's text may have."""
    numbers = Numbers(("name", "value"), tuple((text, 0.5) for text in texts))
    heat = HeatTable(
        "attribute", tuple(texts), tuple((text, tuple(Cell(one, one, 3) for one in texts)) for text in texts)
    )
    rows = tuple(IntervalRow(text, Interval(0.6, 0.5, 0.7), "0.600", place, text) for place, text in enumerate(texts))
    intervals = IntervalTable("run", "accuracy", ((texts[0], rows),), 0.5, (0.4, 0.8))
    series = tuple(Series(text, (Point(1, 0.2, 0.1, 0.3), Point(2, 0.4, chosen=True))) for text in texts)
    charts = Charts(tuple(LineChart(text, text, text, series, reference=0.3, reference_label=text) for text in texts))
    table = PlainTable(tuple(texts), (tuple(texts),), frozenset({0}))
    bodies = (("heat", heat), ("intervals", intervals), ("charts", charts), ("table", table))
    figures = tuple(
        Figure(name, " ".join(texts), " ".join(texts), body, numbers, tuple(texts)) for name, body in bodies
    )
    examples = tuple(Example(text, text, text, text) for text in texts)
    cards = Cards("cards", texts[0], texts[0], tuple(Card(text, text, tuple(texts), examples) for text in texts))
    pairs = tuple(
        {
            **dict.fromkeys(("attribute", "user", "context", "prompt", "chosen", "rejected"), text),
            "m": [0.5, -0.25],
            "w": [0.75, 0.25],
            "p": 0.6,
            "spread": 0.1,
        }
        for text in texts
    )
    browser = PairBrowser("browser", texts[0], texts[0], 2, pairs)
    section = Section("all", texts[0], tuple(texts), (*figures, cards, browser))
    return Page(" ".join(texts), tuple(texts), (section,), tuple(texts))
