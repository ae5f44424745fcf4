"""A file of a user's own as a table: its numbers exact, its faults one line, its size bounded."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from micropref.cache.errors import BadInput
from micropref.cache.sql.sandbox import SqlLimits
from micropref.pipeline.sources.own_table import ROWS, read_own_table

LIMITS = SqlLimits(memory_mb=64)


def columns(path: Path, content: str | bytes) -> dict[str, list[Any]]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found: dict[str, list[Any]] = read_own_table(path, LIMITS).to_pydict()
    return found


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1", "-2", ""], [1, -2, None]),
        (["007", "8"], ["007", "8"]),
        (["9007199254740993", "1"], [9007199254740993, 1]),
        (["9223372036854775807"], [9223372036854775807]),
        (["9223372036854775808"], ["9223372036854775808"]),
        (["9007199254740993", "1.5"], ["9007199254740993", "1.5"]),
        (["123456789012345", "1.5"], [123456789012345.0, 1.5]),
        (["1", "2.5", "-.5", "1e-3", "3."], [1.0, 2.5, -0.5, 0.001, 3.0]),
        (["1.5", "1e999"], ["1.5", "1e999"]),
        (["-inf", "2"], [-float("inf"), 2.0]),
        (["+49123", "5"], ["+49123", "5"]),
        ([" 1", "2"], [" 1", "2"]),
        (["1_000", "2"], ["1_000", "2"]),
        (["0x10", "2"], ["0x10", "2"]),
        (["٣", "4"], ["٣", "4"]),
        (["True", "false", ""], [True, False, None]),
        (["true", "1"], ["true", "1"]),
        (["2024-01-02", ""], ["2024-01-02", None]),
        (["", ""], [None, None]),
        (['"a,b"', '"c""d\ne"'], ["a,b", 'c"d\ne']),
    ],
)
def test_cells_of_csv_are_exact_numbers_or_texts(tmp_path: Path, cells: list[str], expected: list[Any]) -> None:
    rows = "".join(f"{cell},x\n" for cell in cells)
    found = columns(tmp_path / "a.csv", f"a,b\n{rows}")
    assert found["a"] == expected
    assert [type(one) for one in found["a"]] == [type(one) for one in expected]


def test_a_column_is_typed_by_all_of_its_rows(tmp_path: Path) -> None:
    numbers = [str(number) for number in range(ROWS)]
    found = columns(tmp_path / "a.csv", "a\n" + "\n".join([*numbers, "ann"]) + "\n")
    assert found["a"] == [*numbers, "ann"]
    packed = columns(tmp_path / "a.csv.gz", gzip.compress(("a\n" + "\n".join(numbers)).encode(), mtime=0))
    assert packed["a"] == list(range(ROWS))


def test_rows_of_json_keep_their_types_and_missing_fields_are_null(tmp_path: Path) -> None:
    found = columns(tmp_path / "a.jsonl", '{"a": 9007199254740993, "b": "007"}\n{"c": [1, 2], "b": "x"}\n')
    assert found == {"a": [9007199254740993, None], "b": ["007", "x"], "c": [None, [1, 2]]}
    late = [f'{{"a": {number}}}' for number in range(ROWS)] + ['{"b": 1, "a": 0.5}']
    assert columns(tmp_path / "b.jsonl", "\n".join(late))["b"] == [None] * ROWS + [1]
    assert columns(tmp_path / "c.json", '[{"a": 1}, {"a": 2}]') == {"a": [1, 2]}


def test_parquet_and_arrow_files_are_read_as_they_are(tmp_path: Path) -> None:
    table = pa.table({"a": [1, None], "b": ["x", "y"], "c": [{"d": [1.5]}, None]})
    pq.write_table(table, tmp_path / "a.parquet")
    feather.write_feather(table, tmp_path / "b.arrow")
    with pa.OSFile(str(tmp_path / "c.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    (tmp_path / "two.arrow").write_bytes((tmp_path / "c.arrow").read_bytes() * 2)
    assert read_own_table(tmp_path / "two.arrow", LIMITS).equals(pa.concat_tables([table, table]))
    (tmp_path / "link.parquet").symlink_to(tmp_path / "a.parquet")
    for name in ("a.parquet", "b.arrow", "c.arrow", "link.parquet"):
        assert read_own_table(tmp_path / name, LIMITS).equals(table), name
    pq.write_table(table.slice(0, 0), tmp_path / "none.parquet")
    assert read_own_table(tmp_path / "none.parquet", LIMITS).schema.equals(table.schema)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"a,b\n1\n", r"a.csv:2: the whole row: found 1 cells; expected 2"),
        ("a.csv", b'a\n"x\n', "found broken CSV"),
        ("a.csv", b"a\n\xff\xfe\n", "invalid UTF-8"),
        ("a.csv", "a\n1\n".encode("utf-16"), "UTF-16"),
        ("a.csv", b"a,a\n1,2\n", "found column 'a' more than once"),
        ("a.csv", b"a;b\n1;2\n", "names separated by semicolons"),
        ("a.csv", b"", "found no rows"),
        ("a.csv", b"a,b\n", "found no rows"),
        ("a.csv", b"PAR1....", "Parquet file; name it .parquet"),
        ("a.csv", b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"),
        ("a.jsonl", b'{"a": 1}\n{"a"\n', "a.jsonl:2: "),
        (
            "a.jsonl",
            b'{"a": 1}\n{"a": "x"}\n',
            r"a.jsonl:1-2: column 'a' cannot be read .*; expected values of one kind",
        ),
        ("a.jsonl", b'{"a": 9007199254740993}\n{"a": 0.5}\n', "column 'a' cannot be read"),
        ("a.jsonl", b'{"a": 1e400}\n', r"column 'a' cannot be read \(a number is too large\)"),
        ("a.jsonl", b'{"a": 99999999999999999999}\n', "column 'a' cannot be read"),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n', mtime=0)[:-9], "a.jsonl.gz"),
        ("a.parquet", b"PAR1 and no more", "a.parquet: cannot be read"),
        ("a.arrow", b"ARROW1\0\0 and no more", "a.arrow: cannot be read"),
        ("a.arrow", b"", "a.arrow: found no rows"),
        ("a.txt", b"a\n1\n", "found a file of another kind; expected .csv"),
    ],
)
def test_faults_are_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        columns(tmp_path / name, content)
    assert "\n" not in str(caught.value)


def test_what_is_no_file_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "link.csv").symlink_to(tmp_path / "gone.csv")
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    said = {
        "pipe": "a pipe",
        "folder": "a folder",
        "link": "no such file",
        "loop": "no such file",
        "zero": "a device",
        "gone": "no",
    }
    for name, message in said.items():
        with pytest.raises(BadInput, match=message):
            read_own_table(tmp_path / f"{name}.csv", LIMITS)


def test_a_file_is_read_no_further_than_half_of_the_memory(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.csv.gz"
    line = b"x" * 1000 + b"\n"
    bomb.write_bytes(gzip.compress(b"a\n" + line * 60_000, mtime=0))
    assert bomb.stat().st_size < 1_000_000
    with pytest.raises(BadInput, match=r"bomb.csv.gz: its rows take more than 32 MiB, half of the memory limit of 64"):
        read_own_table(bomb, LIMITS)
    pq.write_table(pa.table({"a": pa.repeat(pa.scalar("x" * 1000), 60_000)}), tmp_path / "bomb.parquet")
    with pytest.raises(BadInput, match=r"bomb.parquet: its rows take more than 32 MiB"):
        read_own_table(tmp_path / "bomb.parquet", LIMITS)
