"""Rated responses as tensors.

M rated responses, A attributes, D embedding width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import polars as pl
import torch

from micropref.cache.datasets import Dataset, has_response_ids, read_table
from micropref.cache.errors import BadInput
from micropref.cache.vectors.features import Features
from micropref.cache.vectors.gathering import gather_keys


@dataclass(frozen=True)
class RatedFeatures:
    """Rated responses of a split that some embedded pair holds."""

    prompts: pl.Series
    """Prompt id of each response [M]."""
    embedding: torch.Tensor
    """e(x, a) [M, D] float32."""
    ratings: torch.Tensor
    """[M, A] float32, NaN where a response was not rated; the mean where it was rated more than once."""
    attributes: tuple[str, ...]
    """Names of the A columns, sorted."""


def load_rated(dataset: Dataset, features: Features, split: str, *, part: str) -> RatedFeatures:
    """Gather the rated responses to the prompts of one part of a split.

    A response is found by the pairs it is in: one that is tied with all others has no vector and is left out.
    Raises BadInput where the data set has no ratings, or its pairs do not name their responses.
    """
    parts = [item for item in dataset.of_split(split) if "ratings" in item.files]
    if not parts:
        raise BadInput(f"data set {dataset.name!r}, split {split!r}: it has no ratings; embed rated responses")
    unnamed = [item for item in dataset.of_split(split) if not has_response_ids(item)]
    if unnamed:
        source = unnamed[0].record["source"]
        raise BadInput(
            f"data set {dataset.name!r}, split {split!r}: the pairs of {source} were stored before responses had "
            f"names; run `micropref embed {source} --name {dataset.name} --split {split} --replace`"
        )
    ratings = pl.concat([read_table(item, "ratings", ["response_id", "attribute", "rating"]) for item in parts])
    wide = ratings.pivot("attribute", index="response_id", values="rating", aggregate_function="mean")
    found = wide.join(_response_keys(dataset, features, split, part), on="response_id", how="inner").sort("response_id")
    if not found.height:
        raise BadInput(f"data set {dataset.name!r}, split {split!r}: no rated response is in a pair to fit")
    attributes = tuple(sorted(set(ratings["attribute"])))
    values = found.select(attributes).cast(pl.Float32).fill_null(math.nan).to_torch()
    return RatedFeatures(found["prompt_id"], gather_keys(features, found["key"]), values, attributes)


def _response_keys(dataset: Dataset, features: Features, split: str, part: str) -> pl.DataFrame:
    """Return response_id, prompt_id and key of every response of the embedded pairs."""
    names = ["chosen_id", "rejected_id", "chosen_key", "rejected_key"]
    frame = dataset.linked_pairs(features.id, split, ["part", "prompt_id", *names]).filter(pl.col("part") == part)
    sides = [
        frame.select("prompt_id", pl.col(f"{side}_id").alias("response_id"), pl.col(f"{side}_key").alias("key"))
        for side in ("chosen", "rejected")
    ]
    return pl.concat(sides).drop_nulls().unique("response_id", keep="first", maintain_order=True)
