"""Runs on the same pairs: their accuracies, and how far each is from one of them.

R runs, N pairs that all of them scored, A attributes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
import torch

from micropref.heads.evaluation.comparison import Comparison, compare
from micropref.pipeline.evaluation.differences import REFERENCE
from micropref.pipeline.evaluation.reporting.run_report import RunReport

MEAN = "mean of the attributes"


@dataclass(frozen=True)
class SideBySide:
    """Runs compared on the pairs of one data set's split that all have scores for."""

    data: str
    split: str
    runs: tuple[RunReport, ...]
    attributes: tuple[str | None, ...]
    """In the order of the comparison's columns, whose last one is the mean over them."""
    counts: tuple[int, ...]
    """Pairs of each."""
    reference: int
    """Which of the runs the others are compared with: the first single reward, else the first run."""
    comparison: Comparison

    @property
    def pairs(self) -> int:
        """Return N."""
        return sum(self.counts)


def side_by_side(runs: Sequence[RunReport]) -> list[SideBySide]:
    """Compare the runs that were scored on the same split, in the order of its first run; one run is not compared."""
    groups: dict[tuple[str, str], list[RunReport]] = {}
    for one in runs:
        groups.setdefault((one.tables.data, one.tables.split), []).append(one)
    found = (_compared(members) for members in groups.values() if len(members) > 1)
    return [one for one in found if one is not None]


def _compared(runs: Sequence[RunReport]) -> SideBySide | None:
    """Compare runs on the pairs that all have; None where there are none."""
    both = runs[0].rights.pairs.select("pair_id", "attribute").with_row_index("row_0")
    for place, run in enumerate(runs[1:], 1):
        rows = run.rights.pairs.select("pair_id").with_row_index(f"row_{place}")
        both = both.join(rows, on="pair_id", how="inner", maintain_order="left")
    if both.is_empty():
        return None
    taken = [both[f"row_{place}"].cast(pl.Int64).to_torch() for place in range(len(runs))]
    right = torch.stack(
        [one.rights.pairs["right"].to_torch().double()[rows] for one, rows in zip(runs, taken, strict=True)]
    )
    sides = [{name: ids[rows] for name, ids in one.rights.sides.items()} for one, rows in zip(runs, taken, strict=True)]
    names = both["attribute"].unique().sort(nulls_last=True)
    groups = both["attribute"].rank("dense").cast(pl.Int64).fill_null(len(names.drop_nulls()) + 1).to_torch() - 1
    reference = next((place for place, one in enumerate(runs) if one.method == REFERENCE), 0)
    counts = torch.bincount(groups, minlength=len(names)).tolist()
    first = runs[0].tables
    found = compare(right, groups, sides, reference)
    return SideBySide(first.data, first.split, tuple(runs), tuple(names.to_list()), tuple(counts), reference, found)
