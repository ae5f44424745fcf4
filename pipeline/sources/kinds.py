"""The kinds of files that are read, known by the ends of their names."""

from __future__ import annotations

from pathlib import Path

PACKINGS = (".gz", ".zst")
"""Ends of names of packed text files."""
TEXT_KINDS = (".jsonl", ".ndjson", ".json", ".csv")
"""Kinds that may be packed."""
TABLE_KINDS = (".parquet", ".arrow", ".feather")
"""Kinds that compress themselves."""
ACCEPTED = ".jsonl, .json, .csv (each also .gz or .zst), .parquet, .arrow, or a folder of such files"


def kind_of(path: Path) -> str | None:
    """Return the kind of a file, such as .jsonl for a.jsonl.gz; None for what is not read."""
    name = path.name.lower()
    packing = packing_of(path)
    kind = Path(name.removesuffix(packing)).suffix
    return kind if kind in (TEXT_KINDS if packing else TEXT_KINDS + TABLE_KINDS) else None


def packing_of(path: Path) -> str:
    """Return how a file is packed, by the end of its name; "" for not at all."""
    ending = path.suffix.lower()
    return ending if ending in PACKINGS else ""
