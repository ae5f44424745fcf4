"""The mapped Parquet layout against pyarrow's own decoding, DuckDB and Polars."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from micropref.cache.errors import Failure
from micropref.cache.schemas import KEY_TYPE
from micropref.cache.vectors import parquet_layout as layout
from micropref.cache.vectors.parquet_layout import edge_digests, open_vectors, read_keys, vector_schema, write_vectors

OURS: dict[str, Any] = {
    "row_group_size": layout.ROW_GROUP,
    "max_rows_per_page": layout.ROW_GROUP,
    "write_batch_size": layout.ROW_GROUP,
    "data_page_size": 1 << 30,
    "data_page_version": "2.0",
    "compression": "none",
    "use_dictionary": False,
}


def random_vectors(rows: int, width: int, dtype: str) -> Any:
    return np.random.default_rng(rows * 1000 + width).standard_normal((rows, width)).astype(dtype)


def make_keys(rows: int) -> pa.Array:
    return pa.array([number.to_bytes(16, "little") for number in range(rows)], KEY_TYPE)


def write(path: Path, vectors: Any) -> Path:
    with path.open("wb") as file:
        assert write_vectors(file, make_keys(len(vectors)), vectors) == len(vectors)
    return path


def write_otherwise(path: Path, vectors: Any, **changes: Any) -> Path:
    """Write the same schema with other Parquet settings."""
    schema = vector_schema(vectors.shape[1], vectors.dtype)
    flat = pa.array(vectors.reshape(-1))
    column = pa.FixedSizeListArray.from_arrays(flat, type=schema.field("embedding").type)
    table = pa.Table.from_arrays([make_keys(len(vectors)), column], schema=schema)
    pq.write_table(table, path, **{**OURS, **changes})
    return path


def decoded(path: Path) -> Any:
    """Return all vectors as pyarrow reads them."""
    column = pq.read_table(path, columns=["embedding"]).column(0).combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)


def gathered(file: layout.VectorFile, rows: Any) -> Any:
    """Return rows in any order, gathered in ascending order, after a check that reading the file gives the same."""
    ascending, places = np.unique(rows, return_inverse=True)
    out, read = np.zeros((2, len(ascending), file.width * file.dtype.itemsize), dtype=np.uint8)
    file.gather(ascending, out)
    file.read(ascending, read)
    np.testing.assert_array_equal(read, out)
    found = out.view(file.dtype)
    assert found.flags.aligned
    return found[places]


def value_offset(path: Path) -> int:
    """Return where the first row's values lie in the file, found by searching for its bytes."""
    first = decoded(path)[0].tobytes()
    data = path.read_bytes()
    assert data.count(first) == 1
    return data.index(first)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_mapped_rows_are_the_decoded_rows_at_every_byte_offset(tmp_path: Path, dtype: str) -> None:
    found = set()
    for rows in (1, 2, 3, 100, 129, 1000, 4000, 8191):
        for width in (8, 9, 12, 31):
            vectors = random_vectors(rows, width, dtype)
            path = write(tmp_path / f"{rows}-{width}.parquet", vectors)
            file = open_vectors(path, edge_digests(vectors))
            assert file.mapped
            found.add(value_offset(path) % 4)
            order = np.random.default_rng(0).integers(0, rows, size=min(rows * 2, 500))
            rows_read = gathered(file, order)
            np.testing.assert_array_equal(rows_read, decoded(path)[order])
            np.testing.assert_array_equal(decoded(path), vectors)
    assert found == {0, 1, 2, 3}


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("rows", [8192, 8193, 20_001])
def test_several_row_groups(tmp_path: Path, rows: int, dtype: str) -> None:
    vectors = random_vectors(rows, 6, dtype)
    path = write(tmp_path / "many.parquet", vectors)
    file = open_vectors(path, edge_digests(vectors))
    assert file.mapped
    assert len(file.groups) == -(-rows // layout.ROW_GROUP)
    order = np.random.default_rng(1).permutation(rows)
    np.testing.assert_array_equal(gathered(file, order), vectors[order])
    assert read_keys(path).equals(make_keys(rows))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_other_readers_see_an_ordinary_list_column(tmp_path: Path, dtype: str) -> None:
    vectors = random_vectors(9000, 5, dtype)
    path = write(tmp_path / "open.parquet", vectors)
    connection = duckdb.connect()
    query = "select cast(embedding as float[5]) v, typeof(embedding) t from read_parquet(?)"
    table = connection.execute(query, [str(path)]).fetchnumpy()
    assert set(table["t"]) == {"FLOAT[]"}
    np.testing.assert_array_equal(np.stack(table["v"]), vectors.astype(np.float32))
    column = pl.read_parquet(path)["embedding"]
    assert column.dtype == pl.Array(pl.Float16 if dtype == "float16" else pl.Float32, 5)
    np.testing.assert_array_equal(column.to_numpy(), vectors)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"compression": "zstd"}, id="compressed"),
        pytest.param({"use_dictionary": True}, id="dictionary"),
        pytest.param({"use_dictionary": False, "column_encoding": {"embedding.list.element": "BYTE_STREAM_SPLIT"}},
                     id="byte stream split"),
        pytest.param({"max_rows_per_page": 100}, id="several pages in a group"),
        pytest.param({"row_group_size": 1000}, id="smaller groups than the digests are of"),
    ],
)  # fmt: skip
def test_another_layout_is_decoded(tmp_path: Path, changes: dict[str, Any]) -> None:
    vectors = random_vectors(2500, 7, "float32")
    path = write_otherwise(tmp_path / "other.parquet", vectors, **{"write_batch_size": 50, **changes})
    file = open_vectors(path, edge_digests(vectors))
    assert not file.mapped
    order = np.random.default_rng(2).permutation(len(vectors))
    np.testing.assert_array_equal(gathered(file, order), vectors[order])


def test_pages_split_by_the_writer_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "ROW_GROUP", 30_000)  # so that only the page split is another layout
    vectors = random_vectors(30_000, 4, "float16")
    path = write_otherwise(tmp_path / "split.parquet", vectors, row_group_size=30_000, max_rows_per_page=20_000)
    file = open_vectors(path, edge_digests(vectors))
    assert not file.mapped
    np.testing.assert_array_equal(gathered(file, np.arange(30_000)), vectors)


def test_first_page_version_gives_the_same_numbers(tmp_path: Path) -> None:
    vectors = random_vectors(500, 3, "float16")
    path = write_otherwise(tmp_path / "v1.parquet", vectors, data_page_version="1.0")
    np.testing.assert_array_equal(gathered(open_vectors(path, edge_digests(vectors)), np.arange(500)), vectors)


def test_rows_asked_for_twice_and_none(tmp_path: Path) -> None:
    vectors = random_vectors(8200, 3, "float16")
    file = open_vectors(write(tmp_path / "v.parquet", vectors), edge_digests(vectors))
    for rows in (np.array([5, 5, 6, 8191, 8191, 8192]), np.empty(0, dtype=np.int64)):
        for take in (file.gather, file.read):
            out = np.zeros((len(rows), 6), dtype=np.uint8)
            take(rows, out)
            np.testing.assert_array_equal(out.view(np.float16), vectors[rows])


def test_a_file_that_became_shorter_is_refused(tmp_path: Path) -> None:
    vectors = random_vectors(100, 300, "float32")
    path = write(tmp_path / "v.parquet", vectors)
    file = open_vectors(path, edge_digests(vectors))
    os.truncate(path, file.offsets[0] + 50 * 1200 + 7)
    out = np.zeros((50, 1200), dtype=np.uint8)
    file.read(np.arange(50), out)
    with pytest.raises(Failure, match="ends before its last row"):
        file.read(np.arange(1, 51), out)
    path.unlink()
    with pytest.raises(Failure, match="cannot be read"):
        file.read(np.arange(50), out)


def test_without_check_values_nothing_is_mapped(tmp_path: Path) -> None:
    vectors = random_vectors(10, 3, "float32")
    path = write(tmp_path / "unchecked.parquet", vectors)
    for edges in (None, [], ["0" * 16]):
        file = open_vectors(path, edges)
        assert not file.mapped
        np.testing.assert_array_equal(gathered(file, np.arange(10)), vectors)


def _junk(path: Path) -> None:
    path.write_bytes(b"not Parquet at all")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _folder(path: Path) -> None:
    path.mkdir()


def _junk_footer(path: Path) -> None:
    path.write_bytes(b"PAR1" + b"\x07" * 64 + (60).to_bytes(4, "little") + b"PAR1")


def _other_columns(path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), path)


def _no_key(path: Path) -> None:
    column = pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2))
    pq.write_table(pa.table({"embedding": column}), path)


def _ragged(path: Path) -> None:
    column = pa.array([[1.0, 2.0]], pa.list_(pa.float32()))
    pq.write_table(pa.table({"key": make_keys(1), "embedding": column}), path)


def _texts(path: Path) -> None:
    column = pa.array([["a", "b"]], pa.list_(pa.string(), 2))
    pq.write_table(pa.table({"key": make_keys(1), "embedding": column}), path)


def _missing_values(path: Path) -> None:
    column = pa.array([[1.0, None], None], pa.list_(pa.float32(), 2))
    pq.write_table(pa.table({"key": make_keys(2), "embedding": column}), path)


@pytest.mark.parametrize(
    "make",
    [_junk, _empty, _folder, _junk_footer, _other_columns, _no_key, _ragged, _texts, _missing_values],
)
def test_foreign_files_are_refused_in_one_line(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "foreign.parquet"
    make(path)
    with pytest.raises(Failure) as caught:
        open_vectors(path, None)
    assert "not a vector file" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(Failure):
        open_vectors(path, ["0" * 16])


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="not a vector file"):
        open_vectors(tmp_path / "none.parquet", None)


@pytest.mark.parametrize("error", [OSError(errno.ENOMEM, "Cannot allocate memory"), pa.ArrowMemoryError("malloc")])
def test_memory_that_runs_out_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(layout.pq, "ParquetFile", fail)
    with pytest.raises(Failure, match="no memory is left to open it; raise the process's limit"):
        open_vectors(tmp_path / "any.parquet", None)
