"""What routing gained: accuracies for every size of a budget, in all and by attribute, with intervals.

N scored pairs, n of one attribute, S sizes of which the first is 0, the run as it was; K heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl
import torch

from micropref.cache.vectors.groups import sides_of
from micropref.heads.evaluation.intervals import Intervals, mean_intervals

Taus = Mapping[int, float | None]
"""Size -> temperature; None where the router was left as it was."""


def totals(table: pl.DataFrame, known: pl.Series, right: torch.Tensor, taus: Taus) -> tuple[pl.DataFrame, Intervals]:
    """Return accuracy and gain over size 0 on all pairs, from which are right [N, S]; and the accuracies' intervals.

    A gain is a paired difference. Intervals are over wordings too that are not among the `known` ones of the budget.
    """
    sides = sides_of(table, known)
    found, gains = mean_intervals(right, sides, "share"), mean_intervals(right - right[:, :1], sides, "difference")
    columns = {"n": [table.height] * right.shape[1], "accuracy": found.mean.tolist()}
    columns |= {"low": found.low.tolist(), "high": found.high.tolist(), "gain": gains.mean.tolist()}
    # Size 0 is what is compared with: of its gain nothing is in doubt.
    ends = {"gain_low": [0.0, *gains.low.tolist()[1:]], "gain_high": [0.0, *gains.high.tolist()[1:]]}
    return _sized(columns | ends, taus), found


def curve(
    table: pl.DataFrame, known: pl.Series, right: torch.Tensor, taus: Taus
) -> tuple[pl.DataFrame, list[Intervals]]:
    """Return accuracy by attribute, NULL being one of its own, from which are right [N, S]; and all intervals."""
    parts, intervals = [], []
    for name in sorted(table["attribute"].unique(), key=lambda name: name or ""):
        mask = table["attribute"].eq_missing(name)
        own = table.filter(mask)
        found = mean_intervals(right[mask.to_torch()], sides_of(own, known), "share")
        intervals.append(found)
        columns: dict[str, Any] = {"attribute": [name] * len(taus), "n": [own.height] * len(taus)}
        columns |= {"accuracy": found.mean.tolist(), "low": found.low.tolist(), "high": found.high.tolist()}
        parts.append(_sized(columns, taus))
    return pl.concat(parts), intervals


def oracle(table: pl.DataFrame, right: torch.Tensor) -> float:
    """Return the accuracy where each attribute has the head best on these very pairs, from which are right [N, K]."""
    best = torch.zeros(len(right), dtype=right.dtype)
    for name in table["attribute"].unique():
        mask = table["attribute"].eq_missing(name).to_torch()
        best[mask] = right[mask][:, right[mask].mean(0).argmax()]
    return float(best.mean())


def _sized(columns: dict[str, Any], taus: Taus) -> pl.DataFrame:
    types = {"budget": pl.Int64, "tau": pl.Float64, "attribute": pl.String, "n": pl.Int64}
    sized = {"budget": list(taus), "tau": list(taus.values()), **columns}
    return pl.DataFrame(sized, schema_overrides={name: types[name] for name in types if name in sized})
