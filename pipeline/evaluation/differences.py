"""The table `mixture_vs_single`: a run's accuracy less that of each evaluated single reward, on the pairs both scored.

n pairs of one attribute that both have scores for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import polars as pl

from micropref.cache.datasets import Dataset
from micropref.cache.errors import MicroprefError
from micropref.cache.runs.records import Run, readable_runs
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.groups import sides_of
from micropref.heads.evaluation.intervals import mean_intervals
from micropref.heads.evaluation.metrics import correct
from micropref.heads.methods.registry import methods
from micropref.pipeline.evaluation.rows import by_attribute, table_of
from micropref.pipeline.evaluation.scoring import as_scores, current_scores
from micropref.pipeline.training.method_runs import fitted_contexts, open_reading

REFERENCE = "single"
"""Method of the runs that others are compared with."""
COLUMNS = ("run", "reference", "data", "split", "attribute", "n", "difference", "low", "high")
OWN, THEIRS = "right", "right_reference"


def differences_table(store: StoreFolder, run: Run, dataset: Dataset, split: str, frame: pl.DataFrame) -> pl.DataFrame:
    """Return a run's differences to every single reward evaluated on the split, from the run's scores of it.

    Of a single reward also those of every other evaluated run to it.
    """
    own = _rights(run, frame)
    rows = []
    for other in _evaluated(store, dataset.name, split):
        compared = [(run, other)] if _is_reference(other) else []
        compared += [(other, run)] if _is_reference(run) else []
        if other.id == run.id or not compared:
            continue
        with suppress(MicroprefError):  # damage of another run, which `verify` names, is no reason to stop
            rights = {run.id: own, other.id: _rights(other, current_scores(other, dataset, split))}
            rows += [
                row
                for one, reference in compared
                for row in _rows(store, one, reference, rights[one.id], rights[reference.id])
            ]
    return table_of(rows, COLUMNS).sort("run", "reference", maintain_order=True)


def _evaluated(store: StoreFolder, data: str, split: str) -> Iterator[Run]:
    """Yield the runs that have tables and scores of a split."""
    for run in readable_runs(store):
        with suppress(MicroprefError):
            tabled = any(item.record["split"] == split for item in run.tables(data))
            if tabled and run.score_shards(data, split) and run.record["method"] in methods():
                yield run


def _is_reference(run: Run) -> bool:
    return bool(run.record["method"] == REFERENCE)


def _rights(run: Run, frame: pl.DataFrame) -> pl.DataFrame:
    """Return scored pairs with whether the run gets each right, ½ for a tie."""
    right = correct(as_scores(run, frame).log_probability())
    columns = ["data", "split", "pair_id", "prompt_id", "user", "context", "attribute"]
    return frame.select(columns).with_columns(pl.Series(OWN, right.numpy()))


def _rows(
    store: StoreFolder, run: Run, reference: Run, own: pl.DataFrame, theirs: pl.DataFrame
) -> Iterator[dict[str, object]]:
    both = own.join(theirs.select("pair_id", OWN), on="pair_id", suffix="_reference", maintain_order="left")
    if both.is_empty():
        return
    known = fitted_contexts(store, run) if open_reading(store, run).reads_contexts else None
    sides = sides_of(both, known)
    difference = (both[OWN] - both[THEIRS]).to_torch()[:, None]
    named = {"run": run.id, "reference": reference.id, "data": both["data"][0], "split": both["split"][0]}
    for attribute, rows in by_attribute(both):
        found = mean_intervals(difference[rows], {name: ids[rows] for name, ids in sides.items()}, "difference")
        figures = {"n": len(rows), "difference": found.mean.item(), "low": found.low.item(), "high": found.high.item()}
        yield named | {"attribute": attribute} | figures
