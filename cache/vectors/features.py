"""The vectors of one backbone and its settings: written once, looked up by key, gathered as arrays.

They lie in shards, which are written as texts are forwarded, and in packs, which many shards become (`packing`).
Shards are looked through when features are opened; keys of packs are searched where they lie (`key_index`).

n keys or rows asked for, D embedding width. A position is a row's place in all packs, in order of their names, and
behind them in all shards.
"""

from __future__ import annotations

import json
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
from safetensors.numpy import load, save

from micropref.cache.atomic import write_bytes
from micropref.cache.commits import Commit, commit, commit_paths, read_commit, write_file
from micropref.cache.errors import Damaged, Failure, cannot_read
from micropref.cache.keys import canonical_json, sha256_hex
from micropref.cache.schemas import KEY_TYPE
from micropref.cache.store import ORIGIN
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
REWRITTEN = "embed again, or import again, with the same backbone and options: it is written anew, the vectors stay"
READERS = min(8, os.cpu_count() or 1)


def shard_stem(keys: list[bytes]) -> str:
    """Return a shard's name, made of its input keys in order: the same plan gives the same names everywhere."""
    return sha256_hex(b"".join(keys))[:32]


@dataclass(frozen=True)
class Features:
    """One features id of a store, open for reading and for adding shards."""

    folder: Path
    settings: dict[str, Any]
    """Everything that changes a vector, plus `width` and `store_dtype`."""
    skip: frozenset[str] = frozenset()
    """Stems of shards to be passed over, because they are damaged."""
    readers: int = READERS
    """Threads that check and read the keys of shards."""

    @property
    def id(self) -> str:
        """Return the short hash that names these features."""
        return self.folder.name

    @property
    def width(self) -> int:
        """Return D."""
        return int(self.settings["width"])

    @property
    def imported(self) -> str | None:
        """Return what made vectors that were imported, as the user named it; None where micropref computed them."""
        record = self.settings.get("imported")
        return None if record is None else str(record["backbone"])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return the dtype vectors are stored in."""
        dtype: np.dtype[Any] = np.dtype(str(self.settings["store_dtype"]))
        return dtype

    @property
    def row_bytes(self) -> int:
        """Return the size of a stored vector."""
        return self.width * self.dtype.itemsize

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
        return Lookup(self.folder, self.packs, self.shards, self._starts, self._read_keys)

    @cached_property
    def _starts(self) -> Rows:
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
        return int(self._starts[-1])

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
        found = pl.from_arrow(read_keys(item.checked_path(ROLE)).cast(pa.binary()))
        assert isinstance(found, pl.Series)
        return found

    def numbers_of(self, positions: Rows) -> Rows:
        """Return which of `commits` each position [n] lies in, -1 where there is none."""
        numbers: Rows = np.searchsorted(self._starts, positions, "right") - 1
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
            for number, part in segments(positions, self._starts):
                self._file(number).gather(positions[part] - self._starts[number], out[part])
        else:
            order = np.argsort(positions)
            out[order] = self.gather(positions[order]).view(np.uint8)
        vectors: Vectors = out.view(self.dtype)
        return vectors

    def read(self, positions: Rows, out: npt.NDArray[np.uint8]) -> Vectors:
        """Read the vectors at ascending positions [n] into the first rows of `out` [m, row_bytes]; map no page.

        Returns them as [n, D] of the same memory. Each shard's digest is checked before its first use.
        """
        for number, part in segments(positions, self._starts):
            self._file(number).read(positions[part] - self._starts[number], out[part])
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

    def about(self) -> dict[str, Any]:
        """Return what the embedding command said of the backbone: its name, revision, architecture."""
        path = self.folder / "about.json"
        try:
            about = json.loads(path.read_bytes()) if path.is_file() else {}
        except OSError as error:
            raise cannot_read(path, error) from error
        except (ValueError, RecursionError):
            about = None
        if not isinstance(about, dict):
            raise Damaged(f"{path}: damaged; {REWRITTEN}")
        return about

    def origin(self) -> dict[str, Any] | None:
        """Return what is known of where vectors were pulled from; None: they were made here."""
        found = read_commit(self.folder / f"{ORIGIN}.json")
        return None if found is None else found.record

    def create(self, about: dict[str, Any], reward_head: npt.NDArray[np.float32] | None) -> None:
        """Make the features' folder exist; `reward_head` [1, D] is the checkpoint's own, kept next to the vectors."""
        path, settings = self.folder / "features.json", canonical_json(self.settings).encode()
        if self._is_described(path, settings):
            return
        write_bytes(self.folder / "about.json", canonical_json(about).encode())
        if reward_head is not None:
            data = save({"score.weight": np.ascontiguousarray(reward_head)})
            file = write_file(self.folder, "reward_head", "weights", "safetensors", lambda out: out.write(data) and 1)
            commit(self.folder, "reward_head", {"weights": file}, {})
        write_bytes(path, settings)

    def _is_described(self, path: Path, settings: bytes) -> bool:
        """Say whether the files next to the shards are there and whole."""
        try:
            if not path.is_file() or path.read_bytes() != settings:
                return False
            self.about()
            self.reward_head()
        except Damaged:
            return False
        except OSError as error:
            raise cannot_read(path, error) from error
        return True

    def reward_head(self) -> npt.NDArray[np.float32] | None:
        """Return the checkpoint's own reward head [1, D], None where it has none. Raises Failure on damage."""
        item = read_commit(self.folder / "reward_head.json")
        return load(item.checked_path("weights").read_bytes())["score.weight"] if item else None
