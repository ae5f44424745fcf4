"""Contexts embedded by themselves: which vector each context's text became, one committed table per features id.

The vectors lie among the others. Like them they belong to no data set: a text has one key under one features id. A
table is written in parts, each with the contexts that no earlier part has.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

import polars as pl
import pyarrow as pa

from micropref.cache.commits import Commit, commit, commit_paths, read_commit, read_commits, write_table
from micropref.cache.datasets import Dataset, read_table
from micropref.cache.errors import Damaged
from micropref.cache.keys import short_id
from micropref.cache.schemas import CONTEXT_SCHEMA
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.features import Features

ROLE = "contexts"
"""Name of the folder next to the shards, and of the tables there."""


def context_parts(features: Features) -> list[Commit]:
    """Return the committed parts of the table by name. Raises Damaged at the first that is not whole."""
    return read_commits(features.folder / ROLE)


def context_keys(features: Features) -> pl.DataFrame:
    """Return the columns context and key, one row a context, perhaps none. Raises Damaged where a part is."""
    return _joined([read_table(part, ROLE) for part in context_parts(features)])


def stored_context_keys(features: Features, contexts: Collection[str]) -> dict[str, bytes]:
    """Return the keys of those contexts that are in whole parts of the table and whose vectors are stored."""
    found = _whole_parts(features)[0].filter(pl.col("context").is_in(contexts))
    return dict(found.filter(pl.Series(features.locate(found["key"]) >= 0)).iter_rows())


def add_context_keys(features: Features, keys: Mapping[str, bytes]) -> None:
    """Commit the keys of contexts that the table lacks, then forget its damaged parts: what they held is given again.

    Call it when all vectors are stored.
    """
    table, damaged = _whole_parts(features)
    there = set(table["context"])
    new = sorted(set(keys) - there)
    if new:
        folder, stem = features.folder / ROLE, short_id(new, 32)
        rows = pa.table({"context": new, "key": [keys[context] for context in new]}, schema=CONTEXT_SCHEMA)
        commit(folder, stem, {ROLE: write_table(folder, stem, ROLE, rows)}, {})
        damaged = [path for path in damaged if path.stem != stem]
    for path in damaged:
        path.unlink(missing_ok=True)


def needed_contexts(store: StoreFolder, features_id: str) -> set[str]:
    """Return the contexts of all pairs that are linked to some features, in any data set."""
    found: set[str] = set()
    for name in store.names("datasets"):
        found |= linked_contexts(Dataset(name, store.dataset(name)), features_id)
    return found


def linked_contexts(dataset: Dataset, features_id: str) -> set[str]:
    """Return the contexts of a data set's pairs that are linked to some features; damaged parts tell nothing."""
    found: set[str] = set()
    for part in dataset.parts:
        with suppress(Damaged):
            if dataset.links(part, features_id) is not None:
                found.update(read_table(part, "pairs", ["context"])["context"].drop_nulls().unique())
    return found


def _whole_parts(features: Features) -> tuple[pl.DataFrame, list[Path]]:
    """Return the table without its damaged parts, and the commit files of those."""
    tables, damaged = [], []
    for path in commit_paths(features.folder / ROLE):
        try:
            if (part := read_commit(path)) is not None:
                tables.append(read_table(part, ROLE))
        except Damaged:
            damaged.append(path)
    return _joined(tables), damaged


def _joined(tables: list[pl.DataFrame]) -> pl.DataFrame:
    empty = pl.DataFrame(schema={"context": pl.String, "key": pl.Binary})
    return pl.concat([empty, *tables]).unique("context", keep="first", maintain_order=True)
