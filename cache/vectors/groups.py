"""What is split together, and what pairs may share that makes them alike: a prompt, a person, a wording."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl
import torch


def prompt_clusters(table: pl.DataFrame) -> torch.Tensor:
    """Return the number of each pair's prompt [N]: what is split together."""
    return clusters_of(table["prompt_id"])


def clusters_of(names: pl.Series) -> torch.Tensor:
    """Return a number for each name [N], the same for the same."""
    return names.rank("dense").cast(pl.Int64).to_torch()


def distinct_contexts(contexts: Iterable[pl.Series]) -> pl.Series:
    """Return the distinct contexts of all series, as `sides_of` takes them."""
    return pl.concat([pl.Series(dtype=pl.String), *contexts]).drop_nulls().unique()


def sides_of(table: pl.DataFrame, fitted_contexts: pl.Series | None = None) -> dict[str, torch.Tensor]:
    """Return what intervals are over, with a number for each pair [N]: users where any are named, and prompts.

    Also wordings, for figures of a model that reads contexts and was fitted on `fitted_contexts` (distinct): a new
    wording may be misread in all its pairs, while one that was fitted is no draw from many. Pairs that name no user
    share none, nor do pairs without a new wording.
    """
    names = {"users": table["user"], "prompts": table["prompt_id"]}
    if fitted_contexts is not None:
        known = table["context"].is_in(fitted_contexts.implode())
        names["wordings"] = table["context"].set(known.fill_null(value=False), None)
    return {side: clusters_of(_own_where_missing(one)) for side, one in names.items() if one.null_count() < len(one)}


def _own_where_missing(names: pl.Series) -> pl.Series:
    known = names.rank("dense").cast(pl.Int64).to_frame("known")
    return known.select(pl.col("known").fill_null(-1 - pl.int_range(pl.len()))).to_series()
