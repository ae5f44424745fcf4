"""The tables `head_profile` and `head_correlation`: what each head likes in texts, and how alike heads are.

N pairs, K heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import polars as pl
import torch

from micropref.heads.evaluation.profile import (
    LEAST_CLUSTERS,
    Correlations,
    SignedSizes,
    distinct,
    feature_correlations,
    head_correlations,
)
from micropref.pipeline.evaluation.rows import place_of, table_of
from micropref.pipeline.evaluation.text_features import NAMES

LENGTH = "length"
THREADS = 2
"""Features at a time, each on one thread: steps are small, and memory is a few copies of the margins for each."""
PROFILE = ("run", "data", "split", "head", "feature", "n", "correlation", "low", "high", "p_value", "given_length")
ALIKE = ("run", "data", "split", "head", "other", "n", "correlation")


def head_tables(
    frame: pl.DataFrame, margins: torch.Tensor, features: pl.DataFrame, sides: Mapping[str, torch.Tensor]
) -> dict[str, pl.DataFrame]:
    """Return both tables from margins [N, K] of the pairs of `frame`, and their features' differences by pair_id.

    Intervals are over prompts and people; over prompts alone where fewer than LEAST_CLUSTERS people are named, for what
    two texts are given does not depend on who judges them.
    """
    sizes = SignedSizes.of(margins)
    return {"head_profile": _profile(frame, sizes, features, sides), "head_correlation": _alike(frame, sizes)}


def _profile(
    frame: pl.DataFrame, margins: SignedSizes, features: pl.DataFrame, sides: Mapping[str, torch.Tensor]
) -> pl.DataFrame:
    own = frame.select("pair_id").join(features, on="pair_id", how="left", maintain_order="left")
    kept = {name: ids for name, ids in sides.items() if name == "prompts" or distinct(ids) >= LEAST_CLUSTERS}
    length = SignedSizes.of(own[LENGTH].to_torch()[:, None])

    def correlate(name: str) -> Correlations:
        given = None if name == LENGTH else length
        return feature_correlations(margins, own[name].to_torch(), kept, given, needed=["prompts"])

    with ThreadPoolExecutor(THREADS, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        found = dict(zip(NAMES, pool.map(correlate, NAMES), strict=True))
    place = place_of(frame)
    rows = (place | {"feature": name} | one for name in NAMES for one in _by_head(found[name]))
    return table_of(rows, PROFILE).sort("head", maintain_order=True)


def _by_head(found: Correlations) -> list[dict[str, float | int | None]]:
    figures = (found.correlation, found.low, found.high, found.p_value, found.given)
    return [
        {"head": head, "n": found.n, **{name: _known(one) for name, one in zip(PROFILE[6:], values, strict=True)}}
        for head, values in enumerate(torch.stack(figures, 1).tolist())
    ]


def _alike(frame: pl.DataFrame, margins: SignedSizes) -> pl.DataFrame:
    found = head_correlations(margins).tolist()
    return table_of(
        (
            place_of(frame) | {"head": head, "other": other, "n": frame.height, "correlation": _known(value)}
            for head, values in enumerate(found)
            for other, value in enumerate(values)
            if other != head
        ),
        ALIKE,
    )


def _known(value: float) -> float | None:
    return None if value != value else value
