"""The table `calibration`: what a run's probabilities are worth, by attribute.

N pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import polars as pl
import torch

from micropref.heads.evaluation.calibration import calibration_bins
from micropref.pipeline.evaluation.rows import by_attribute, place_of, table_of

COLUMNS = ("run", "data", "split", "attribute", "bin", "n", "mean_probability", "accuracy", "low", "high")


def calibration_table(
    frame: pl.DataFrame, log_probability: torch.Tensor, sides: Mapping[str, torch.Tensor]
) -> pl.DataFrame:
    """Return one row for each attribute and bin with pairs, from scaled log P(chosen) [N] of the pairs of `frame`."""
    found = []
    for attribute, rows in by_attribute(frame):
        bins = calibration_bins(log_probability[rows], {name: ids[rows] for name, ids in sides.items()})
        found += [place_of(frame) | {"attribute": attribute} | asdict(one) for one in bins]
    return table_of(found, COLUMNS)
