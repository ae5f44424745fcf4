"""Every kind of file gives the rows that were put into it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from micropref.cache.errors import BadInput
from micropref.pipeline.sources.reader import read_source
from micropref.pipeline.sources.tabular import parquet_records

ROWS = [
    {"prompt": "Name a river.", "chosen": "The Rhine.", "rejected": "Rivers are wet."},
    {"prompt": "Name a lake.", "chosen": "Lake Cómo.", "rejected": "Lakes."},
]
TALK = {
    "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
    "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}],
}
COLUMNS = {name: [row[name] for row in ROWS] for name in ROWS[0]}
NUMBERED = {name: {str(at): row[name] for at, row in enumerate(ROWS)} for name in ROWS[0]}


def text(value: Any, **options: Any) -> bytes:
    return json.dumps(value, **options).encode()


LINES = b"\n".join(text(row) for row in ROWS)


def zstd(*contents: bytes) -> bytes:
    return b"".join(pa.compress(content, "zstd", asbytes=True) for content in contents)


def ipc(opened: Callable[..., Any]) -> bytes:
    table = pa.Table.from_pylist(ROWS)
    sink = pa.BufferOutputStream()
    with opened(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1)
    return bytes(sink.getvalue())


KINDS: dict[str, tuple[str, bytes]] = {
    "lines": ("a.jsonl", LINES),
    "lines in .json": ("a.json", LINES),
    "array": ("a.json", text(ROWS)),
    "array over lines": ("a.json", text(ROWS, indent=2)),
    "array behind blank lines and a BOM": ("a.json", b"\xef\xbb\xbf\n \n" + text(ROWS)),
    "array in .jsonl": ("a.jsonl", text(ROWS)),
    "packed array": ("a.json.gz", gzip.compress(text(ROWS, indent=1))),
    "wrapped": ("a.json", text({"data": ROWS})),
    "wrapped with a word about it": ("a.json", text({"version": 1, "rows": ROWS}, indent=4)),
    "wrapped twice": ("a.json", text({"data": {"rows": ROWS}})),
    "wrapped under another name": ("a.json", text({"version": "1", "preferences": ROWS})),
    "rows by id": ("a.json", text({"a1": ROWS[0], "b2": ROWS[1]})),
    "rows by number": ("a.json", text(dict(enumerate(ROWS)), indent=1)),
    "columns, wrapped": ("a.json", text({"data": COLUMNS})),
    "rows of the hub's viewer": ("a.json", text({"rows": [{"row_idx": 0, "row": row} for row in ROWS]})),
    "columns": ("a.json", text(COLUMNS)),
    "columns over lines": ("a.json", text(COLUMNS, indent=2)),
    "columns of pandas": ("a.json", text(NUMBERED)),
    "columns and cells of pandas": (
        "a.json",
        text({"columns": list(ROWS[0]), "index": [0, 1], "data": [list(row.values()) for row in ROWS]}),
    ),
    "objects over lines": ("a.jsonl", b"\n".join(text(row, indent=2) for row in ROWS)),
    "arrow file": ("a.arrow", ipc(pa.ipc.new_file)),
    "arrow stream": ("a.arrow", ipc(pa.ipc.new_stream)),
    "zstd": ("a.jsonl.zst", zstd(LINES)),
    "zstd in frames": ("a.jsonl.zst", zstd(*(text(row) + b"\n" for row in ROWS))),
    "zstd csv": ("a.csv.zst", zstd("\n".join(",".join(row) for row in [[*ROWS[0]], *map(dict.values, ROWS)]).encode())),
}


@pytest.mark.parametrize(("name", "content"), KINDS.values(), ids=KINDS)
def test_a_file_gives_its_rows(tmp_path: Path, name: str, content: bytes) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    source = read_source(file)
    assert source.rows == 2
    assert [(pair.prompt, pair.chosen, pair.rejected) for pair in source.pairs] == [tuple(row.values()) for row in ROWS]
    assert len({pair.origin.line for pair in source.pairs}) == 2
    assert file.read_bytes() == content


def test_a_feather_file_is_an_arrow_file(tmp_path: Path) -> None:
    feather.write_feather(pa.Table.from_pylist(ROWS), tmp_path / "a.feather", compression="zstd")
    assert len(read_source(tmp_path / "a.feather").pairs) == 2


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("row", [ROWS[0], TALK], ids=["texts", "messages"])
def test_one_row_alone_is_a_row(tmp_path: Path, row: dict[str, Any], indent: int | None) -> None:
    (tmp_path / "a.json").write_bytes(text(row, indent=indent))
    source = read_source(tmp_path / "a.json")
    assert (source.rows, len(source.pairs)) == (1, 1)


def test_bad_items_of_an_array_are_set_aside(tmp_path: Path) -> None:
    items = [text(ROWS[0]), b"5", b'{"prompt": "p", "prompt": "q"}', b'{"prompt": "\\ud800"}', text(ROWS[1])]
    file = tmp_path / "a.json"
    file.write_bytes(b"[" + b",\n".join(items) + b"]")
    with pytest.raises(BadInput, match=rf"{file}:2: the whole row: found the number 5; expected a JSON object"):
        read_source(file)
    source = read_source(file, on_bad="skip")
    assert (source.rows, len(source.pairs), source.dropped) == (5, 2, {"malformed": 3})
    assert [reject.origin.line for reject in source.rejects] == [2, 3, 4]


def test_lines_that_begin_like_a_longer_value_stay_lines(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"prompt": "p", "chosen": [\n' + LINES)
    source = read_source(file, on_bad="skip")
    assert (source.rows, len(source.pairs), source.dropped) == (3, 2, {"malformed": 1})
    assert source.rejects[0].origin.line == 1


@pytest.mark.parametrize("cut", [4, 12])
def test_a_cut_off_zstd_file_is_refused(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "a.jsonl.zst"
    file.write_bytes(zstd(LINES * 50)[:-cut])
    with pytest.raises(BadInput, match="found damaged or cut-off zstd data"):
        read_source(file)


def test_arrow_streams_behind_one_another_are_all_read(tmp_path: Path) -> None:
    file = tmp_path / "a.arrow"
    stream = ipc(pa.ipc.new_stream)
    file.write_bytes(stream + stream)
    assert read_source(file).rows == 4
    file.write_bytes(stream + b"something else")
    with pytest.raises(BadInput, match=rf"{file}:3: cannot be read as Arrow"):
        read_source(file)


def test_times_in_nanoseconds_stop_nothing(tmp_path: Path) -> None:
    times = {
        "when": pa.array([1_600_000_000_000_000_001, None], pa.timestamp("ns")),
        "took": pa.array([1, 2_000], pa.duration("ns")),
        "log": pa.array([[{"at": 1_600_000_000_000_000_001}], []], pa.list_(pa.struct({"at": pa.timestamp("ns")}))),
    }
    table = pa.table({**{name: pa.array(values) for name, values in COLUMNS.items()}, **times})
    pq.write_table(table, tmp_path / "a.parquet")
    fields = [values for _, values in parquet_records(tmp_path / "a.parquet")]
    written = "2020-09-13 12:26:40.000000001"
    assert [row["when"] for row in fields] == [written, None]
    assert [row["took"] for row in fields] == ["1 ns", timedelta(microseconds=2)]
    assert [row["log"] for row in fields] == [[{"at": written}], []]
    source = read_source(tmp_path / "a.parquet")
    assert len(source.pairs) == 2
    assert {one.role for one in source.reading.columns if one.column in times} == {"ignored"}


@pytest.mark.parametrize(
    ("whole", "named"),
    [
        ({"train": ROWS, "heldout": ROWS[:1]}, "'train', 'heldout'"),
        ({"rows": [{"a": 1, "b": 2}], "others": [{"a": 3, "b": 4}]}, "'rows', 'others'"),
        ({"data": {"rows": ROWS}, "extra": ROWS[:1]}, "'data', 'extra'"),
        ({"train": COLUMNS, "test": COLUMNS}, "'train', 'test'"),
    ],
)
def test_an_object_with_several_lists_of_rows_is_refused(tmp_path: Path, whole: Any, named: str) -> None:
    (tmp_path / "a.json").write_bytes(text(whole))
    with pytest.raises(BadInput, match=rf"found an object with several lists of rows \({named}\)"):
        read_source(tmp_path / "a.json")


def test_lists_about_the_rows_are_no_rows(tmp_path: Path) -> None:
    features = [{"feature_idx": at, "name": name, "type": {"dtype": "string"}} for at, name in enumerate(COLUMNS)]
    rows = [{"row_idx": at, "row": row} for at, row in enumerate(ROWS)]
    (tmp_path / "a.json").write_bytes(text({"features": features, "rows": rows}))
    assert len(read_source(tmp_path / "a.json").pairs) == 2


def test_the_columns_of_pandas_are_joined_by_their_row_numbers(tmp_path: Path) -> None:
    mixed = {**NUMBERED, "rejected": dict(reversed(NUMBERED["rejected"].items()))}
    (tmp_path / "a.json").write_bytes(text(mixed))
    assert [pair.rejected for pair in read_source(tmp_path / "a.json").pairs] == [row["rejected"] for row in ROWS]
    (tmp_path / "a.json").write_bytes(text({**NUMBERED, "rejected": {"1": "a", "2": "b"}}))
    with pytest.raises(BadInput, match=r"different row numbers \(row 0 is in 'prompt' or in 'rejected' alone\)"):
        read_source(tmp_path / "a.json")


def test_a_row_with_a_list_of_others_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(text({**ROWS[0], "examples": [ROWS[1]]}))
    source = read_source(tmp_path / "a.json")
    assert [pair.prompt for pair in source.pairs] == ["Name a river."]
    assert [one.column for one in source.reading.columns if one.role == "ignored"] == ["examples"]


@pytest.mark.parametrize(("mark", "word"), [("\t", "tabs"), (";", "semicolons")])
def test_csv_with_other_marks_than_commas_is_refused_by_name(tmp_path: Path, mark: str, word: str) -> None:
    (tmp_path / "a.csv").write_text(f"prompt{mark}chosen{mark}rejected\na{mark}b{mark}c\n")
    with pytest.raises(BadInput, match=f"found names separated by {word}; expected commas"):
        read_source(tmp_path / "a.csv")
