"""The data behind a report: each source of a data set, and how many pairs, people and wordings it has."""

from __future__ import annotations

from pathlib import PurePath

import polars as pl

from micropref.cache.datasets import Dataset, read_table

COUNTED = {"prompts": "prompt_id", "attributes": "attribute", "contexts": "context", "people": "user"}
"""Columns of `data_sources`, and what they count distinct values of."""


def data_sources(dataset: Dataset) -> pl.DataFrame:
    """Return one row for each source of each split: split, source, pairs, prompts, attributes, contexts, people.

    Of a file on this machine it is the name alone: a page is passed on.
    """
    rows = []
    for part in dataset.parts:
        pairs = read_table(part, "pairs", list(COUNTED.values()))
        counts = {name: pairs[column].drop_nulls().n_unique() for name, column in COUNTED.items()}
        source = PurePath(part.record["source"])
        shown = source.name if source.is_absolute() else str(source)
        rows.append({"split": part.record["split"], "source": shown, "pairs": pairs.height, **counts})
    return pl.DataFrame(rows)
