"""Text files line by line, and JSON Lines under a strict reading.

The standard `json` is used on purpose: faster readers turn numbers into text, dates into timestamps and
lone surrogates into NUL without a word.
"""

from __future__ import annotations

import gzip
import json
import os
import shlex
import zlib
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, Protocol

from micropref.cache.errors import BadInput
from micropref.pipeline.sources.rows import Record, RowError, describe

UTF8_BOM = b"\xef\xbb\xbf"
LONGEST_LINE = 1 << 27
"""Bytes of a line at most; memory for a row is several times that."""
FOREIGN_STARTS = {
    b"\x1f\x8b": "gzip data in a file not named .gz; rename it",
    b"PAR1": "a Parquet file; name it .parquet",
    b"\xff\xfe": "UTF-16; convert it: iconv -f UTF-16 -t UTF-8",
    b"\xfe\xff": "UTF-16; convert it: iconv -f UTF-16 -t UTF-8",
}
"""First bytes of files that are no UTF-8 text → what they are and what to do."""


class _Lines(Protocol):
    def readline(self, size: int = -1, /) -> bytes: ...


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (1-based number, bytes with the line's end) of a text file, gunzipped by its name, without a BOM.

    Raises BadInput for a file that cannot be opened, is no UTF-8 text, or whose compressed data is damaged.
    """
    number = 0
    try:
        with _opened(path) as file:
            for number, line in enumerate(_bounded(path, file), 1):
                yield number, _without_bom(path, line) if number == 1 else line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadInput(
            f"{path}:{number + 1}: found damaged or cut-off gzip data after line {number} ({error}); "
            "expected a complete file: copy or compress it again"
        ) from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror or error})") from None


def json_records(path: Path) -> Iterator[Record]:
    """Yield (line, fields or RowError) for every line that is not blank.

    Raises BadInput where `lines` does, and for a JSON array in place of lines.
    """
    before_first = True
    for number, line in lines(path):
        if line.isspace():
            continue
        if before_first and line.lstrip().startswith(b"["):
            raise BadInput(
                f"{path}:{number}: found a JSON array; expected one JSON object per line: "
                f"convert it with {_array_to_lines(path)}"
            )
        before_first = False
        yield number, _fields(line)


def _array_to_lines(path: Path) -> str:
    """Return the shell command that writes an array's items as lines, to a file that is not there yet."""
    stem = (path.name.removesuffix(".gz").rpartition(".")[0] or path.name)[:80]
    names = (f"{stem}.lines{number}.jsonl" for number in ("", *range(2, 1000)))
    target = next(free for name in names if not os.path.lexists(free := path.with_name(name)))
    quoted, to = (shlex.quote(str(one.absolute() if str(one).startswith("-") else one)) for one in (path, target))
    if path.suffix.lower() == ".gz":
        return f"gunzip -c {quoted} | jq -c '.[]' > {to}"
    return f"jq -c '.[]' {quoted} > {to}"


def strict_json(text: str) -> Any:
    """Parse one JSON value; unlike `json.loads` refuse repeated keys and text that is not Unicode.

    NaN and Infinity parse, so that the check of the field that holds one can name it. Raises RowError.
    """
    try:
        value = _DECODER.decode(text)
        # Strict UTF-8 leaves an escape as the only way in for a lone surrogate.
        if "\\u" in text:
            _refuse_surrogates(value)
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno} column {error.colno}"
        raise RowError(None, f"invalid JSON at {place} ({error.msg})", "one JSON object per line") from None
    except RecursionError:
        raise RowError(None, "JSON nested too deeply", "fields of texts, numbers and messages") from None
    except ValueError:
        raise RowError(None, "a whole number of thousands of digits", "numbers of a sane size") from None
    return value


def _bounded(path: Path, file: _Lines) -> Iterator[bytes]:
    """Yield the lines of a file, of white space beyond the limit a part. Raises BadInput for a longer line of text.

    Few compressed bytes can stand for a line that no memory holds.
    """
    number = 0
    while line := file.readline(LONGEST_LINE):
        number += 1
        blank = line.isspace()
        more, full = line, LONGEST_LINE
        while len(more) == full and not more.endswith(b"\n"):
            full = min(1 << 20, LONGEST_LINE)
            more = file.readline(full)
            blank = blank and (not more or more.isspace())
            if not blank and more:
                raise BadInput(
                    f"{path}:{number}: found a line of more than {LONGEST_LINE / 1e6:,.0f} MB; expected a row a line, "
                    "and texts that a backbone can read: cut or leave out what is longer"
                )
        yield line


def _opened(path: Path) -> gzip.GzipFile | BufferedReader:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


def _without_bom(path: Path, line: bytes) -> bytes:
    for start, found in FOREIGN_STARTS.items():
        if line.startswith(start):
            raise BadInput(f"{path}:1: found {found}; expected UTF-8 text")
    if b"\0" in line[:4]:
        raise BadInput(f"{path}:1: found UTF-16 or binary data; expected UTF-8 text")
    return line.removeprefix(UTF8_BOM)


def _fields(line: bytes) -> dict[str, Any] | RowError:
    try:
        value = strict_json(line.decode().strip())
    except UnicodeDecodeError as error:
        return RowError(None, f"invalid UTF-8 at byte {error.start + 1}", "UTF-8 text")
    except RowError as error:
        return error
    if not isinstance(value, dict):
        return RowError(None, describe(value), "a JSON object")
    return value


def _unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(items)
    if len(fields) < len(items):
        keys = [key for key, _ in items]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise RowError(repeated, "the key more than once", "every key once")
    return fields


def _refuse_surrogates(value: Any) -> None:
    fields = value if isinstance(value, dict) else {None: value}
    for key, content in fields.items():
        try:
            json.dumps([key, content], ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise RowError(key, "half of a surrogate pair (\\ud800 to \\udfff)", "valid Unicode") from None


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)
