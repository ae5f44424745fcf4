"""An evaluation's tables without evaluating again: those kept with the run, if they are those of today."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from micropref.cache.choices import TEST
from micropref.cache.datasets import read_table
from micropref.cache.errors import Failure
from micropref.cache.maintenance.uses import holds
from micropref.cache.runs.data import open_run_data
from micropref.cache.runs.names import find_run, holds_heads
from micropref.cache.runs.records import readable_runs
from micropref.cache.store import StoreFolder
from micropref.pipeline.evaluation.evaluate import evaluate
from micropref.pipeline.evaluation.kept import ROLES, current_tables, kept_differences


@dataclass(frozen=True)
class StoredTables:
    """The tables of a run on one split; each has the columns of the view of its name."""

    run: str
    data: str
    split: str
    pairs: int
    """Pairs with scores."""
    accuracy: float
    """Of the mixture, over all of them."""
    head_accuracy: pl.DataFrame
    mixture_accuracy: pl.DataFrame
    best_head: pl.DataFrame
    router_weights: pl.DataFrame
    calibration: pl.DataFrame
    head_profile: pl.DataFrame
    head_correlation: pl.DataFrame
    mixture_vs_single: pl.DataFrame
    """Against every evaluated single reward, also those evaluated after the run."""


@holds(run="run_id", data="data")
def stored_tables(store: StoreFolder, run_id: str, data: str | None = None, split: str = TEST) -> StoredTables:
    """Return the tables of a run on a split of a data set, by default its own; evaluates where they are not of today.

    Raises BadInput as `evaluate` does.
    """
    run = find_run(store, run_id, holds_heads)
    dataset = open_run_data(store, run, data)
    dataset.of_split(split)
    if current_tables(run, dataset, split) is None:
        evaluate(store, run.id, dataset.name, split)
    found = current_tables(run, dataset, split)
    if found is None:
        raise Failure(f"run {run.id}: its scores on {dataset.name}/{split} changed while they were read; run it again")
    tables = {role: read_table(found, role) for role in ROLES}
    tables["mixture_vs_single"] = kept_differences(readable_runs(store), dataset.name, split, run.id)
    pairs, accuracy = found.record["pairs"], found.record["accuracy"]
    return StoredTables(run.id, dataset.name, split, pairs, accuracy, **tables)
