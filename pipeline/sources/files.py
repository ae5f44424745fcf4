"""The files of a source: which they are, their digest, their rows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from micropref.cache.choices import TEST, TRAIN
from micropref.cache.errors import BadInput
from micropref.cache.keys import canonical_json, digest_file, sha256_hex
from micropref.pipeline.sources.jsonl import json_records
from micropref.pipeline.sources.pairs import Origin
from micropref.pipeline.sources.rows import READING, Record, Row, RowError, Unreadable
from micropref.pipeline.sources.tabular import csv_records, parquet_records

READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".jsonl": json_records,
    ".ndjson": json_records,
    ".json": json_records,
    ".csv": csv_records,
    ".parquet": parquet_records,
}
ACCEPTED = ".jsonl, .jsonl.gz, .csv, .csv.gz, .parquet, or a folder of such files"
SPLIT_WORDS = {
    "train": TRAIN,
    "training": TRAIN,
    "test": TEST,
    "eval": TEST,
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
}
"""Words in file names that tell a split → the split."""


def source_files(path: Path) -> list[Path]:
    """Return the files of a source in order: the file itself, or a folder's files sorted by name.

    Raises BadInput for a missing path, a kind of file that is not read, and a folder of several splits.
    """
    if path.is_dir():
        return _folder_files(path)
    if not path.exists():
        raise BadInput(f"{path}: no such file or folder; expected {ACCEPTED}")
    if _kind(path) is None:
        raise BadInput(f"{path}: found a file of another kind; expected {ACCEPTED}")
    return [path]


def source_digest(path: Path, files: list[Path]) -> str:
    """Return the sha256 of a file's bytes, or of a folder's sorted [relative name, digest] list."""
    try:
        if not path.is_dir():
            return digest_file(path)
        listing = [[file.relative_to(path).as_posix(), digest_file(file)] for file in files]
    except OSError as error:
        raise BadInput(f"{error.filename or path}: cannot be read ({error.strerror or error})") from None
    return sha256_hex(canonical_json(listing))


def read_rows(
    files: list[Path],
    records: Callable[[Path], Iterator[Record]] | None = None,
    *,
    reading: int = READING,
    noted: Counter[str] | None = None,
) -> Iterator[Row | Unreadable]:
    """Yield the rows of the files in order; equal texts of all of them will share one object.

    `records` reads a file where that is not the reader of its kind; `noted` counts what is done to texts.
    """
    noted = Counter() if noted is None else noted
    pool: dict[Any, Any] = {}
    for file in files:
        kind = _kind(file)
        assert kind is not None, "source_files lists readable kinds only"
        name = str(file)
        textual = kind == ".csv"
        for line, values in (records or READERS[kind])(file):
            origin = Origin(name, line)
            if isinstance(values, RowError):
                yield Unreadable(origin, values)
            else:
                yield Row(values, origin, textual, pool, reading, noted)


def _kind(path: Path) -> str | None:
    """Return which of READERS reads the file; text kinds may be gzipped, Parquet compresses itself."""
    name = path.name.lower()
    kind = Path(name.removesuffix(".gz")).suffix
    return kind if kind in READERS and not name.endswith(".parquet.gz") else None


def _folder_files(folder: Path) -> list[Path]:
    names = [file.relative_to(folder) for file in folder.rglob("*") if file.is_file()]
    shown = sorted(name for name in names if not any(part.startswith(".") for part in name.parts))
    readable = [name for name in shown if _kind(name) is not None]
    if not readable:
        raise BadInput(f"{folder}: found no file to read; expected {ACCEPTED}")
    splits = {
        SPLIT_WORDS[word]: name
        for name in readable
        for word in re.split(r"[^a-z]+", name.as_posix().lower())
        if word in SPLIT_WORDS
    }
    if len(splits) > 1:
        found = " and ".join(f"{name.as_posix()} ({split})" for split, name in sorted(splits.items()))
        raise BadInput(f"{folder}: found files of several splits, {found}; give one split's files")
    return [folder / name for name in readable]
