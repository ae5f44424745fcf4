"""What is split and resampled together: the pairs of one prompt."""

from __future__ import annotations

import polars as pl
import torch


def prompt_clusters(table: pl.DataFrame) -> torch.Tensor:
    """Return the number of each pair's prompt [N]: what intervals resample."""
    return table["prompt_id"].rank("dense").cast(pl.Int64).to_torch()
