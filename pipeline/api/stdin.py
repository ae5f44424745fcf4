"""Rows given on standard input, kept as a file: a source is read more than once."""

from __future__ import annotations

import sys
from pathlib import Path

from micropref.cache.atomic import write_bytes
from micropref.cache.errors import BadInput
from micropref.cache.keys import sha256_hex

STDIN = "-"
"""What stands for standard input."""
STARTS = {b"PAR1": ".parquet", b"ARROW1": ".arrow", b"\x1f\x8b": ".jsonl.gz", b"\x28\xb5\x2f\xfd": ".jsonl.zst"}
"""First bytes → the kind of file; JSON otherwise, and CSV where that begins with no bracket."""


def kept_stdin(folder: Path) -> Path:
    """Write what standard input holds into a file of the folder, named by its content, and return it."""
    content = sys.stdin.buffer.read()
    if not content.strip():
        raise BadInput("source -: found nothing on standard input; expected rows, such as of `cat pairs.jsonl |`")
    start = content.lstrip(b"\xef\xbb\xbf \t\r\n")
    kind = next((kind for begins, kind in STARTS.items() if content.startswith(begins)), None)
    kind = kind or (".jsonl" if start[:1] in (b"{", b"[") else ".csv")
    path = folder / f"stdin-{sha256_hex(content)[:12]}{kind}"
    if not path.is_file():
        write_bytes(path, content)
    return path
