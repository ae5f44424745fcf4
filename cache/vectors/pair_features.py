"""Pairs as training tensors: differences of embeddings and router inputs, gathered from the mapped shards.

N pairs, D embedding width. Δ = e(x, chosen) - e(x, rejected).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from micropref.cache.choices import OldJoint, RewardInput, RouterInput
from micropref.cache.datasets import Dataset
from micropref.cache.errors import BadInput
from micropref.cache.vectors.features import Features
from micropref.cache.vectors.gathering import gather_differences, gather_rows, positions_of
from micropref.cache.vectors.parquet_layout import Rows
from micropref.cache.vectors.router_inputs import RouterPlaces, contexts_to_read, locate_router

TABLE_COLUMNS = ["split", "part", "pair_id", "prompt_id", "attribute", "context", "user"]


@dataclass(frozen=True)
class PairFeatures:
    """Pairs of one split with what a model reads of them."""

    table: pl.DataFrame
    """One row a pair: TABLE_COLUMNS."""
    delta: torch.Tensor
    """Δ [N, D] float32."""
    router_inputs: torch.Tensor
    """Distinct router inputs [P, D'] float32; a row of NaN: of pairs without the context that a router reads."""
    router_rows: torch.Tensor | None
    """[N] int64 row of each pair's router input; None where row n is pair n's."""
    without_context: int
    """Pairs without a context."""
    router_parts: tuple[int, ...] = ()
    """Widths of the vectors that stand side by side in a router input; empty: it is one."""

    def __len__(self) -> int:
        return self.table.height

    def take(self, mask: pl.Series) -> PairFeatures:
        """Return the pairs where `mask` [N] is true."""
        chosen = torch.from_numpy(mask.to_numpy().copy())
        table = self.table.filter(mask)
        missing = int(table["context"].null_count())
        inputs, rows = taken_inputs(self.router_inputs, self.router_rows, chosen)
        return PairFeatures(table, self.delta[chosen], inputs, rows, missing, self.router_parts)

    @property
    def router(self) -> torch.Tensor:
        """Return each pair's router input [N, D'], gathered anew where pairs share any."""
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
    router: RouterPlaces
    """Where the router's input lies [N]."""
    context: npt.NDArray[np.bool_]
    """[N] whether there is a context, which the router reads where it reads any."""

    def __len__(self) -> int:
        return self.table.height

    @property
    def without_context(self) -> int:
        """Return how many pairs have no context."""
        return int((~self.context).sum())

    @property
    def router_parts(self) -> tuple[int, ...]:
        """Return the widths of the vectors that stand side by side in a router input."""
        return self.router.widths(self.features)

    @property
    def inputs(self) -> int:
        """Return how many vectors both inputs have in memory: a Δ for each pair, and the distinct router inputs."""
        distinct, _ = self.router.shared()
        return len(self) + -(-len(distinct) * sum(self.router_parts) // self.features.width)

    def take(self, rows: Rows) -> LocatedPairs:
        """Return the pairs of these rows, in this order."""
        places = (self.chosen[rows], self.rejected[rows], self.router.take(rows))
        return LocatedPairs(self.features, self.table[rows], *places, self.context[rows])

    def part(self, name: str) -> LocatedPairs:
        """Return the pairs of one part."""
        return self.take(np.flatnonzero((self.table["part"] == name).to_numpy()))

    def load(self) -> PairFeatures:
        """Gather the vectors. Raises Failure where they are damaged."""
        delta = gather_differences(self.features, self.chosen, self.rejected)
        distinct, rows = self.router.shared()
        inputs = distinct.load(self.features)
        return PairFeatures(self.table, delta, inputs, rows, self.without_context, self.router_parts)

    def responses(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Gather e(x, chosen) and e(x, rejected) [N, D] apart. Raises Failure where they are damaged."""
        return gather_rows(self.features, self.chosen), gather_rows(self.features, self.rejected)


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
    router_input: RouterInput | OldJoint,
    reward_input: RewardInput = "plain",
    only: pl.Expr | None = None,
    router_features: Features | None = None,
) -> PairFeatures:
    """Gather a split's pairs, those where `only` holds. No text is read and no backbone is needed.

    Raises BadInput where what is asked for was not embedded, Failure on damaged vectors.
    """
    return locate_pairs(
        dataset,
        features,
        split,
        router_input=router_input,
        reward_input=reward_input,
        only=only,
        router_features=router_features,
    ).load()


def locate_pairs(
    dataset: Dataset,
    features: Features,
    split: str,
    *,
    router_input: RouterInput | OldJoint,
    reward_input: RewardInput = "plain",
    only: pl.Expr | None = None,
    router_features: Features | None = None,
) -> LocatedPairs:
    """Find out which vectors a split's pairs have, those where `only` holds. Raises like `load_pairs`.

    A router may read contexts in other features, `router_features`; None: in the pairs' own.
    """
    keys = ["prompt_key", "context_key", *response_columns(reward_input)]
    frame = dataset.linked_pairs(features.id, split, [*TABLE_COLUMNS, *keys])
    if only is not None:
        frame = frame.filter(only)
    _require_responses(dataset, features, frame, split, reward_input)
    chosen, rejected = (positions_of(features, frame[name]) for name in response_columns(reward_input))
    router = locate_router(dataset, features, split, frame, router_input, router_features)
    by_pair = router_input in ("prompt", "context+prompt or prompt")  # these read every pair
    context = frame["context"].is_not_null().to_numpy() if by_pair else router.known
    return LocatedPairs(features, frame.select(TABLE_COLUMNS), chosen, rejected, router, context)


def has_contexts(dataset: Dataset, features: Features, split: str) -> bool:
    """Say whether any pair of a split has a context that a router can read."""
    return contexts_to_read(dataset, features, split) != "prompt"


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
