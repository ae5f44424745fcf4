"""The paper's own figures (MiCRo, EMNLP 2025), printed next to ours: methods, data and protocol."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from micropref.pipeline.options import Paper

FILE = Path(__file__).with_suffix(".json")
ROUNDING = 1.5e-4
"""What four printed digits of an average and of its terms leave between them."""


@dataclass(frozen=True)
class PublishedRow:
    """One method's row of a table."""

    method: str
    """Name of the row as `compare` has it."""
    values: tuple[float, ...]
    """Accuracy on each of the table's attributes."""
    average: float
    """As printed."""


@dataclass(frozen=True)
class Published:
    """One table of the paper."""

    title: str
    attributes: tuple[str, ...]
    k: int
    """Reward heads of the multi-head methods."""
    protocol: tuple[str, ...]
    """What was trained on what, how pairs were filtered, what was adapted on."""
    disagreements: tuple[str, ...]
    """Where the paper gives two figures for one thing: both."""
    rows: tuple[PublishedRow, ...]

    def value(self, method: str, attribute: str) -> float | None:
        """Return a method's published accuracy on an attribute, names compared without case, `average` being one."""
        names = [*(name.casefold() for name in self.attributes), "average"]
        for row in self.rows:
            if row.method == method and attribute.casefold() in names:
                return (*row.values, row.average)[names.index(attribute.casefold())]
        return None


def published(paper: Paper) -> Published:
    """Return a table of the paper."""
    assert paper in get_args(Paper)
    table = json.loads(FILE.read_text(encoding="utf-8"))[paper]
    rows = tuple(PublishedRow(row["method"], tuple(row["values"]), row["average"]) for row in table["rows"])
    means = ((row, sum(row.values) / len(row.values)) for row in rows)
    unequal = [
        f"{row.method}: the printed average is {row.average:.4f}, that of the row's figures {mean:.4f}"
        for row, mean in means
        if abs(mean - row.average) > ROUNDING
    ]
    return Published(
        title=table["title"],
        attributes=tuple(table["attributes"]),
        k=table["k"],
        protocol=tuple(table["protocol"]),
        disagreements=(*table["disagreements"], *unequal),
        rows=rows,
    )
