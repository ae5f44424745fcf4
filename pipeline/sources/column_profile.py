"""What the columns of a source hold, found in one pass over its rows."""

from __future__ import annotations

import math
import uuid
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

from micropref.pipeline.sources.pairs import Origin
from micropref.pipeline.sources.rows import Row
from micropref.pipeline.sources.scalars import is_absent, to_id, to_number

TYPES: dict[Any, str] = {
    bool: "boolean",
    Integral: "integer",
    Real: "number",
    Decimal: "number",
    list: "list",
    dict: "object",
    uuid.UUID: "UUID",
}
"""Type of a value → its name; the first that fits."""
TYPES_SHOWN = 3


@dataclass
class ColumnProfile:
    """What one column holds."""

    name: str
    """As the file has it."""
    rows: int = 0
    """Rows in which it is not null."""
    types: Counter[str] = field(default_factory=Counter)
    """Type → rows that have it; absent numbers such as N/A have none."""
    numbers: int = 0
    """Rows with a number in any form."""
    begins: bool = False
    """Whether its first value is a number."""
    ids: int = 0
    """Rows with what may be an id: a text, a whole number, a UUID."""
    whole: bool = True
    """Whether all numbers are whole ones."""
    low: float = math.inf
    """Least finite number."""
    high: float = -math.inf
    """Largest finite number."""
    first: Any = None
    """The first value that is not null."""
    other: Origin | None = None
    """First row with a value that is no number."""

    def add(self, row: Row) -> None:
        """Take the value of one row."""
        value = row.values[self.name]
        if value is None:
            return
        if self.rows == 0:
            self.first = value
        self.rows += 1
        if is_absent(value):
            return
        number = to_number(value, textual=row.textual)
        self.types[_type(value, number)] += 1
        self.ids += to_id(value) is not None
        if number is None:
            self.other = self.other or row.origin
            return
        self.begins = self.begins or self.values == 1
        self.numbers += 1
        if math.isfinite(number):
            self.low, self.high = min(self.low, number), max(self.high, number)
            self.whole = self.whole and number.is_integer()

    @property
    def type(self) -> str:
        """Return in a word what it holds; several words where that differs, the most frequent first."""
        types = self.types.copy()
        if "number" in types:  # a float column with whole numbers among the others
            types["number"] += types.pop("integer", 0)
        shown = [name for name, _ in types.most_common(TYPES_SHOWN)]
        return ", ".join(shown) or "empty"

    @property
    def values(self) -> int:
        """Return in how many rows there is a value that could be a number."""
        return self.types.total()

    @property
    def is_numeric(self) -> bool:
        """Say whether it is a column of numbers: most of its values are, or half of them with the first."""
        return 2 * self.numbers + self.begins > self.values

    @property
    def holds_ids(self) -> bool:
        """Say whether most of its values may be ids."""
        return 2 * self.ids > self.values

    @property
    def holds_whole_numbers(self) -> bool:
        """Say whether every value is a whole number, in whatever form."""
        return 0 < self.numbers == self.values and self.whole

    @property
    def span(self) -> str:
        """Return its least and largest number in words."""
        return f"{self.low:,.6g} to {self.high:,.6g}" if self.low < self.high else f"{self.low:,.6g} throughout"


def profile_columns(rows: Iterable[Row]) -> dict[str, ColumnProfile]:
    """Return what each column holds, in the order of first appearance."""
    found: dict[str, ColumnProfile] = {}
    for row in rows:
        for name in row.values:
            if name not in found:
                found[name] = ColumnProfile(name)
            found[name].add(row)
    return found


def _type(value: Any, number: float | None) -> str:
    if isinstance(value, str):
        return "text" if number is None else "number as text"
    return next((word for kind, word in TYPES.items() if isinstance(value, kind)), type(value).__name__)
