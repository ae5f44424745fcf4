"""Wordings of contexts: a run's accuracy on those it was trained on, and on new ones.

N pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import polars as pl
import torch

from micropref.heads.evaluation.metrics import correct


@dataclass(frozen=True)
class Wordings:
    """A mixture's accuracy on pairs whose context it was trained on, and on pairs whose context it was not."""

    trained: int
    """Distinct contexts of the train split."""
    here: int
    """Distinct contexts of the evaluated pairs."""
    new: int
    """Of these, those that the train split has not."""
    seen_pairs: int
    """Evaluated pairs with a context of the train split."""
    new_pairs: int
    """Evaluated pairs with another one."""
    seen_accuracy: float | None
    """None where there is no such pair."""
    new_accuracy: float | None
    """None where there is no such pair."""
    context_known: int | None = None
    """New contexts that resemble one of the train split; None where the run does not say."""


def compare_wordings(
    frame: pl.DataFrame,
    trained: set[str],
    log_probability: torch.Tensor,
    count_known: Callable[[pl.Series], int | None] = lambda _: None,
) -> Wordings | None:
    """Compare pairs by whether their context was trained on, from their predictions [N]; None without contexts.

    `count_known` says how many of some contexts resemble those trained on.
    """
    table = frame.select("context").with_columns(right=pl.Series(correct(log_probability).numpy()))
    table = table.drop_nulls("context").with_columns(seen=pl.col("context").is_in(trained))
    if table.is_empty():
        return None
    seen, new = table.filter(pl.col("seen")), table.filter(~pl.col("seen"))
    return Wordings(
        trained=len(trained),
        here=table["context"].n_unique(),
        new=new["context"].n_unique(),
        seen_pairs=seen.height,
        new_pairs=new.height,
        seen_accuracy=float(seen["right"].to_numpy().mean()) if seen.height else None,
        new_accuracy=float(new["right"].to_numpy().mean()) if new.height else None,
        context_known=count_known(new["context"]),
    )
