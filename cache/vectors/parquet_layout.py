"""The vector file: a standard Parquet file whose vectors can also be memory-mapped without decoding.

The embedding column is a non-nullable FixedSizeList of non-nullable items, PLAIN, uncompressed, one page per row
group. Its values then lie side by side at the end of that page, so their offset follows from the footer. Any
Parquet reader sees an ordinary list column; we see an array.

n rows of a file, D embedding width.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import mmap
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from micropref.cache.errors import Failure, cannot_read
from micropref.cache.schemas import KEY_TYPE

LAYOUT_VERSION = 1
ROW_GROUP = 8192
"""Rows of a row group: one page each, so far below the size at which a reader would have to hold much."""
_ITEMS: dict[np.dtype[Any], Any] = {np.dtype(np.float16): pa.float16(), np.dtype(np.float32): pa.float32()}

Vectors = npt.NDArray[np.float16] | npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


def vector_schema(width: int, dtype: npt.DTypeLike) -> pa.Schema:
    """Return the schema of a vector file: `key` and `embedding`, neither nullable."""
    item = pa.field("item", _ITEMS[np.dtype(dtype)], nullable=False)
    return pa.schema(
        [pa.field("key", KEY_TYPE, nullable=False), pa.field("embedding", pa.list_(item, width), nullable=False)],
        metadata={"micropref.layout": str(LAYOUT_VERSION)},
    )


def write_vectors(file: BinaryIO, keys: pa.Array, vectors: Vectors) -> int:
    """Write keys [n] and vectors [n, D] (float16 or float32) in the mapped layout; return n."""
    rows, width = vectors.shape
    assert len(keys) == rows, (len(keys), rows)
    schema = vector_schema(width, vectors.dtype)
    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1), type=_ITEMS[vectors.dtype])
    column = pa.FixedSizeListArray.from_arrays(flat, type=schema.field("embedding").type)
    pq.write_table(
        pa.Table.from_arrays([keys.cast(KEY_TYPE), column], schema=schema),
        file,
        row_group_size=ROW_GROUP,
        max_rows_per_page=ROW_GROUP,  # pyarrow splits a page at 20,000 rows by default
        write_batch_size=ROW_GROUP,
        data_page_size=1 << 30,
        data_page_version="2.0",
        compression="none",
        use_dictionary=False,
        write_statistics=["key"],
    )
    return int(rows)


def edge_digests(vectors: Vectors) -> list[str]:
    """Return, per row group, a digest of its first and last row: what `map_groups` is checked against."""
    groups = [vectors[start : start + ROW_GROUP] for start in range(0, len(vectors), ROW_GROUP)]
    return [_edge_digest(np.ascontiguousarray(group).view(np.uint8)) for group in groups]


def _edge_digest(rows: npt.NDArray[np.uint8]) -> str:
    return hashlib.sha256(rows[0].tobytes() + rows[-1].tobytes()).hexdigest()[:16]


def segments(rows: Rows, starts: Rows) -> Iterator[tuple[int, slice]]:
    """Yield each part that ascending `rows` [m] lie in, and which of them do; part p begins at row starts[p].

    Example: of parts of 3, 5 and 4 rows, rows 1 and 2 lie in part 0, row 9 in part 2, none in part 1.
        >>> [(part, where.start, where.stop) for part, where in segments(np.array([1, 2, 9]), np.array([0, 3, 8, 12]))]
        [(0, 0, 2), (2, 2, 3)]

    """
    if not len(rows):
        return
    first, last = 0, len(starts) - 2
    if last:  # Rows are often of few parts of thousands: only those from the first to the last are looked at.
        first, last = (starts.searchsorted(rows[[0, -1]], "right") - 1).tolist()
    cuts = rows.searchsorted(starts[first + 1 : last + 1]).tolist() if last > first else []
    for part, (start, stop) in enumerate(itertools.pairwise([0, *cuts, len(rows)]), first):
        if start < stop:
            yield part, slice(start, stop)


@dataclass(frozen=True)
class VectorFile:
    """One vector file open for reading rows."""

    path: Path
    width: int
    dtype: np.dtype[Any]
    groups: tuple[npt.NDArray[np.uint8], ...]
    """Per row group its values as bytes [n_g, D·itemsize]: views of the mapped file, or decoded copies."""
    starts: Rows
    """First row of each group, and the number of rows at the end [groups + 1]."""
    offsets: tuple[int, ...]
    """Where each group's values begin in the file; none where the layout was not ours and had to be decoded."""

    @property
    def mapped(self) -> bool:
        """Whether the values are those of the file itself."""
        return bool(self.offsets)

    def gather(self, rows: Rows, out: npt.NDArray[np.uint8]) -> None:
        """Copy ascending rows [m] into `out` [m, D·itemsize] bytes, since mapped values may start at any offset."""
        for group, part in segments(rows, self.starts):
            # Clipping changes no row that is there, and unlike the default it copies straight into `out`.
            self.groups[group].take(rows[part] - self.starts[group], axis=0, out=out[part], mode="clip")

    def read(self, rows: Rows, out: npt.NDArray[np.uint8]) -> None:
        """Do what `gather` does by reading the file: mapped pages count as the process's memory, read ones do not.

        Raises Failure where the file is gone, or shorter than it was.
        """
        if not self.mapped:
            self.gather(rows, out)
            return
        try:
            with self.path.open("rb", buffering=0) as file:
                for group, part in segments(rows, self.starts):
                    self._read_group(file.fileno(), group, rows[part] - self.starts[group], out[part])
        except OSError as error:
            raise cannot_read(self.path, error) from error

    def _read_group(self, file: int, group: int, places: Rows, out: npt.NDArray[np.uint8]) -> None:
        """Read ascending rows of one group, those that lie side by side in one call."""
        cuts = [0, *(np.flatnonzero(np.diff(places) != 1) + 1).tolist(), len(places)]
        runs = [(int(places[start]), int(places[stop - 1]) + 1) for start, stop in itertools.pairwise(cuts)]
        self._announce(file, group, runs)
        for (row, _), (start, stop) in zip(runs, itertools.pairwise(cuts), strict=True):
            self._read_run(file, out[start:stop].reshape(-1), self.offsets[group] + row * out.shape[1])

    def _announce(self, file: int, group: int, runs: list[tuple[int, int]]) -> None:
        """Tell the kernel which rows of a group will be read: it then fetches them at once and not one by one.

        Where most rows between the first and the last are wanted, all are announced, which is the faster read.
        """
        if sys.platform == "linux":
            size = self.width * self.dtype.itemsize
            span = runs[0][0], runs[-1][1]
            dense = 2 * sum(stop - start for start, stop in runs) > span[1] - span[0]
            for start, stop in [span] if dense else runs:
                place = self.offsets[group] + start * size
                os.posix_fadvise(file, place, (stop - start) * size, os.POSIX_FADV_WILLNEED)

    def _read_run(self, file: int, out: npt.NDArray[np.uint8], offset: int) -> None:
        done = 0
        while done < len(out):
            count = os.preadv(file, [out[done:].data], offset + done)
            if count == 0:
                raise Failure(f"{self.path}: ends before its last row; run `micropref verify`")
            done += count


def open_vectors(path: Path, edges: list[str] | None) -> VectorFile:
    """Open a vector file, mapped where its layout checks out against `edges`, decoded otherwise.

    Raises Failure where the file is no Parquet file with a `key` and an `embedding` column, or memory is short.
    """
    try:
        file = pq.ParquetFile(path)
        width, dtype = _shape(file.schema_arrow)
        offsets = _offsets(file.metadata, width * dtype.itemsize) if edges else ()
        groups = _map_groups(path, file.metadata, offsets, edges or [], width * dtype.itemsize)
        if not groups:
            offsets, groups = (), _decode_groups(file, width, dtype)
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
            raise Failure(
                f"{path}: no memory is left to open it; raise the process's limit (`memory_mb` of `sql`)"
            ) from error
        missing = isinstance(error, FileNotFoundError)
        if (
            isinstance(error, OSError) and error.errno and not missing
        ):  # pyarrow says what it cannot decode without a number
            raise cannot_read(path, error) from error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise Failure(f"{path}: not a vector file ({reason}); run `micropref verify`") from error
    counts = [0, *(len(group) for group in groups)]
    return VectorFile(path, width, dtype, tuple(groups), np.cumsum(counts, dtype=np.int64), offsets)


def _shape(schema: pa.Schema) -> tuple[int, np.dtype[Any]]:
    """Return D and dtype of a vector file's schema. Raises ValueError where it is another schema."""
    found = schema.field("embedding").type if {"key", "embedding"} <= set(schema.names) else None
    for dtype, item in _ITEMS.items():
        if found is not None and pa.types.is_fixed_size_list(found) and found.value_type == item:
            return int(found.list_size), dtype
    raise ValueError(f"columns {', '.join(schema.names)}; key and embedding, a fixed-size list of floats, expected")


def _offsets(meta: pq.FileMetaData, row_bytes: int) -> tuple[int, ...]:
    """Return where every row group's values begin, or nothing where the footer shows another layout."""
    offsets = []
    for number in range(meta.num_row_groups):
        group = meta.row_group(number)
        columns = map(group.column, range(group.num_columns))
        column = next(c for c in columns if c.path_in_schema.startswith("embedding"))
        offset = column.data_page_offset + column.total_compressed_size - group.num_rows * row_bytes
        plain = set(column.encodings) <= {"PLAIN", "RLE"} and not column.has_dictionary_page
        if column.compression != "UNCOMPRESSED" or not plain or offset <= column.data_page_offset:
            return ()
        offsets.append(offset)
    return tuple(offsets)


def _map_groups(
    path: Path, meta: pq.FileMetaData, offsets: tuple[int, ...], edges: list[str], row_bytes: int
) -> list[npt.NDArray[np.uint8]]:
    """Return byte views of every row group's values, or nothing where they are not those that `edges` tell."""
    if not offsets:
        return []
    with path.open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    counts = [meta.row_group(number).num_rows for number in range(meta.num_row_groups)]
    groups = [
        np.frombuffer(mapping, np.uint8, count * row_bytes, offset).reshape(count, row_bytes)
        for offset, count in zip(offsets, counts, strict=True)
    ]
    same = [_edge_digest(group) for group in groups] == edges
    mapping.madvise(mmap.MADV_DONTNEED)  # a check of many files must not count as memory: the kernel maps around it
    return groups if same else []


def _decode_groups(file: pq.ParquetFile, width: int, dtype: np.dtype[Any]) -> list[npt.NDArray[np.uint8]]:
    groups = []
    for number in range(file.metadata.num_row_groups):
        column = pa.concat_arrays(file.read_row_group(number, columns=["embedding"]).column(0).chunks)
        if column.null_count or column.flatten().null_count:
            raise ValueError(f"row group {number} has missing values")
        values = column.flatten().to_numpy(zero_copy_only=False).astype(dtype, copy=False)
        groups.append(np.ascontiguousarray(values.reshape(-1, width)).view(np.uint8))
    return groups


def read_keys(path: Path) -> pa.Array:
    """Return the keys of a vector file [n] as fixed-size binary."""
    return pq.read_table(path, columns=["key"]).column("key").combine_chunks()
