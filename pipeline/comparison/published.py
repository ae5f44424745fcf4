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
LABEL = "published, other backbone"
"""What the paper's rows are called next to ours."""
OTHER_FORMS = {"micro-example": "micro"}
"""Further rows of `compare` that a published one is the same method as."""


@dataclass(frozen=True)
class PublishedRow:
    """One row of a table."""

    method: str
    """Name of the row as `compare` has it; of one of MiCRo's heads, which `compare` has no row for, `micro-head-3`."""
    title: str | None
    """What a row that `compare` has none for is called; None for the others."""
    values: tuple[float, ...]
    """Accuracy on each of the table's attributes."""
    average: float | None
    """As printed; None where the paper prints none."""


@dataclass(frozen=True)
class Published:
    """One table of the paper."""

    title: str
    source: str
    """Its number in the paper."""
    attributes: tuple[str, ...]
    k: int
    """Reward heads of the multi-head methods."""
    lam: float
    """λ of the mixtures."""
    protocol: tuple[str, ...]
    """What was trained on what, how pairs were filtered, what was adapted on."""
    disagreements: tuple[str, ...]
    """Where the paper gives two figures for one thing: both."""
    rows: tuple[PublishedRow, ...]
    """Those of methods first, then those of MiCRo's heads."""

    def value(self, method: str, attribute: str) -> float | None:
        """Return a method's published accuracy on an attribute, `average` being one.

        Names are compared without case, a hyphen being a space.
        """
        names = [*(_plain(name) for name in self.attributes), "average"]
        wanted = OTHER_FORMS.get(method, method)
        for row in self.rows:
            if row.method == wanted and _plain(attribute) in names:
                return (*row.values, row.average)[names.index(_plain(attribute))]
        return None


def published(paper: Paper) -> Published:
    """Return a table of the paper."""
    assert paper in get_args(Paper)
    table = json.loads(FILE.read_text(encoding="utf-8"))[paper]
    rows = [PublishedRow(row["method"], None, tuple(row["values"]), row["average"]) for row in table["rows"]]
    heads = [
        PublishedRow(f"micro-head-{number}", f"MiCRo head {number}", tuple(values), None)
        for number, values in enumerate(table["heads"], 1)
    ]
    return Published(
        title=f"{table['title']} ({table['source']})",
        source=table["source"],
        attributes=tuple(table["attributes"]),
        k=table["k"],
        lam=table["lam"],
        protocol=tuple(table["protocol"]),
        disagreements=(*table["disagreements"], *_unequal(rows)),
        rows=(*rows, *heads),
    )


def _unequal(rows: list[PublishedRow]) -> list[str]:
    """Return where a printed average is not that of its row's figures."""
    means = ((row, row.average, sum(row.values) / len(row.values)) for row in rows)
    return [
        f"{row.method}: the printed average is {average:.4f}, that of the row's figures {mean:.4f}"
        for row, average, mean in means
        if average is not None and abs(mean - average) > ROUNDING
    ]


def _plain(name: str) -> str:
    return name.casefold().replace("-", " ")
