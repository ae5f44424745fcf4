"""Where the vector of a key lies: in packs by their index, in shards by a table of their keys.

m keys that are looked for. A position is a row's place in all packs and, behind them, in all shards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from micropref.cache.commits import Commit
from micropref.cache.vectors.key_index import Keys, Segment, as_series, index_segments

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Lookup:
    """Packs and shards as they were when features were opened."""

    folder: Path
    """Of the features."""
    packs: Sequence[Commit]
    shards: Sequence[Commit]
    starts: Rows
    """First position of each pack and shard, and the number of rows at the end."""
    read_keys: Callable[[list[Commit]], list[pa.Array]]
    """Reads the keys of some of them, in row order each."""

    @cached_property
    def _segments(self) -> list[tuple[Segment, Rows]]:
        """Segments of the index, and for each of their packs its first position, -1 where it is not here."""
        start = {item.stem: int(self.starts[at]) for at, item in enumerate(self.packs)}
        found = index_segments(self.folder)
        return [(one, np.array([start.get(name, -1) for name in one.packs], np.int64)) for one in found]

    @cached_property
    def _listed(self) -> pl.DataFrame:
        """Key -> position of the first that has it, of shards and of packs that no segment has."""
        indexed = {name for one, _ in self._segments for name in one.packs}
        items = [(at, item) for at, item in enumerate(self.packs) if item.stem not in indexed]
        items += enumerate(self.shards, len(self.packs))
        frames = [
            pl.DataFrame({"key": as_series(keys)}).with_columns(
                position=pl.int_range(pl.len(), dtype=pl.Int64) + int(self.starts[at])
            )
            for (at, _), keys in zip(items, self.read_keys([item for _, item in items]), strict=True)
        ]
        empty = pl.DataFrame(schema={"key": pl.Binary, "position": pl.Int64})
        return pl.concat([empty, *frames]).unique("key", keep="first", maintain_order=True)

    def read(self) -> None:
        """Read the index and the keys of shards, which `locate` else does when it is first called."""
        _ = self._segments, self._listed

    def locate(self, keys: pl.Series) -> Rows:
        """Return the position of each key [m], -1 where it is null or has no vector."""
        positions = np.full(len(keys), -1, np.int64)
        wanted = np.flatnonzero(keys.is_not_null().to_numpy())
        binary = keys.cast(pl.Binary)
        if self._segments and len(wanted):
            wanted = self._search(binary, wanted, positions)
        if len(wanted):
            frame = binary.gather(wanted).alias("key").to_frame()
            found = frame.join(self._listed, on="key", how="left", maintain_order="left")
            positions[wanted] = found["position"].fill_null(-1).to_numpy()
        return positions

    def _search(self, keys: pl.Series, wanted: Rows, positions: Rows) -> Rows:
        """Fill in the positions of those of the wanted keys that packs have; return the places of the others."""
        words = Keys.of(keys.gather(wanted))
        order = np.argsort(words.high)  # so that a search goes through a segment from end to end
        wanted, words = wanted[order], Keys(words.high[order], words.low[order])
        for segment, starts in self._segments:
            packs, rows = segment.find(words)
            hits = np.flatnonzero((packs >= 0) & (starts[packs] >= 0) & (positions[wanted] < 0))
            positions[wanted[hits]] = starts[packs[hits]] + rows[hits]
        left: Rows = np.sort(wanted[positions[wanted] < 0])
        return left
