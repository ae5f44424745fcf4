"""Rows of the tables that `eval` stores: their place, their attribute, their types.

N pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import polars as pl
import torch

TYPES: dict[str, type[pl.DataType]] = {
    **dict.fromkeys(("run", "reference", "data", "split", "attribute", "feature"), pl.String),
    **dict.fromkeys(("head", "other", "bin"), pl.Int32),
    "n": pl.Int64,
}
"""Of columns that are no float64."""


def place_of(frame: pl.DataFrame) -> dict[str, str]:
    """Return run, data and split of scored pairs, which are those of all of them."""
    return {name: frame[name][0] for name in ("run", "data", "split")}


def by_attribute(frame: pl.DataFrame) -> Iterator[tuple[str | None, torch.Tensor]]:
    """Yield each attribute, NULL being one of its own, by name, and the rows [n] of its pairs."""
    rows = frame.select("attribute").with_row_index("row").group_by("attribute", maintain_order=True).all()
    for attribute, found in sorted(rows.iter_rows(), key=lambda one: (one[0] or "", one[0] is None)):
        yield attribute, torch.tensor(found)


def table_of(rows: Iterable[dict[str, Any]], columns: Iterable[str]) -> pl.DataFrame:
    """Return rows as a table with these columns, whose types do not depend on the rows."""
    return pl.DataFrame(list(rows), schema={name: TYPES.get(name, pl.Float64) for name in columns})
