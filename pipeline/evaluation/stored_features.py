"""Text features of a data set's pairs: computed once for each part, kept in the store, made again when pairs change.

N pairs.
"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl
import pyarrow.parquet as pq

from micropref.cache.commits import Commit, commit, write_table
from micropref.cache.datasets import Dataset, read_table
from micropref.cache.errors import Damaged
from micropref.cache.schemas import TEXT_FEATURES, TEXT_FEATURES_VERSION
from micropref.pipeline.evaluation.text_features import NAMES, text_features

BATCH = 1 << 16
"""Pairs read at a time: bounds memory to their texts."""
HASHES = ("first", "second")
"""Two 64-bit hashes stand for a text while a part is read, so that no text is held, nor read twice."""


def feature_differences(dataset: Dataset, split: str, names: list[str] | None = None) -> pl.DataFrame:
    """Return features of each pair's chosen response less those of the rejected one, in source order.

    Columns: pair_id and the features named, all by default (float32). What is not stored is computed and stored.
    """
    columns = None if names is None else ["pair_id", *names]
    return pl.concat([read_table(_stored(dataset, part), TEXT_FEATURES, columns) for part in dataset.of_split(split)])


def _stored(dataset: Dataset, part: Commit) -> Commit:
    """Return the text features of a part, made now where there are none or they are damaged."""
    try:
        found = dataset.text_features(part)
    except Damaged:
        found = None
    if found is not None and not found.damage(TEXT_FEATURES, digest=True):
        return found
    table = pl.concat(list(_differences(part))) if part.files["pairs"].rows else _no_pairs()
    folder = dataset.text_features_folder
    files = {TEXT_FEATURES: write_table(folder, part.stem, TEXT_FEATURES, table.to_arrow())}
    record = {"pairs_digest": part.files["pairs"].digest, "version": TEXT_FEATURES_VERSION}
    return commit(folder, part.stem, files, record)


def _no_pairs() -> pl.DataFrame:
    return pl.DataFrame(schema={"pair_id": pl.String, **dict.fromkeys(NAMES, pl.Float32)})


def _differences(part: Commit) -> Iterator[pl.DataFrame]:
    """Yield the features' differences of batches of pairs; each distinct text is read once."""
    known = pl.DataFrame(schema={**dict.fromkeys(HASHES, pl.UInt64), **dict.fromkeys(NAMES, pl.Float32)})
    file = pq.ParquetFile(part.checked_path("pairs"))
    for batch in file.iter_batches(BATCH, columns=["pair_id", "chosen", "rejected"]):
        pairs = pl.DataFrame(pl.from_arrow(batch))
        sides = [_hashed(pairs[side]) for side in ("chosen", "rejected")]
        fresh = pl.concat(sides).unique(HASHES, keep="first", maintain_order=True).join(known, on=HASHES, how="anti")
        known = pl.concat([known, pl.concat([fresh.drop("text"), text_features(fresh["text"])], how="horizontal")])
        chosen, rejected = (
            side.drop("text").join(known, on=HASHES, how="left", maintain_order="left").drop(HASHES) for side in sides
        )
        yield pl.concat([pairs.select("pair_id"), chosen - rejected], how="horizontal")


def _hashed(texts: pl.Series) -> pl.DataFrame:
    text = pl.col("text")
    return texts.alias("text").to_frame().with_columns(text.hash(seed).alias(name) for seed, name in enumerate(HASHES))
