"""Pairs as training tensors: differences of embeddings and router inputs, gathered from the mapped shards.

N pairs, D embedding width. Δ = e(x, chosen) - e(x, rejected).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from micropref.cache.choices import RewardInput, RouterInput
from micropref.cache.datasets import Dataset
from micropref.cache.errors import BadInput, Failure
from micropref.cache.vectors.features import Features
from micropref.cache.vectors.parquet_layout import Rows

CHUNK = 1 << 10
"""Pairs gathered at a time: few enough that they are still in a core's cache when they are converted."""
TABLE_COLUMNS = ["split", "part", "pair_id", "prompt_id", "attribute", "context", "user"]


@dataclass(frozen=True)
class PairFeatures:
    """Pairs of one split with what a model reads of them."""

    table: pl.DataFrame
    """One row a pair: TABLE_COLUMNS."""
    delta: torch.Tensor
    """Δ [N, D] float32."""
    router_inputs: torch.Tensor
    """Distinct router inputs [P, D] float32: embedded prompts, or contexts and prompts."""
    router_rows: torch.Tensor | None
    """[N] int64 row of each pair's router input; None where row n is pair n's."""
    without_context: int
    """Pairs that a context router reads by their prompt alone."""

    def __len__(self) -> int:
        return self.table.height

    def take(self, mask: pl.Series) -> PairFeatures:
        """Return the pairs where `mask` [N] is true."""
        chosen = torch.from_numpy(mask.to_numpy().copy())
        table = self.table.filter(mask)
        missing = int(table["context"].null_count())
        return PairFeatures(
            table, self.delta[chosen], *taken_inputs(self.router_inputs, self.router_rows, chosen), missing
        )

    @property
    def router(self) -> torch.Tensor:
        """Return each pair's router input [N, D], gathered anew where pairs share any."""
        return self.router_inputs if self.router_rows is None else self.router_inputs[self.router_rows]


@dataclass(frozen=True)
class LocatedPairs:
    """Pairs of one split and where their vectors lie, none of them read yet."""

    features: Features
    """What the positions are in."""
    table: pl.DataFrame
    """One row a pair: TABLE_COLUMNS."""
    chosen: Rows
    """Position of e(x, chosen) [N]."""
    rejected: Rows
    """Position of e(x, rejected) [N]."""
    router: Rows
    """Position of the router's input [N]."""
    context: npt.NDArray[np.bool_]
    """[N] whether a context is embedded."""

    def __len__(self) -> int:
        return self.table.height

    @property
    def without_context(self) -> int:
        """Return how many pairs a context router reads by their prompt alone."""
        return int((~self.context).sum())

    @property
    def inputs(self) -> int:
        """Return how many rows both inputs have in memory: a Δ for each pair, and the distinct router inputs."""
        return len(self) + len(self.shared_router()[0])

    def shared_router(self) -> tuple[Rows, torch.Tensor | None]:
        """Return the positions of distinct router inputs [P], and the one that each pair reads [N].

        None where nobody shares: row n is then pair n's.
        """
        distinct, rows = np.unique(self.router, return_inverse=True)
        return (self.router, None) if len(distinct) == len(self) else (distinct, torch.from_numpy(rows))

    def take(self, rows: Rows) -> LocatedPairs:
        """Return the pairs of these rows, in this order."""
        places = (self.chosen[rows], self.rejected[rows], self.router[rows])
        return LocatedPairs(self.features, self.table[rows], *places, self.context[rows])

    def part(self, name: str) -> LocatedPairs:
        """Return the pairs of one part."""
        return self.take(np.flatnonzero((self.table["part"] == name).to_numpy()))

    def load(self) -> PairFeatures:
        """Gather the vectors. Raises Failure where they are damaged."""
        delta = _differences(self.features, self.chosen, self.rejected)
        inputs, rows = self.shared_router()
        return PairFeatures(self.table, delta, _rows(self.features, inputs), rows, self.without_context)

    def responses(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Gather e(x, chosen) and e(x, rejected) [N, D] apart. Raises Failure where they are damaged."""
        return _rows(self.features, self.chosen), _rows(self.features, self.rejected)


def taken_inputs(
    inputs: torch.Tensor, rows: torch.Tensor | None, chosen: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return router inputs and the rows that the pairs `chosen` read of them, without those that none of them does.

    `rows` [N] are those that all pairs read, None where row n is pair n's.
    """
    if rows is None:
        return inputs[chosen], None
    read, places = torch.unique(rows[chosen], return_inverse=True)
    return inputs[read], places


def load_pairs(
    dataset: Dataset,
    features: Features,
    split: str,
    *,
    router_input: RouterInput,
    reward_input: RewardInput = "plain",
    only: pl.Expr | None = None,
) -> PairFeatures:
    """Gather a split's pairs, those where `only` holds. No text is read and no backbone is needed.

    Raises BadInput where what is asked for was not embedded, Failure on damaged vectors.
    """
    return locate_pairs(
        dataset, features, split, router_input=router_input, reward_input=reward_input, only=only
    ).load()


def locate_pairs(
    dataset: Dataset,
    features: Features,
    split: str,
    *,
    router_input: RouterInput,
    reward_input: RewardInput = "plain",
    only: pl.Expr | None = None,
) -> LocatedPairs:
    """Find out which vectors a split's pairs have, those where `only` holds. Raises like `load_pairs`."""
    keys = ["prompt_key", "context_key", *response_columns(reward_input)]
    frame = dataset.linked_pairs(features.id, split, [*TABLE_COLUMNS, *keys])
    if only is not None:
        frame = frame.filter(only)
    _require_responses(dataset, features, frame, split, reward_input)
    router_key = pl.coalesce("context_key", "prompt_key") if router_input == "context" else pl.col("prompt_key")
    chosen, rejected = (_positions(features, frame, pl.col(name)) for name in response_columns(reward_input))
    router = _positions(features, frame, router_key)
    context = frame["context_key"].is_not_null().to_numpy()
    return LocatedPairs(features, frame.select(TABLE_COLUMNS), chosen, rejected, router, context)


def has_contexts(dataset: Dataset, features: Features, split: str) -> bool:
    """Say whether any pair of a split has an embedded context."""
    frame = dataset.linked_pairs(features.id, split, ["context_key", "prompt_key"])
    return frame["context_key"].null_count() < frame.height


def gather_keys(features: Features, keys: pl.Series) -> torch.Tensor:
    """Return the vectors of keys [N] as [N, D] float32. Raises Failure where one is not in the store any more."""
    return _rows(features, _positions(features, keys.to_frame("key"), pl.col("key")))


def response_columns(reward_input: RewardInput) -> tuple[str, str]:
    """Return the link columns of the two responses."""
    if reward_input == "context":
        return "chosen_context_key", "rejected_context_key"
    return "chosen_key", "rejected_key"


def _require_responses(
    dataset: Dataset, features: Features, frame: pl.DataFrame, split: str, reward_input: RewardInput
) -> None:
    missing = int(frame[response_columns(reward_input)[0]].null_count())
    if missing and features.imported is not None:
        raise BadInput(
            f"data set {dataset.name!r}, split {split!r}: `reward_input` {reward_input} needs responses embedded "
            f"behind their context, and features {features.id} were imported (made by {features.imported!r}) without "
            "these; use `reward_input` plain"
        )
    if missing:
        raise BadInput(
            f"data set {dataset.name!r}, split {split!r}: {missing} of {frame.height} pairs have no responses embedded "
            f"for `reward_input` {reward_input}; run `micropref embed ... --name {dataset.name} --split {split} "
            f"--responses {reward_input}` (or `both`)"
        )


def _positions(features: Features, frame: pl.DataFrame, key: pl.Expr) -> Rows:
    positions = features.locate(frame.select(key.alias("key"))["key"])
    lost = int((positions < 0).sum())
    if lost:
        raise Failure(
            f"features {features.id}: {lost} of {len(positions)} vectors are not in the store any more; "
            f"run the `micropref {'import-vectors' if features.imported else 'embed'}` of this data set again"
        )
    return positions


def _rows(features: Features, positions: Rows) -> torch.Tensor:
    out, read = _memory(len(positions), features.width), _reader(features)
    for start in range(0, len(positions), CHUNK):
        part = slice(start, start + CHUNK)
        out[part] = read(positions[part])
    return out


def _differences(features: Features, chosen: Rows, rejected: Rows) -> torch.Tensor:
    out, read = _memory(len(chosen), features.width), _reader(features)
    for start in range(0, len(chosen), CHUNK):
        part = slice(start, start + CHUNK)
        out[part] = read(chosen[part])
        out[part] -= read(rejected[part])
    return out


def _reader(features: Features) -> Callable[[Rows], torch.Tensor]:
    """Return what gathers vectors at up to CHUNK positions into memory that the next call uses again."""
    buffer = np.empty((CHUNK, features.row_bytes), np.uint8)
    return lambda positions: torch.from_numpy(features.gather(positions, buffer[: len(positions)]))


def _memory(rows: int, width: int) -> torch.Tensor:
    """Return uninitialised float32 memory: numpy asks for it in large pages, first writes to small ones are slow."""
    return torch.from_numpy(np.empty((rows, width), np.float32))
