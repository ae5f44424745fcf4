"""Text files line by line, and JSON Lines under a strict reading.

The standard `json` is used on purpose: faster readers turn numbers into text, dates into timestamps and
lone surrogates into NUL without a word.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from micropref.cache.errors import BadInput
from micropref.pipeline.sources.kinds import packing_of
from micropref.pipeline.sources.rows import RowError, describe

PIECE = 1 << 20
"""Bytes read at a time where lines do not matter."""
LONGEST_VALUE = 1 << 31
"""Bytes of a file of one JSON value at most: it is parsed as a whole."""
PACKING_NAMES = {".gz": "gzip", ".zst": "zstd"}
UTF8_BOM = b"\xef\xbb\xbf"
LONGEST_LINE = 1 << 27
"""Bytes of a line at most; memory for a row is several times that."""
FOREIGN_STARTS = {
    b"\x1f\x8b": "gzip data in a file not named .gz; rename it",
    b"\x28\xb5\x2f\xfd": "zstd data in a file not named .zst; rename it",
    b"ARROW1": "an Arrow file; name it .arrow",
    b"PAR1": "a Parquet file; name it .parquet",
    b"\xff\xfe": "UTF-16; convert it: iconv -f UTF-16 -t UTF-8",
    b"\xfe\xff": "UTF-16; convert it: iconv -f UTF-16 -t UTF-8",
}
"""First bytes of files that are no UTF-8 text → what they are and what to do."""


class _Lines(Protocol):
    def readline(self, size: int = -1, /) -> bytes: ...


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (1-based number, bytes with the line's end) of a text file, unpacked by its name, without a BOM.

    Raises BadInput for a file that cannot be opened, is no UTF-8 text, or whose compressed data is damaged.
    """
    number = 0
    try:
        with _opened(path) as file:
            for number, line in enumerate(_bounded(path, file), 1):
                yield number, _without_bom(path, line) if number == 1 else line
    except (EOFError, zlib.error, OSError) as error:
        raise _unreadable(path, error, number) from None


def whole_text(path: Path) -> str:
    """Return the text of a file of one JSON value, unpacked by its name, without a BOM.

    Raises BadInput where `lines` does, and for a text that is too long to be one value.
    """
    found: list[bytes] = []
    size = 0
    try:
        with _opened(path) as file:
            while piece := file.read(PIECE):
                found.append(piece if found else _without_bom(path, piece))
                size += len(piece)
                if size > LONGEST_VALUE:
                    raise BadInput(
                        f"{path}: found one JSON value of more than {LONGEST_VALUE / 1e9:,.1f} GB; expected one JSON "
                        "object per line for so many rows"
                    )
    except (EOFError, zlib.error, OSError) as error:
        raise _unreadable(path, error, b"".join(found).count(b"\n")) from None
    content = b"".join(found)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        raise BadInput(f"{path}:{line}: found invalid UTF-8 at byte {column}; expected UTF-8 text") from None


def first_character(path: Path) -> bytes:
    """Return the first byte of a file that is no white space, b"" where there is none, or none that can be read."""
    at_start = True
    try:
        with _opened(path) as file:
            while piece := file.read(PIECE):
                text = (_without_bom(path, piece) if at_start else piece).lstrip()
                at_start = False
                if text:
                    return text[:1]
    except (EOFError, zlib.error, OSError):
        return b""  # who reads the lines says where the damage is
    return b""


def _unreadable(path: Path, error: Exception, number: int) -> BadInput:
    """Return what to raise for data that cannot be unpacked, or a file that cannot be read, behind a line."""
    packing = packing_of(path)
    # An error of the system has a number, one of a codec has none.
    if packing and getattr(error, "errno", None) is None:
        name = PACKING_NAMES[packing]
        return BadInput(
            f"{path}:{number + 1}: found damaged or cut-off {name} data after line {number} ({error}); "
            "expected a complete file: copy or compress it again"
        )
    return BadInput(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})")


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


def value_end(text: str, start: int) -> int:
    """Return where the JSON value that begins at `start` ends, whatever else is wrong with it.

    Raises json.JSONDecodeError where it is no JSON, RecursionError where it is nested too deeply.
    """
    return _SCANNER.raw_decode(text, start)[1]


def _opened(path: Path) -> gzip.GzipFile | BufferedReader:
    packing = packing_of(path)
    if packing == ".gz":
        return gzip.open(path, "rb")
    file = path.open("rb")
    return BufferedReader(pa.CompressedInputStream(file, "zstd")) if packing == ".zst" else file


def _without_bom(path: Path, line: bytes) -> bytes:
    for start, found in FOREIGN_STARTS.items():
        if line.startswith(start):
            raise BadInput(f"{path}:1: found {found}; expected UTF-8 text")
    if b"\0" in line[:4]:
        raise BadInput(f"{path}:1: found UTF-16 or binary data; expected UTF-8 text")
    return line.removeprefix(UTF8_BOM)


def line_fields(line: bytes) -> dict[str, Any] | RowError:
    """Return the object that a line of JSON Lines holds, or why it holds none."""
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
_SCANNER = json.JSONDecoder(object_pairs_hook=lambda _: None, parse_int=lambda _: None, parse_float=lambda _: None)
