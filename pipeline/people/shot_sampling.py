"""Which pairs a group may be learned from, and which may be scored: sampled by prompt, nested over sizes.

N rows of a table of pairs, M sampled rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from micropref.cache.keys import sha256_hex

Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ShotSample:
    """Which rows of a table were set aside for learning, and which may be scored."""

    group: list[str]
    """[M] group of each sampled row; a group's rows lie together, in the order sampled."""
    row: Index
    """[M] row of the table."""
    rank: Index
    """[M] place among the group's sampled rows, from 0: n of them are the rows of rank < n, so counts are nested."""
    scored: npt.NDArray[np.bool_]
    """[N] rows that may be scored, the same for every count."""
    left_out: dict[str, int]
    """Groups with too few pairs, or none left to score: how many they have."""


def sample_shots(
    table: pl.DataFrame, by: str, most: int, seed: int, *, shared: bool, pool: pl.Series | None = None
) -> ShotSample:
    """Sample `most` rows of every value of column `by` from a table with pair_id and prompt_id; NULL is no group.

    A group's prompts come in random order, all sampled pairs of one before the next's. A group's sample depends on its
    name, its pairs and the seed, on no other group and not on the order of rows. No row is scored whose prompt was
    sampled: by its own group, which is what a model of that group alone has seen, or with `shared` by any group.
    `pool` [N] says which rows may be sampled; only the others are then scored. By default all rows may be either.

    Example: ann's pair on prompt q is sampled, so her pairs on prompt p may be scored; bob has none left to score.
        >>> rows = {"user": ["ann", "ann", "ann", "bob"], "prompt_id": [*"ppqq"], "pair_id": [*"1234"]}
        >>> found = sample_shots(pl.DataFrame(rows), "user", 1, seed=0, shared=False)
        >>> found.group, found.row.tolist(), found.scored.tolist(), found.left_out
        (['ann'], [2], [True, True, False, False], {'bob': 1})
    """
    assert most >= 1, most
    columns = {"group": pl.col(by), "prompt": pl.col("prompt_id").rank("dense"), "pair": pl.col("pair_id")}
    frame = table.select(**columns).with_row_index("row").drop_nulls("group").sort("group", "prompt", "pair")
    groups = {
        str(name): (part["row"].to_numpy().astype(np.int64), part["prompt"].to_numpy())
        for (name,), part in frame.partition_by("group", as_dict=True).items()
    }
    everything = np.ones(table.height, np.bool_)
    may_sample, may_score = (everything, everything) if pool is None else (pool.to_numpy(), ~pool.to_numpy())
    offered, asked = (
        {name: _within(mask, *group) for name, group in groups.items()} for mask in (may_sample, may_score)
    )
    sampled = {
        name: rows[_order(name, prompts, seed)[:most]] for name, (rows, prompts) in offered.items() if len(rows) >= most
    }
    prompt_of = table["prompt_id"].rank("dense").to_numpy()
    for name in _exhausted(asked, sampled, prompt_of, shared=shared):
        del sampled[name]
    return ShotSample(
        group=[name for name, rows in sampled.items() for _ in rows],
        row=np.concatenate([np.empty(0, np.int64), *sampled.values()]),
        rank=np.tile(np.arange(most), len(sampled)),
        scored=_scored(asked, sampled, prompt_of, shared=shared) & may_score,
        left_out={name: len(rows) for name, (rows, _) in offered.items() if name not in sampled},
    )


def _within(
    mask: npt.NDArray[np.bool_], rows: Index, prompts: npt.NDArray[np.uint32]
) -> tuple[Index, npt.NDArray[np.uint32]]:
    """Return the rows [n] of a group that a mask [N] holds, and their prompts."""
    return rows[mask[rows]], prompts[mask[rows]]


def _order(name: str, prompts: npt.NDArray[np.uint32], seed: int) -> Index:
    """Return a random order of a group's rows [n] in which the rows of a prompt lie together."""
    random = np.random.default_rng([seed, int(sha256_hex(name)[:16], 16)])
    _, number = np.unique(prompts, return_inverse=True)
    place = random.permutation(int(number.max()) + 1)
    return np.lexsort((random.random(len(prompts)), place[number]))


def _scored(
    groups: dict[str, tuple[Index, npt.NDArray[np.uint32]]],
    sampled: dict[str, Index],
    prompt_of: npt.NDArray[np.uint32],
    *,
    shared: bool,
) -> npt.NDArray[np.bool_]:
    """Return which rows [N] may be scored."""
    if shared:
        taken = np.concatenate([np.empty(0, np.int64), *sampled.values()])
        return ~np.isin(prompt_of, prompt_of[taken])
    scored = np.zeros(len(prompt_of), np.bool_)
    for name, rows in sampled.items():
        own, prompts = groups[name]
        scored[own] = ~np.isin(prompts, prompt_of[rows])
    return scored


def _exhausted(
    groups: dict[str, tuple[Index, npt.NDArray[np.uint32]]],
    sampled: dict[str, Index],
    prompt_of: npt.NDArray[np.uint32],
    *,
    shared: bool,
) -> list[str]:
    """Return the sampled groups that have no row left to score."""
    scored = _scored(groups, sampled, prompt_of, shared=shared)
    return [name for name in sampled if not scored[groups[name][0]].any()]
