"""What is split and resampled together: the pairs of one prompt, or of one person."""

from __future__ import annotations

import polars as pl
import torch


def prompt_clusters(table: pl.DataFrame) -> torch.Tensor:
    """Return the number of each pair's prompt [N]: what intervals resample."""
    return clusters_of(table["prompt_id"])


def clusters_of(names: pl.Series) -> torch.Tensor:
    """Return a number for each name [N], the same for the same."""
    return names.rank("dense").cast(pl.Int64).to_torch()
