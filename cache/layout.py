"""The vector file: a standard Parquet file whose vectors can also be memory-mapped without decoding.

The embedding column is a non-nullable FixedSizeList of non-nullable items, PLAIN, uncompressed, one page per row
group. Its values then lie side by side at the end of that page, so their offset follows from the footer. Any
Parquet reader sees an ordinary list column; we see an array.

n rows of a file, D embedding width.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cache.errors import Failure

LAYOUT_VERSION = 1
KEY_BYTES = 16
ROW_GROUP = 8192
"""Rows of a row group: one page each, so far below the size at which a reader would have to hold much."""
KEY_TYPE = pa.binary(KEY_BYTES)
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
        max_rows_per_page=ROW_GROUP,  # pyarrow splits a page at 20,000 rows unless told not to
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


@dataclass(frozen=True)
class VectorFile:
    """One vector file open for gathering rows."""

    path: Path
    width: int
    dtype: np.dtype[Any]
    groups: tuple[npt.NDArray[np.uint8], ...]
    """Per row group its values as bytes [n_g, D·itemsize]: views of the mapped file, or decoded copies."""
    starts: Rows
    """First row of each group, and the number of rows at the end [groups + 1]."""
    mapped: bool
    """False where the layout was not ours and the values had to be decoded."""

    def gather(self, rows: Rows, out: npt.NDArray[np.uint8]) -> None:
        """Copy rows [m] into `out` [m, D·itemsize] bytes. Bytes, since mapped values may start at any offset."""
        group = np.searchsorted(self.starts, rows, side="right") - 1
        for number in np.unique(group):
            wanted = np.flatnonzero(group == number)
            values, local = self.groups[number], rows[wanted] - self.starts[number]
            if wanted[-1] - wanted[0] + 1 == len(wanted):
                # Clipping changes no row that is there, and unlike the default it copies straight into `out`.
                np.take(values, local, axis=0, out=out[wanted[0] : wanted[-1] + 1], mode="clip")
            else:
                out[wanted] = values[local]


def open_vectors(path: Path, edges: list[str] | None) -> VectorFile:
    """Open a vector file, mapped where its layout checks out against `edges`, decoded otherwise.

    Raises Failure where the file is no Parquet file with a `key` and an `embedding` column.
    """
    try:
        file = pq.ParquetFile(path)
        width, dtype = _shape(file.schema_arrow)
        groups = _map_groups(path, file.metadata, width * dtype.itemsize) if edges else []
        mapped = bool(groups) and [_edge_digest(group) for group in groups] == edges
        if not mapped:
            groups = _decode_groups(file, width, dtype)
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise Failure(f"{path}: not a vector file ({reason}); run `micropref verify`") from error
    counts = [0, *(len(group) for group in groups)]
    return VectorFile(path, width, dtype, tuple(groups), np.cumsum(counts, dtype=np.int64), mapped)


def _shape(schema: pa.Schema) -> tuple[int, np.dtype[Any]]:
    """Return D and dtype of a vector file's schema. Raises ValueError where it is another schema."""
    found = schema.field("embedding").type if {"key", "embedding"} <= set(schema.names) else None
    for dtype, item in _ITEMS.items():
        if found is not None and pa.types.is_fixed_size_list(found) and found.value_type == item:
            return int(found.list_size), dtype
    raise ValueError(f"columns {', '.join(schema.names)}; key and embedding, a fixed-size list of floats, expected")


def _map_groups(path: Path, meta: pq.FileMetaData, row_bytes: int) -> list[npt.NDArray[np.uint8]]:
    """Return byte views of every row group's values, or nothing where the footer shows another layout."""
    raw = np.memmap(path, dtype=np.uint8, mode="r")
    groups = []
    for number in range(meta.num_row_groups):
        group = meta.row_group(number)
        columns = map(group.column, range(group.num_columns))
        column = next(c for c in columns if c.path_in_schema.startswith("embedding"))
        size = group.num_rows * row_bytes
        offset = column.data_page_offset + column.total_compressed_size - size
        plain = set(column.encodings) <= {"PLAIN", "RLE"} and not column.has_dictionary_page
        if column.compression != "UNCOMPRESSED" or not plain or offset <= column.data_page_offset:
            return []
        groups.append(raw[offset : offset + size].reshape(group.num_rows, row_bytes))
    return groups


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
