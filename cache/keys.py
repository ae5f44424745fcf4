"""Content hashes: the names of everything the store holds."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

SHORT_ID_LENGTH = 12


def canonical_json(value: Any) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, no escapes, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def finite(value: Any) -> Any:
    """Return a JSON value with null for every number that is not finite: JSON has none of these."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def sha256_hex(data: bytes | str) -> str:
    """Return the sha256 of bytes, or of a text's UTF-8, as 64 hex digits."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def signed(record: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON record with the digest of all its entries as a further one, `digest`."""
    return {**record, "digest": sha256_hex(canonical_json(record))}


def unsigned(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record without its digest. Raises ValueError where that is another's, KeyError where there is none."""
    entries = {name: value for name, value in record.items() if name != "digest"}
    if record["digest"] != sha256_hex(canonical_json(entries)):
        raise ValueError("digest")
    return entries


def short_id(value: Any, length: int = SHORT_ID_LENGTH) -> str:
    """Return the first `length` hex digits of the hash of a JSON value: the id of a settings record."""
    return sha256_hex(canonical_json(value))[:length]


def digest_file(path: Path) -> str:
    """Return the sha256 of a file's bytes as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
