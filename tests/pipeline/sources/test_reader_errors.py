"""A corpus of bad files and bad rows, each with its pinned outcome."""

from __future__ import annotations

import gzip
import json
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from micropref.cache.errors import BadInput
from micropref.pipeline.sources.reader import read_source

GOOD = {"prompt": "p", "chosen": "c", "rejected": "r"}
GOOD_LINE = json.dumps(GOOD).encode() + b"\n"
GOOD_RATING = {"prompt": "p", "response": "A", "help": 1, "style": 2}
USER = {"role": "user", "content": "What is 1+1?"}
ANSWER = {"role": "assistant", "content": "2"}
OTHER = {"role": "assistant", "content": "3"}


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(BadInput) as refusal:
        read_source(path, **options)
    message = str(refusal.value)
    assert "\n" not in message
    return message


BAD_FILES: dict[str, tuple[str, bytes, str]] = {
    "empty": ("a.jsonl", b"", ": found no rows"),
    "blank lines only": ("a.jsonl", b"\n  \n\r\n", ": found no rows"),
    "empty gzip": ("a.jsonl.gz", gzip.compress(b""), ": found no rows"),
    "empty csv": ("a.csv", b"", ": found no rows"),
    "csv header only": ("a.csv", b"prompt,chosen,rejected\n", ": found no rows"),
    "utf-16": ("a.jsonl", GOOD_LINE.decode().encode("utf-16"), ":1: found UTF-16"),
    "utf-16 without bom": ("a.jsonl", GOOD_LINE.decode().encode("utf-16-le"), ":1: found UTF-16 or binary data"),
    "utf-16 csv": ("a.csv", "prompt,chosen,rejected\np,c,r\n".encode("utf-16"), ":1: found UTF-16"),
    "array without its end": ("a.json", b"[\n" + GOOD_LINE, ":3: found broken JSON at column 1 (a comma or ] missing)"),
    "array of broken objects": ("a.json", b'[{"prompt": }]', ":1: found broken JSON at column 13 (Expecting value)"),
    "array and more": ("a.jsonl", b"[" + GOOD_LINE + b"]\n[]", ":3: found broken JSON at column 1 (more text behind"),
    "empty array": ("a.json", b"[]", ": found no rows"),
    "columns of different lengths": (
        "a.json",
        b'{"prompt": ["p"], "chosen": ["c"], "rejected": ["r", "s"]}',
        ": found columns of different lengths ('prompt' 1, 'chosen' 1, 'rejected' 2)",
    ),
    "several lists of rows": (
        "a.json",
        json.dumps({"train": [GOOD], "test": [GOOD]}).encode(),
        ": found an object with several lists of rows ('train', 'test'); expected one",
    ),
    "lfs pointer": (
        "a.parquet",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n",
        ": found a pointer of Git LFS",
    ),
    "no arrow": ("a.arrow", b"ARROW1 and nothing else", ":1: cannot be read as Arrow ("),
    "no zstd": ("a.jsonl.zst", GOOD_LINE, ":1: found damaged or cut-off zstd data after line 0"),
    "zstd under another name": (
        "a.jsonl",
        b"\x28\xb5\x2f\xfd" + bytes(8),
        ":1: found zstd data in a file not named .zst",
    ),
    "gzip under another name": ("a.jsonl", gzip.compress(GOOD_LINE), ":1: found gzip data in a file not named .gz"),
    "parquet under another name": ("a.jsonl", b"PAR1" + bytes(8), ":1: found a Parquet file"),
    "no gzip": ("a.jsonl.gz", GOOD_LINE, ":1: found damaged or cut-off gzip data after line 0"),
    "gzip cut off": (
        "a.jsonl.gz",
        gzip.compress(GOOD_LINE * 3)[:-8],
        ":4: found damaged or cut-off gzip data after line 3",
    ),
    "gzip damaged": (
        "a.jsonl.gz",
        gzip.compress(GOOD_LINE)[:-8] + bytes(8),
        ":2: found damaged or cut-off gzip data after line 1",
    ),
    "no preference data": ("a.jsonl", b'{"text": "hello"}\n', ":1: found the columns 'text'; expected preference ("),
    "empty object": ("a.jsonl", b"{}\n", ":1: found the columns of an empty object"),
    "ratings without numbers": (
        "a.jsonl",
        b'{"prompt": "p", "response": "r", "help": "four"}\n',
        ":1: found the columns 'prompt', 'response', 'help'",
    ),
    "only identical responses": (
        "a.jsonl",
        json.dumps(GOOD | {"rejected": "c"}).encode(),
        ": found no usable pair in 1 rows (1 × identical responses)",
    ),
    "one rated response": (
        "a.jsonl",
        json.dumps(GOOD_RATING).encode(),
        ": found no usable pair in 1 rows (1 × only response of its prompt)",
    ),
    "csv quote left open": ("a.csv", b'prompt,chosen,rejected\np,"c,r\n', ":2: found broken CSV"),
    "csv text behind a quote": ("a.csv", b'prompt,chosen,rejected\np,"c"x,r\n', ":2: found broken CSV"),
    "csv invalid utf-8": ("a.csv", b"prompt,chosen,rejected\np,\xff,r\n", ":2: found invalid UTF-8 at byte 3"),
    "csv repeated column": ("a.csv", b"prompt,chosen,rejected,chosen\np,c,r,c\n", ":1: found column 'chosen' more"),
    "empty parquet": ("a.parquet", b"", ":1: cannot be read as Parquet"),
    "no parquet": ("a.parquet", GOOD_LINE * 9, ":1: cannot be read as Parquet"),
    "another kind": ("a.txt", GOOD_LINE, ": found a file of another kind; expected .jsonl"),
    "gzipped parquet": ("a.parquet.gz", gzip.compress(b"PAR1"), ": found a file of another kind"),
}


@pytest.mark.parametrize("on_bad", ["stop", "skip"])
@pytest.mark.parametrize(("name", "content", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_files_are_refused(tmp_path: Path, name: str, content: bytes, message: str, on_bad: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    assert refused(file, on_bad=on_bad).startswith(f"{file}{message}")


BAD_LINES: dict[str, tuple[bytes, str]] = {
    "no json": (b"hello", "the whole row: found invalid JSON at column 1"),
    "json cut off": (GOOD_LINE[:-4], "the whole row: found invalid JSON at column"),
    "two objects": (GOOD_LINE.strip() * 2, f"the whole row: found invalid JSON at column {len(GOOD_LINE)}"),
    "nul bytes": (bytes(8), "the whole row: found invalid JSON at column 1"),
    "list": (b"[1, 2]", "the whole row: found a list of 2; expected a JSON object"),
    "null": (b"null", "the whole row: found null; expected a JSON object"),
    "text": (b'"a"', "the whole row: found the text 'a'; expected a JSON object"),
    "nested 10,000 deep": (b'{"a":' * 10_000, "the whole row: found JSON nested too deeply"),
    "huge whole number": (b'{"a": ' + b"9" * 5000 + b"}", "the whole row: found a whole number of thousands"),
    "invalid utf-8": (b'{"a": "\xff"}', "the whole row: found invalid UTF-8 at byte 8; expected UTF-8 text"),
    "encoded surrogate": (b'{"a": "\xed\xa0\x80"}', "the whole row: found invalid UTF-8 at byte 8"),
    "lone surrogate": (
        b'{"prompt": "p", "chosen": "\\ud83d", "rejected": "r"}',
        "field 'chosen': found half of a surrogate pair",
    ),
    "lone surrogate in a message": (
        b'{"prompt": "p", "chosen": [{"role": "\\udc00"}], "rejected": "r"}',
        "field 'chosen': found half of a surrogate pair",
    ),
    "repeated key": (
        b'{"prompt": "p", "chosen": "c", "rejected": "r", "chosen": "d"}',
        "field 'chosen': found the key more than once; expected every key once",
    ),
}


@pytest.mark.parametrize(("line", "message"), BAD_LINES.values(), ids=BAD_LINES)
def test_bad_lines_stop_or_are_skipped(tmp_path: Path, line: bytes, message: str) -> None:
    file = tmp_path / "data.jsonl"
    file.write_bytes(GOOD_LINE + line + b"\n" + GOOD_LINE)
    stopped = refused(file)
    assert stopped.startswith(f"{file}:2: {message}")
    assert stopped.endswith("; fix the row, or skip such rows with `on_bad` skip")
    source = read_source(file, on_bad="skip")
    assert (source.rows, len(source.pairs), source.dropped) == (3, 2, {"malformed": 1})
    assert source.rejects[0].reason.startswith(f"malformed: {message}")


BAD_CSV: dict[str, tuple[bytes, str]] = {
    "cell missing": (
        b'prompt,chosen,rejected\n"p\n",c,r\np,c\n',
        ":4: the whole row: found 2 cells; expected 3, as in the header",
    ),
    "empty prompt": (
        b"prompt,chosen,rejected\n,c,r\n",
        ":2: field 'prompt': found null; expected a non-empty text",
    ),
    "nan": (
        b"prompt,response,help\np,A,nan\n",
        ":2: field 'help': found the text 'nan'; expected a finite number",
    ),
    "rating of another type": (
        b"prompt,response,help\np,A,1\np,B,1_0\n",
        ":3: field 'help': found the text '1_0'; expected a finite number",
    ),
}


@pytest.mark.parametrize(("content", "message"), BAD_CSV.values(), ids=BAD_CSV)
def test_bad_csv_rows_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "data.csv"
    file.write_bytes(content)
    assert refused(file).startswith(f"{file}{message}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": None}, "field 'prompt': found null; expected a non-empty text or a list of messages"),
        ({"prompt": ""}, "field 'prompt': found an empty text"),
        ({"prompt": []}, "field 'prompt': found an empty list"),
        ({"prompt": 5}, "field 'prompt': found the number 5"),
        ({"prompt": {"a": 1}}, "field 'prompt': found an object"),
        ({"chosen": []}, "field 'chosen': found an empty list; expected a text, which may be empty, or a list of"),
        ({"rejected": None}, "field 'rejected': found null"),
        ({"rejected": ...}, "field 'rejected': found no such field"),
        ({"chosen": True}, "field 'chosen': found true"),
        ({"chosen": ["c"]}, "field 'chosen': found a list of 1 texts on this side alone"),
        ({"chosen": [ANSWER]}, "field 'rejected': found a text next to messages"),
        ({"chosen": [{"content": "2"}], "rejected": [OTHER]}, "field 'chosen[0].role': found null; expected one of"),
        ({"chosen": [ANSWER | {"role": "bot"}]}, "field 'chosen[0].role': found the text 'bot'"),
        ({"chosen": [ANSWER | {"role": ["user"]}]}, "field 'chosen[0].role': found a list of 1"),
        ({"chosen": [ANSWER, {"role": "user"}]}, "field 'chosen[1].content': found null"),
        ({"chosen": [ANSWER | {"content": 5}]}, "field 'chosen[0].content': found the number 5"),
        ({"chosen": [ANSWER | {"content": [{"type": "image"}]}]}, "field 'chosen[0].content[0]': found an object"),
        ({"chosen": [USER, ANSWER], "rejected": [OTHER]}, "field 'chosen': found a turn of the user behind"),
        ({"prompt": [USER], "chosen": [USER], "rejected": "r"}, "field 'rejected': found a text next to messages"),
        ({"prompt": [USER], "chosen": [USER], "rejected": [OTHER]}, "field 'chosen': found nothing behind the prompt"),
        ({"prompt": ..., "chosen": [ANSWER], "rejected": [OTHER]}, "field 'rejected': found no user's turn in common"),
        ({"prompt": ...}, "field 'rejected': found no beginning in common with 'chosen'"),
        (
            {"prompt": ..., "chosen": ""},
            "field 'chosen': found an empty text; expected a text that begins with",
        ),
        ({"prompt": ..., "rejected": " "}, "field 'rejected': found an empty text; expected a text that begins with"),
        ({"prompt": ..., "chosen": "blue", "rejected": "black"}, "field 'rejected': found no beginning in common"),
        ({"attribute": 5}, "field 'attribute': found the number 5; expected a text or null"),
        ({"context": ["a"]}, "field 'context': found a list of 1"),
        ({"user": 1.5}, "field 'user': found the number 1.5"),
        ({"user": True}, "field 'user': found true"),
        ({"margin": "two"}, "field 'margin': found the text 'two'; expected a finite number"),
        ({"margin": float("nan")}, "field 'margin': found the number nan"),
        ({"margin": float("inf")}, "field 'margin': found the number inf"),
        ({"margin": 10**400}, "field 'margin': found the number 1000"),
        ({"margin": [2]}, "field 'margin': found a list of 1"),
        ({"chosen_ratings": 4}, "field 'chosen_ratings': found the number 4; expected an object of numbers"),
        (
            {"rejected_ratings": {"help": "4/5"}},
            "field 'rejected_ratings.help': found the text '4/5'; expected a finite",
        ),
        ({"rejected_ratings": {"help": 10**400}}, "field 'rejected_ratings.help': found the number 1000"),
        ({"chosen_ratings": {"help": {}}}, "field 'chosen_ratings.help': found an object"),
    ],
    ids=str,
)
def test_bad_preference_rows_name_the_field(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    check_second_row(tmp_path, GOOD, change, message)


TRANSCRIPT = {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}
REVERSAL = {
    "prompt": "p",
    "response_a": "A",
    "response_b": "B",
    "criteria_x": "short",
    "criteria_y": "long",
    "category_x": "x",
    "category_y": "y",
}


@pytest.mark.parametrize(
    ("row", "change", "message"),
    [
        (TRANSCRIPT, {"chosen": "hello"}, "field 'chosen': found a text without turns; expected turns that begin"),
        (TRANSCRIPT, {"chosen": [USER]}, "field 'chosen': found a list of 1; expected a non-empty text"),
        (TRANSCRIPT, {"rejected": "\n\nHuman: b\n\nAssistant: c"}, "field 'rejected': found no user's turn in common"),
        (TRANSCRIPT, {"rejected": "\n\nHuman: a\n\nHuman: c"}, "field 'rejected': found no user's turn in common"),
        (REVERSAL, {"category_x": None}, "field 'category_x': found null"),
        (REVERSAL, {"criteria_y": " "}, "field 'criteria_y': found an empty text"),
        (REVERSAL, {"response_b": 5}, "field 'response_b': found the number 5"),
        (GOOD_RATING, {"help": "4/5"}, "field 'help': found the text '4/5'; expected a finite number"),
        (GOOD_RATING, {"help": float("nan")}, "field 'help': found the number nan; expected a finite number"),
        (GOOD_RATING, {"style": float("-inf")}, "field 'style': found the number -inf"),
        (GOOD_RATING, {"style": [1]}, "field 'style': found a list of 1"),
        (GOOD_RATING, {"help": ..., "style": ...}, "the whole row: found no rated attribute"),
        (GOOD_RATING, {"response": None}, "field 'response': found null; expected a text, which may be empty"),
        (GOOD_RATING, {"response": [USER]}, "field 'response': found a turn of the user behind the prompt"),
    ],
    ids=str,
)
def test_bad_rows_of_other_shapes(tmp_path: Path, row: dict[str, Any], change: dict[str, Any], message: str) -> None:
    check_second_row(tmp_path, row, change, message)


def check_second_row(folder: Path, good: dict[str, Any], change: dict[str, Any], message: str) -> None:
    bad = {name: value for name, value in (good | change).items() if value is not ...}
    file = folder / "data.jsonl"
    file.write_text(json.dumps(good) + "\n" + json.dumps(bad) + "\n")
    assert refused(file).startswith(f"{file}:2: {message}")


def test_no_good_row_is_an_error_even_when_bad_ones_are_skipped(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_bytes(b"hello\n")
    assert refused(file, on_bad="skip").startswith(f"{file}:1: the whole row: found invalid JSON")
    file.write_text(json.dumps(GOOD | {"chosen": None}) + "\n")
    assert "found no usable pair in 1 rows (1 × malformed)" in refused(file, on_bad="skip")


def test_a_bad_first_row_is_named_before_the_shape(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_bytes(b"hello\n" + GOOD_LINE)
    assert refused(file).startswith(f"{file}:1: the whole row: found invalid JSON")
    assert len(read_source(file, on_bad="skip").pairs) == 1


def test_a_text_of_40_megabytes_is_read(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text(json.dumps(GOOD | {"prompt": "a" * 40_000_000}))
    assert len(read_source(file).pairs[0].prompt) == 40_000_000
    (tmp_path / "data.csv").write_text("prompt,chosen,rejected\n" + "a" * 4_000_000 + ",c,r\n")
    assert len(read_source(tmp_path / "data.csv").pairs[0].prompt) == 4_000_000


def test_damaged_parquet_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "data.parquet"
    pq.write_table(pa.Table.from_pylist([GOOD] * 100), file, write_page_checksum=True)
    whole = file.read_bytes()
    for kept in range(0, len(whole), 97):
        file.write_bytes(whole[:kept])
        assert "cannot be read as Parquet" in refused(file)
    file.write_bytes(whole[:60] + bytes([whole[60] ^ 1]) + whole[61:])
    assert "cannot be read as Parquet" in refused(file)


def test_parquet_rows_and_columns_are_named(tmp_path: Path) -> None:
    file = tmp_path / "data.parquet"
    pq.write_table(pa.Table.from_pylist([GOOD, GOOD | {"chosen": None}]), file)
    assert refused(file).startswith(f"{file}:2: field 'chosen': found null")
    column = pa.array(["a"])
    pq.write_table(pa.Table.from_arrays([column, column], names=["chosen", "chosen"]), file)
    assert refused(file).startswith(f"{file}:1: found column 'chosen' more than once")
    table = pa.Table.from_pylist([GOOD]).append_column("margin", pa.array([date(2024, 1, 1)]))
    pq.write_table(table, file)
    assert refused(file).startswith(f"{file}:1: field 'margin': found a date; expected a finite number")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train.jsonl", "test.jsonl"], ": found files of several splits, train and test; give one split's files"),
        (["train/0.jsonl", "validation/0.jsonl"], ": found files of several splits, train and validation; give"),
        (["train-test.jsonl", "b.jsonl"], "/train-test.jsonl: its name tells several splits (test, train)"),
        (["state.json"], ": found no '_data_files'"),
        (["notes.txt"], ": found no file to read; expected .jsonl"),
        ([], ": found no file to read"),
    ],
)
def test_folders_that_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(GOOD_LINE)
    assert message in refused(tmp_path)


def test_options_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_bytes(GOOD_LINE)
    assert refused(file, shape="trl") == (
        "unknown shape 'trl'; expected auto or one of preference, hh, reversals, ratings, strength"
    )
    assert refused(file, limit=0) == "limit: found 0; expected at least 1"
    assert "no such file or folder" in refused(tmp_path / "nowhere.jsonl")
