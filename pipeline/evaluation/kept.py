"""The tables of an evaluation as they are kept with a run, and what they were made of: are they those of today."""

from __future__ import annotations

from typing import Any

import polars as pl

from micropref.cache.choices import TRAIN
from micropref.cache.commits import Commit, commit, write_table
from micropref.cache.datasets import Dataset, read_table
from micropref.cache.errors import Damaged
from micropref.cache.keys import short_id
from micropref.cache.runs.records import LATER_TABLES, TABLES, Run
from micropref.cache.schemas import TEXT_FEATURES_VERSION
from micropref.heads.evaluation.intervals import RULE

ROLES = (*TABLES, *LATER_TABLES)
MADE_OF = "made_of"
"""Where the record of tables says what they were made of."""


def keep_tables(
    run: Run, dataset: Dataset, split: str, tables: dict[str, pl.DataFrame], figures: dict[str, Any]
) -> None:
    """Write the tables of a split and what they were made of."""
    folder, stem = run.eval_folder(dataset.name), f"tables-{split}"
    files = {role: write_table(folder, stem, role, table.to_arrow()) for role, table in tables.items()}
    record = {"split": split, **figures, "intervals": RULE, MADE_OF: _made_of(run, dataset, split)}
    commit(folder, stem, files, record)


def current_tables(run: Run, dataset: Dataset, split: str) -> Commit | None:
    """Return the kept tables of a split; None where they are damaged, or of other pairs or scores than today's."""
    try:
        found = [item for item in run.tables(dataset.name) if item.record["split"] == split]
    except Damaged:
        return None
    whole = (
        found and set(ROLES) <= set(found[0].files) and not any(found[0].damage(role, digest=True) for role in ROLES)
    )
    return found[0] if whole and found[0].record.get(MADE_OF) == _made_of(run, dataset, split) else None


def kept_differences(runs: list[Run], data: str, split: str, run_id: str) -> pl.DataFrame:
    """Return a run's rows of `mixture_vs_single` whichever run keeps them, one for each reference that is there."""
    ids = [run.id for run in runs]
    found = [
        read_table(item, "mixture_vs_single").filter(pl.col("run") == run_id, pl.col("reference").is_in(ids))
        for run in runs
        for item in run.tables(data)
        if item.record["split"] == split and "mixture_vs_single" in item.files
    ]
    once = pl.concat(found).sort("n", descending=True, maintain_order=True)
    return once.unique(["reference", "attribute"], keep="first", maintain_order=True).sort("reference", "attribute")


def _made_of(run: Run, dataset: Dataset, split: str) -> str:
    """Return a short hash of the pairs, the scores and the rules that tables are made of."""
    splits = sorted({split, TRAIN} & set(dataset.splits()))
    scores = sorted(item.files["scores"].digest for one in splits for item in run.score_shards(dataset.name, one))
    pairs = [dataset.digest(one) for one in splits]
    return short_id([pairs, scores, run.record["heads_digest"], run.scale, RULE, TEXT_FEATURES_VERSION])
