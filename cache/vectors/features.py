"""The vectors of one backbone and its settings: written once, looked up by key, gathered as arrays.

They lie in shards, which are written as texts are forwarded, and in packs, which many shards become (`packing`).
Shards are looked through when features are opened; keys of packs are searched where they lie (`key_index`).

n keys or rows asked for, D embedding width. A position is a row's place in all packs, in order of their names, and
behind them in all shards.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from micropref.cache.commits import Commit, commit, commit_paths, read_commit, write_file
from micropref.cache.errors import Damaged, Failure
from micropref.cache.keys import sha256_hex
from micropref.cache.schemas import KEY_TYPE
from micropref.cache.vectors.features_folder import FeaturesFolder
from micropref.cache.vectors.key_index import as_series
from micropref.cache.vectors.lookup import Lookup
from micropref.cache.vectors.parquet_layout import (
    Rows,
    VectorFile,
    Vectors,
    edge_digests,
    open_vectors,
    read_keys,
    segments,
    write_vectors,
)
from micropref.cache.vectors.storage_error import as_stored

ROLE = "vectors"
SHARDS, PACKS = "shards", "packs"
"""Folders of both."""
READERS = min(8, os.cpu_count() or 1)


def shard_stem(keys: list[bytes]) -> str:
    """Return a shard's name, made of its input keys in order: the same plan gives the same names everywhere."""
    return sha256_hex(b"".join(keys))[:32]


@dataclass(frozen=True)
class Features(FeaturesFolder):
    """One features id of a store, open for reading and for adding shards."""

    skip: frozenset[str] = frozenset()
    """Stems of shards to be passed over, because they are damaged."""
    readers: int = READERS
    """Threads that check and read the keys of shards."""

    @cached_property
    def packs(self) -> list[Commit]:
        """Return the committed packs by name, sizes not yet checked."""
        return self._committed(PACKS)

    @cached_property
    def shards(self) -> list[Commit]:
        """Return the committed shards by name, sizes not yet checked."""
        return self._committed(SHARDS)

    @cached_property
    def commits(self) -> list[Commit]:
        """Return packs and shards in the order of their positions."""
        return [*self.packs, *self.shards]

    def _committed(self, folder: str) -> list[Commit]:
        paths = (path for path in commit_paths(self.folder / folder) if path.stem not in self.skip)
        return [item for item in map(read_commit, paths) if item is not None]

    @cached_property
    def _lookup(self) -> Lookup:
        return Lookup(self.folder, self.packs, self.shards, self.starts, self._read_keys)

    @cached_property
    def starts(self) -> Rows:
        """Return the first position of each of `commits`, and the number of rows at the end."""
        return np.cumsum([0, *(item.files[ROLE].rows for item in self.commits)], dtype=np.int64)

    @cached_property
    def _files(self) -> dict[int, VectorFile]:
        return {}

    def _file(self, number: int) -> VectorFile:
        if number not in self._files:
            item = self.commits[number]
            opened = open_vectors(item.checked_path(ROLE), item.files[ROLE].extra.get("edges"))
            if opened.width != self.width or opened.dtype != self.dtype:
                raise Failure(
                    f"{opened.path}: {opened.dtype}[{opened.width}], {self.dtype}[{self.width}] expected; "
                    "run `micropref verify`"
                )
            self._files[number] = opened
        return self._files[number]

    def __len__(self) -> int:
        """Return the number of rows, duplicates included."""
        return int(self.starts[-1])

    def keys(self) -> pa.Array:
        """Return the keys of all rows [rows], duplicates included, in order of position."""
        parts = self._read_keys(self.commits)
        return pa.concat_arrays(parts) if parts else pa.array([], KEY_TYPE)

    def _read_keys(self, items: list[Commit]) -> list[pa.Array]:
        def read(item: Commit) -> pa.Array:
            return read_keys(item.checked_path(ROLE))

        if self.readers == 1:
            return [read(item) for item in items]
        with ThreadPoolExecutor(self.readers) as readers:  # most of it is digests, which leave Python to others
            return list(readers.map(read, items))

    def shard_keys(self, item: Commit) -> pl.Series:
        """Return the keys of one shard or pack in row order."""
        return as_series(read_keys(item.checked_path(ROLE)))

    def numbers_of(self, positions: Rows) -> Rows:
        """Return which of `commits` each position [n] lies in, -1 where there is none."""
        numbers: Rows = np.searchsorted(self.starts, positions, "right") - 1
        return np.where(positions >= 0, numbers, -1)

    def read_index(self) -> None:
        """Read what looking up takes now, so that shards that go later are looked up as they were."""
        self._lookup.read()

    def locate(self, keys: pl.Series) -> Rows:
        """Return the position of each key [n], -1 where it is null or not embedded."""
        return self._lookup.locate(keys)

    def stored(self, keys: list[bytes]) -> set[bytes]:
        """Return those of some keys that have a vector."""
        there = self.locate(pl.Series(keys, dtype=pl.Binary)) >= 0
        return {key for key, is_there in zip(keys, there.tolist(), strict=True) if is_there}

    def gather(self, positions: Rows, out: npt.NDArray[np.uint8] | None = None) -> Vectors:
        """Return the vectors at positions [n] as an aligned array [n, D]; each shard's digest is checked first.

        They lie in `out` [n, row_bytes] where it is given: memory that is used again is quicker than fresh memory.
        """
        if out is None:
            out = np.empty((len(positions), self.row_bytes), dtype=np.uint8)
        if (positions[1:] >= positions[:-1]).all():
            assert len(positions) == 0 or positions[0] >= 0, "locate() gave -1: check before gathering"
            for number, part in segments(positions, self.starts):
                self._file(number).gather(positions[part] - self.starts[number], out[part])
        else:
            order = np.argsort(positions)
            out[order] = self.gather(positions[order]).view(np.uint8)
        vectors: Vectors = out.view(self.dtype)
        return vectors

    def read(self, positions: Rows, out: npt.NDArray[np.uint8]) -> Vectors:
        """Read the vectors at ascending positions [n] into the first rows of `out` [m, row_bytes]; map no page.

        Returns them as [n, D] of the same memory. Each shard's digest is checked before its first use.
        """
        for number, part in segments(positions, self.starts):
            self._file(number).read(positions[part] - self.starts[number], out[part])
        vectors: Vectors = out[: len(positions)].view(self.dtype)
        return vectors

    def write_shard(
        self, keys: list[bytes], vectors: npt.NDArray[Any], record: dict[str, Any], kind: str = SHARDS
    ) -> Commit:
        """Store vectors [n, D] under their keys [n] as one shard or pack, whole or not at all.

        Raises Failure where a stored value is not finite: float16 ends at 65504, bfloat16 does not.
        """
        stored = as_stored(keys, vectors, self.dtype)
        stem = shard_stem(keys)
        array = pa.array(keys, KEY_TYPE)
        folder = self.folder / kind
        file = write_file(folder, stem, ROLE, "parquet", lambda out: write_vectors(out, array, stored))
        file = replace(file, extra={"edges": edge_digests(stored)})
        return commit(folder, stem, {ROLE: file}, record)

    def commit_path(self, stem: str) -> Path:
        """Return the path of the file that commits the shard, or the pack, of this name."""
        pack = self.folder / PACKS / f"{stem}.json"
        return pack if pack.exists() else self.folder / SHARDS / f"{stem}.json"

    def has_shard(self, keys: list[bytes]) -> bool:
        """Say whether a whole shard of exactly these keys is committed now, perhaps by another writer."""
        return self.damage(shard_stem(keys)) == ""

    def damage(self, stem: str) -> str | None:
        """Return in one line how a shard differs from what was committed; "": not at all, None: there is none.

        Raises Failure where its files cannot be read, which proves nothing.
        """
        try:
            item = read_commit(self.commit_path(stem))
            return None if item is None else item.damage(ROLE, digest=True) or ""
        except Damaged as error:
            return str(error)

    def damaged(self) -> dict[str, str]:
        """Return the names of shards whose bytes are not the committed ones, each with one line that says so.

        Raises Failure where a shard cannot be read.
        """
        stems = [path.stem for kind in (PACKS, SHARDS) for path in commit_paths(self.folder / kind)]
        return {stem: line for stem in stems if (line := self.damage(stem))}
