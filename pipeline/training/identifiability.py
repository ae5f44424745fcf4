"""What can be learned from a data set: how often each user chose, in how many contexts, and which pairs share a group.

N pairs.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import polars as pl
import torch

from micropref.cache.choices import RouterInput
from micropref.cache.errors import BadInput
from micropref.heads.choices import Latent
from micropref.heads.methods.base import UnitKind

ENOUGH = 4
"""Pairs of a person, in the median, from which choices alone identify groups."""
LEAST_FOR = {"pal-a": 7, "pal-b": 7}
"""Pairs of a unit, in the median, below which a method's networks learn pairs by heart before units differ."""


@dataclass(frozen=True)
class Identified:
    """Users and contexts of the pairs to fit."""

    users: int
    """Users named."""
    pairs_without_user: int
    median: float | None
    """Pairs of a user; None without users, as are the next two."""
    least: int | None
    most: int | None
    contexts: int
    """Distinct contexts."""
    latent: Latent
    """What to give one group: user where contexts are not read and people chose often enough, else pair."""


def identify(table: pl.DataFrame, router_input: RouterInput) -> Identified:
    """Count users and contexts of the pairs to fit, of which the router reads what `router_input` says."""
    own = table["user"].drop_nulls().value_counts()["count"].to_list()
    median = float(statistics.median(own)) if own else None
    often = len(own) > 1 and median is not None and median >= ENOUGH
    return Identified(
        users=len(own),
        pairs_without_user=table["user"].null_count(),
        median=median,
        least=min(own, default=None),
        most=max(own, default=None),
        contexts=table["context"].drop_nulls().n_unique(),
        latent="user" if often and router_input == "prompt" else "pair",
    )


def unit_columns(table: pl.DataFrame, latent: Latent, router_input: RouterInput) -> list[str]:
    """Return the columns that make a unit: a context, or a user, or both where a user's router reads several contexts.

    Raises BadInput where no pair names one.
    """
    if table[latent].null_count() == table.height:
        raise BadInput(
            f"latent {latent}: no training pair names a {latent}; embed rows with the field {latent!r}, or leave "
            "`latent` out"
        )
    joint = latent == "user" and router_input != "prompt" and contexts_differ(table)
    return ["user", "context"] if joint else [latent]


def contexts_differ(table: pl.DataFrame) -> bool:
    """Say whether any user chose in several contexts; no context is one of them."""
    contexts = table.drop_nulls("user").group_by("user").agg(pl.col("context").n_unique())["context"]
    return bool((contexts > 1).any())


def unit_codes(
    fitting: pl.DataFrame, validation: pl.DataFrame, columns: list[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the code of each pair's unit [N], alike in both parts; pairs that name none are units of their own."""
    keys = pl.concat([fitting.select(columns), validation.select(columns)]).with_row_index("row")
    named = pl.col(columns[0]).is_not_null()
    alone = pl.when(named).then(None).otherwise(pl.col("row"))
    codes = keys.select(pl.struct(*columns, alone.alias("row")).rank("dense")).to_series().cast(pl.Int64).to_torch()
    return codes[: fitting.height], codes[fitting.height :]


def few_choices(method: str, kind: UnitKind, named: pl.Series) -> list[str]:
    """Return what a method that learns from annotators cannot do with these, the unit of each pair that names one."""
    own = named.value_counts()["count"]
    median = float(own.median())  # type: ignore[arg-type]
    if kind == "attribute" and method == "maxmin":
        return ["no pair names a user, so every pair is a group of its own, and nothing tells groups apart"]
    if len(own) == 1:
        return [f"one {kind} made every choice, and one alone cannot tell groups apart"]
    if median < 2:
        return [f"the median {kind} has 1 pair to fit, and choices that are not repeated cannot tell groups apart"]
    if method in LEAST_FOR and median < LEAST_FOR[method]:
        return [
            f"the median {kind} has {median:g} pairs to fit: below {LEAST_FOR[method]} it may be no better than a "
            "single reward"
        ]
    return []
