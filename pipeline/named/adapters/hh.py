"""HH-RLHF: transcripts that crowd workers compared."""

from __future__ import annotations

from collections.abc import Iterator

from micropref.pipeline.named.adapters.facts import NamedDataset
from micropref.pipeline.sources.adapters import Adapter, Ordinary
from micropref.pipeline.sources.rows import Row

FOLDERS = ("harmless-base", "helpful-base", "helpful-online", "helpful-rejection-sampled")


def _transcripts(row: Row) -> Iterator[Ordinary]:
    folders = row.origin.path.replace("\\", "/").split("/")
    told = next(
        (part.partition("-")[0] for part in reversed(folders) if part.startswith(("harmless", "helpful"))), None
    )
    yield {"chosen": row.values["chosen"], "rejected": row.values["rejected"], "attribute": told}


def _adapter(*folders: str) -> Adapter:
    files = {split: tuple(f"{folder}/{split}.jsonl*" for folder in folders) for split in ("train", "test")}
    return Adapter("Anthropic/hh-rlhf", _transcripts, ("chosen", "rejected"), "hh", files=files)


HH = NamedDataset(
    "Anthropic/hh-rlhf",
    licence="MIT",
    size="about 161,000 train, 8,600 test pairs in four folders; red-team-attempts are no pairs and not read",
    labels="by crowd workers: which of two answers is more helpful or less harmful",
    attributes="helpful or harmless, by folder",
    contexts="none",
    users="none",
    configs={"default": _adapter(*FOLDERS), **{folder: _adapter(folder) for folder in FOLDERS}},
)
