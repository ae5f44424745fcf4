"""What routing gained: accuracies for every size of a budget, in all and by attribute, with intervals over prompts.

N scored pairs, n of one attribute, S sizes of which the first is 0, the run as it was; K heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl
import torch

from micropref.cache.vectors.groups import prompt_clusters
from micropref.heads.evaluation.metrics import BOOTSTRAP_SEED, cluster_intervals

Taus = Mapping[int, float | None]
"""Size -> temperature; None where the router was left as it was."""


def totals(table: pl.DataFrame, right: torch.Tensor, taus: Taus) -> pl.DataFrame:
    """Return accuracy and gain over size 0 on all pairs, from which are right [N, S].

    All columns see the same resampled prompts, so a gain is a paired difference.
    """
    gain = right - right[:, :1]
    low, high = cluster_intervals(torch.cat([right, gain], 1), prompt_clusters(table), seed=BOOTSTRAP_SEED)
    sizes = right.shape[1]
    columns = {"n": [table.height] * sizes, "accuracy": right.mean(0).tolist()}
    columns |= {"low": low[:sizes].tolist(), "high": high[:sizes].tolist(), "gain": gain.mean(0).tolist()}
    return _sized(columns | {"gain_low": low[sizes:].tolist(), "gain_high": high[sizes:].tolist()}, taus)


def curve(table: pl.DataFrame, right: torch.Tensor, taus: Taus) -> pl.DataFrame:
    """Return accuracy by attribute, NULL being one of its own, from which are right [N, S]."""
    parts = []
    for name in sorted(table["attribute"].unique(), key=lambda name: name or ""):
        mask = table["attribute"].eq_missing(name)
        own, found = table.filter(mask), right[mask.to_torch()]
        low, high = cluster_intervals(found, prompt_clusters(own), seed=BOOTSTRAP_SEED)
        columns: dict[str, Any] = {"attribute": [name] * len(taus), "n": [own.height] * len(taus)}
        columns |= {"accuracy": found.mean(0).tolist(), "low": low.tolist(), "high": high.tolist()}
        parts.append(_sized(columns, taus))
    return pl.concat(parts)


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
