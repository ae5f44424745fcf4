"""What a router reads of pairs: which vectors, and what it makes of them.

N pairs, P distinct inputs, D embedding width, D' width of the router's input: D, or 2 D where two stand side by side.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from micropref.cache.choices import OldJoint, RouterInput
from micropref.cache.datasets import Dataset
from micropref.cache.errors import BadInput
from micropref.cache.vectors.context_keys import context_keys
from micropref.cache.vectors.features import Features
from micropref.cache.vectors.gathering import CHUNK, fresh_memory, gather_rows, positions_of
from micropref.cache.vectors.parquet_layout import Rows

SIDE_BY_SIDE: RouterInput = "context,prompt"


@dataclass(frozen=True)
class RouterPlaces:
    """Where the vectors lie that a router reads of N pairs."""

    reads: RouterInput | OldJoint
    """What it makes of them."""
    first: Rows
    """Position of the vector that it reads [N]; -1: of a pair without the context that it reads."""
    second: Rows | None = None
    """Position of the prompt that is subtracted, or stands next to the first [N]; None where one vector is read."""
    contexts_in: Features | None = None
    """Features that the first lies in, where these are not the pairs' own."""

    def __len__(self) -> int:
        return len(self.first)

    def widths(self, features: Features) -> tuple[int, ...]:
        """Return the widths of the vectors that stand side by side in an input, the pairs being in some features."""
        first = (self.contexts_in or features).width
        return (first, features.width) if self.reads == SIDE_BY_SIDE else (first,)

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """Return which pairs [N] have what the router reads."""
        return self.first >= 0

    def take(self, rows: Rows) -> RouterPlaces:
        """Return those of the pairs at these rows, in this order."""
        second = None if self.second is None else self.second[rows]
        return replace(self, first=self.first[rows], second=second)

    def shared(self) -> tuple[RouterPlaces, torch.Tensor | None]:
        """Return the places of distinct inputs [P], and the one of these that each pair reads [N].

        None where nobody shares: row n is then pair n's.
        """
        code = self.first
        if self.second is not None:
            code = self.first * (int(self.second.max(initial=0)) + 1) + np.where(self.known, self.second, 0)
        _, at, rows = np.unique(code, return_index=True, return_inverse=True)
        return (self, None) if len(at) == len(self) else (self.take(at), torch.from_numpy(rows))

    def load(self, features: Features) -> torch.Tensor:
        """Gather the inputs [N, D'] float32; a row of NaN where a pair has no context."""
        first_in = self.contexts_in or features
        if self.second is None and self.known.all():
            return gather_rows(first_in, self.first)
        out = fresh_memory(len(self), sum(self.widths(features)))
        out.fill_(torch.nan)
        places = np.flatnonzero(self.known)
        for start in range(0, len(places), CHUNK):
            part = places[start : start + CHUNK]
            second = None if self.second is None else gather_rows(features, self.second[part])
            out[torch.from_numpy(part)] = self.combined(gather_rows(first_in, self.first[part]), second)
        return out

    def combined(self, first: torch.Tensor, second: torch.Tensor | None = None) -> torch.Tensor:
        """Return the inputs [n, D'] that vectors [n, D] make."""
        if second is None:
            return first
        return torch.cat([first, second], 1) if self.reads == SIDE_BY_SIDE else first - second


def locate_router(
    dataset: Dataset,
    features: Features,
    split: str,
    frame: pl.DataFrame,
    reads: RouterInput | OldJoint,
    contexts_in: Features | None = None,
) -> RouterPlaces:
    """Find what a router reads of a split's pairs, of whose table `frame` has context, prompt_key and context_key.

    Contexts by themselves may lie in other features than the pairs do. Raises BadInput where they have no vectors
    there and the router reads these, and where it reads no context by itself.
    """
    if contexts_in is not None and reads not in ("context", SIDE_BY_SIDE):
        raise BadInput(
            f"`router_features` {contexts_in.id}: these are for contexts by themselves, and `router_input` is {reads}; "
            "give `router_input` context or context,prompt, or leave `router_features` out"
        )
    prompts = positions_of(features, frame["prompt_key"])
    if reads == "prompt":
        return RouterPlaces(reads, prompts)
    if reads == "context+prompt or prompt":
        joint = frame.select(pl.coalesce("context_key", "prompt_key").alias("key"))["key"]
        return RouterPlaces(reads, positions_of(features, joint))
    if reads in ("context+prompt", "difference"):
        keys = frame["context_key"]
    else:
        keys = _own_keys(frame, contexts_in or features)
        lacking = frame.filter(pl.Series(frame["context"].is_not_null() & keys.is_null()))["context"].n_unique()
        if lacking:
            raise BadInput(_without_vectors(dataset, contexts_in or features, split, lacking, reads))
    first = np.full(frame.height, -1, dtype=np.int64)
    there = keys.is_not_null().to_numpy()
    first[there] = positions_of(contexts_in or features, keys.drop_nulls())
    return RouterPlaces(reads, first, None if reads in ("context", "context+prompt") else prompts, contexts_in)


def contexts_to_read(dataset: Dataset, features: Features, split: str) -> RouterInput:
    """Return how a router reads the contexts of a split's pairs: by themselves where all of these have vectors.

    Imported vectors and those of an older version may lack them: then behind the prompt. `prompt` where there is none.
    """
    frame = dataset.linked_pairs(features.id, split, ["context", "context_key", "prompt_key"])
    named = frame.filter(pl.col("context").is_not_null())
    if named.is_empty():
        return "prompt"
    if not _own_keys(named, features).null_count():
        return "context"
    return "context+prompt" if named["context_key"].null_count() < named.height else "prompt"


def _own_keys(frame: pl.DataFrame, features: Features) -> pl.Series:
    """Return the key of each pair's context by itself [N], null where it has none."""
    return frame.select("context").join(context_keys(features), on="context", how="left", maintain_order="left")["key"]


def _without_vectors(dataset: Dataset, features: Features, split: str, count: int, reads: str) -> str:
    where = f"data set {dataset.name!r}, split {split!r}: {count} contexts have no vector of their own in features "
    where += f"{features.id}, which "
    line = f"{where}`router_input` {reads} reads; "
    if features.imported is not None:
        return (
            line + f"features {features.id} were imported without these: import them with a column "
            "context_only_vector, or give `router_input` context+prompt or prompt"
        )
    return line + "run the `micropref embed` of this data set again, with their backbone: it embeds what is missing"
