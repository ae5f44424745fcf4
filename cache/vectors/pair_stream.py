"""Pairs whose vectors stay on disk: whole prompt groups in blocks, read in any order of blocks, a window at a time.

N pairs, n pairs of a window, u distinct vectors of a window, D embedding width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from micropref.cache.vectors.pair_features import LocatedPairs
from micropref.cache.vectors.parquet_layout import Rows, Vectors
from micropref.cache.vectors.router_inputs import RouterPlaces

BLOCK_BYTES = 16 << 20
"""Vectors of a block, about: enough to read at a disk's full rate, and little against a window."""
WINDOW_BYTES = 512 << 20
"""Vectors of a window at most; two windows are in memory, one in use and one being read."""
VECTORS_OF_A_PAIR = 3


@dataclass(frozen=True)
class Window:
    """Pairs of some blocks with their vectors, overwritten by the window after the next one."""

    vectors: Vectors
    """[u, D] as they are stored."""
    chosen: Rows
    """Row of e(x, chosen) [n]."""
    rejected: Rows
    """Row of e(x, rejected) [n]."""
    router: RouterPlaces | None
    """Rows of what the router reads [n]; None where it was not asked for."""
    shared: Rows
    """Number of the router's input [n], asked for or not: the same for pairs that share it."""


@dataclass(frozen=True)
class PairStream:
    """Pairs in the order of their vectors in the store, cut into blocks of whole prompt groups."""

    located: LocatedPairs
    """The pairs, those of a prompt side by side."""
    cuts: Rows
    """First pair of each block, and N at the end [blocks + 1]."""

    @property
    def table(self) -> pl.DataFrame:
        """Return one row a pair, in the order of the stream."""
        return self.located.table

    @property
    def without_context(self) -> int:
        """Return how many pairs have no context."""
        return self.located.without_context

    def __len__(self) -> int:
        return len(self.located)

    @property
    def pairs(self) -> int:
        """Return N."""
        return len(self.located)

    @property
    def width(self) -> int:
        """Return D."""
        return self.located.features.width

    @property
    def router_width(self) -> int:
        """Return the width of the router's input."""
        return sum(self.router_parts)

    @property
    def router_parts(self) -> tuple[int, ...]:
        """Return the widths of the vectors that stand side by side in the router's input."""
        return self.located.router_parts

    @property
    def lacks_contexts(self) -> bool:
        """Return whether a pair has no context, where the router reads these."""
        return not self.located.router.known.all()

    @cached_property
    def router_rows(self) -> torch.Tensor | None:
        """Return which of the distinct router inputs each pair reads [N]; None where each has its own."""
        return self.located.router.shared()[1]

    @property
    def blocks(self) -> int:
        """Return the number of blocks."""
        return len(self.cuts) - 1

    @cached_property
    def _block_vectors(self) -> Rows:
        """Distinct vectors of each block, the router's input included [blocks]."""
        return np.array([len(self._positions(self._pairs_of([block]), True)) for block in range(self.blocks)])

    def windows(self, order: Sequence[int], *, routed: bool) -> Iterator[Window]:
        """Yield the blocks in the given order, several at a time, each window read while the one before is used.

        Memory: two windows of WINDOW_BYTES and a block. Raises Failure where a shard is damaged.
        """
        parts = self._split(order)
        rows = max(int(self._block_vectors[part].sum()) for part in parts)
        buffers = [np.empty((rows, self.located.features.row_bytes), dtype=np.uint8) for _ in parts[:2]]
        with ThreadPoolExecutor(1, "read") as reader:
            ahead = reader.submit(self._read, parts[0], buffers[0], routed)
            for number in range(1, len(parts) + 1):
                window = ahead.result()
                if number < len(parts):
                    ahead = reader.submit(self._read, parts[number], buffers[number % 2], routed)
                yield window

    def _split(self, order: Sequence[int]) -> list[Rows]:
        """Cut an order of blocks into windows: a block belongs to the one in which its first byte comes."""
        blocks = np.asarray(order, dtype=np.int64)
        sizes = self._block_vectors[blocks] * self.located.features.row_bytes
        window = (np.cumsum(sizes) - sizes) // WINDOW_BYTES
        return np.split(blocks, np.flatnonzero(np.diff(window)) + 1)

    def _pairs_of(self, blocks: Sequence[int] | Rows) -> Rows:
        return np.concatenate([np.arange(self.cuts[block], self.cuts[block + 1]) for block in blocks])

    def _columns(self, routed: bool) -> list[Rows]:
        located, router = self.located, self.located.router
        read = [one for one in (router.first, router.second) if one is not None]
        return [located.chosen, located.rejected, *(read if routed else [])]

    def _positions(self, pairs: Rows, routed: bool) -> Rows:
        positions = np.unique(np.concatenate([column[pairs] for column in self._columns(routed)]))
        return positions[positions >= 0]

    def _read(self, blocks: Rows, buffer: npt.NDArray[np.uint8], routed: bool) -> Window:
        pairs = self._pairs_of(blocks)
        positions = self._positions(pairs, routed)
        vectors = self.located.features.read(positions, buffer)
        chosen, rejected, *read = (
            np.where(column[pairs] < 0, -1, np.searchsorted(positions, column[pairs]))
            for column in self._columns(routed)
        )
        router = None
        if routed:
            router = RouterPlaces(self.located.router.reads, read[0], read[1] if len(read) > 1 else None)
        shared = pairs if self.router_rows is None else self.router_rows.numpy()[pairs]
        return Window(vectors, chosen, rejected, router, shared)


def stream_pairs(located: LocatedPairs) -> PairStream:
    """Return the pairs as a stream: prompt groups in the order of their vectors, cut into blocks.

    A prompt group lies in one block, unless it is larger than a block.
    """
    group = located.table["prompt_id"].rank("dense").to_numpy().astype(np.int64) - 1
    begins = np.full(int(group.max()) + 1, np.iinfo(np.int64).max)
    np.minimum.at(begins, group, located.chosen)
    ordered = located.take(np.lexsort((located.chosen, group, begins[group])))
    group = ordered.table["prompt_id"].rle_id().to_numpy()
    most = max(1, BLOCK_BYTES // (VECTORS_OF_A_PAIR * located.features.row_bytes))
    return PairStream(ordered, _cuts(np.bincount(group), most))


def _cuts(sizes: Rows, most: int) -> Rows:
    """Return the first pair of each block and N, for groups of these sizes: about `most` pairs, at most twice that."""
    ends = np.cumsum(sizes)
    starts = ends - sizes
    large = sizes > most
    begins = np.diff(starts // most, prepend=-1) != 0
    begins |= large | np.insert(large, 0, False)[:-1]
    parts = [np.arange(start, end, most) for start, end in zip(starts[large], ends[large], strict=True)]
    return np.unique(np.concatenate([starts[begins], *parts, ends[-1:]]).astype(np.int64))
