"""Parts: the pairs, ratings and rejects of one source and split, numbered and committed."""

from __future__ import annotations

import json
import random
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from micropref.cache.commits import Commit, StoredFile, commit, write_file, write_table
from micropref.cache.datasets import Dataset, read_table
from micropref.cache.schemas import PAIR_SCHEMA, RATING_SCHEMA
from micropref.pipeline.sources.locations import Located
from micropref.pipeline.sources.pairs import (
    PreferencePair,
    Rating,
    Reject,
    content_hash,
    display,
    prompt_id,
    response_id,
)
from micropref.pipeline.sources.splits import part_of

PAUSE_S = 0.5
"""Longest pause before pairs are numbered again."""


@dataclass(frozen=True)
class Incoming:
    """One source's share of one split, not yet written."""

    located: Located
    """Where it was read."""
    split: str
    """What its rows become."""
    pairs: list[PreferencePair]
    """Its usable pairs."""
    ratings: list[Rating]
    """Its ratings."""
    rejects: list[Reject]
    """What became no pair."""
    dropped: dict[str, int]
    """Reason class → how many rejects have it."""
    record: dict[str, Any]
    """The record of its commit."""
    prefixes: dict[int, str] = field(default_factory=dict)
    """N → digest of the source's first N rows, for the lengths of parts that are there."""

    @property
    def path(self) -> str:
        """Return what the source is called."""
        return str(self.record["source"])

    @property
    def digest(self) -> str:
        """Return the digest of the source."""
        return str(self.record["digest"])

    @property
    def shape(self) -> str:
        """Return how the rows were read."""
        return str(self.record["shape"])


def write_numbered(dataset: Dataset, incoming: Incoming, retired: Sequence[Commit]) -> tuple[Commit, list[str]]:
    """Commit one source's part with pair ids that no other part of its split has, and return both.

    Commands that write to one split at the same moment cannot see each other's ids before they commit. So each looks
    again after its commit, and numbers its pairs again where another came first; a random pause lets one of the two go
    ahead. The last to commit sees all others, so that no id stands twice once all have ended.
    """
    dataset = dataset.reopened()  # as it is now, with the parts that others wrote since the command began
    while True:
        pair_ids = number_pairs(dataset, incoming, retired)
        part = write_part(dataset, incoming, pair_ids, retired)
        dataset = dataset.reopened(part.stem)
        if _only_one(dataset, part) and not _clashes(dataset, part, pair_ids, retired):
            return part, pair_ids
        time.sleep(random.uniform(0, PAUSE_S))  # noqa: S311 - a pause, not a secret


def _only_one(dataset: Dataset, part: Commit) -> bool:
    """Say whether a part is the first of its source in its split, and remove others of the same source.

    Two commands that embed one source at the same moment may give it two places.
    """
    same = [one for one in dataset.parts if one.record["split"] == part.record["split"]]
    first, *others = [one for one in same if one.record["digest"] == part.record["digest"]]
    for other in others:
        other.remove()
    return first.stem == part.stem


def _clashes(dataset: Dataset, part: Commit, pair_ids: list[str], retired: Sequence[Commit]) -> bool:
    taken = _taken_ids(dataset, part.record["split"], part.record["digest"], retired)
    return not taken.isdisjoint(pair_ids)


def write_part(dataset: Dataset, incoming: Incoming, pair_ids: list[str], retired: Sequence[Commit] = ()) -> Commit:
    """Commit one source's pairs, ratings and rejects as a part of its split, in place of those it extends."""
    folder = dataset.folder / "pairs"
    ordinal = _ordinal(dataset, incoming, retired)
    stem = f"{incoming.split}-{ordinal:04d}-{incoming.digest[:16]}"
    files = {"pairs": write_table(folder, stem, "pairs", _pair_table(dataset.name, incoming, pair_ids))}
    if incoming.ratings:
        files["ratings"] = write_table(folder, stem, "ratings", _rating_table(dataset.name, incoming))
    if incoming.rejects:
        files["rejects"] = write_rejects(folder, stem, incoming.rejects)
    return commit(folder, stem, files, {**incoming.record, "ordinal": ordinal})


def _ordinal(dataset: Dataset, incoming: Incoming, retired: Sequence[Commit]) -> int:
    """Return a source's place in its split: its own, its damaged commit file's, what it extends, or the next."""
    same_split = [part for part in dataset.parts if part.record["split"] == incoming.split]
    known = [part.record["ordinal"] for part in same_split if part.record["digest"] == incoming.digest]
    stem = re.compile(rf"{re.escape(incoming.split)}-(\d+)-{incoming.digest[:16]}")
    damaged = [int(found[1]) for name in sorted(dataset.skip) if (found := stem.fullmatch(name))]
    extended = [part.record["ordinal"] for part in retired if extends(incoming, part)]
    following = 1 + max((part.record["ordinal"] for part in same_split), default=0)
    return next(iter([*known, *damaged, *extended]), following)


def extends(incoming: Incoming, part: Commit) -> bool:
    """Say whether a part's rows are the first rows of a source that goes to the same split."""
    before = part.record
    known = before.get("rows_digest")  # parts of earlier versions have none
    same = known is not None and incoming.prefixes.get(before["rows"]) == known
    return same and before["split"] == incoming.split


def number_pairs(dataset: Dataset, incoming: Incoming, retired: Sequence[Commit]) -> list[str]:
    """Return each pair's id: content hash and occurrence number, unique in its split once `retired` parts are gone."""
    taken = _taken_ids(dataset, incoming.split, incoming.digest, retired)
    following: Counter[str] = Counter()
    ids = []
    for pair in incoming.pairs:
        content = content_hash(pair)
        while f"{content}-{following[content]}" in taken:
            following[content] += 1
        ids.append(f"{content}-{following[content]}")
        following[content] += 1
    return ids


def _taken_ids(dataset: Dataset, split: str, digest: str, retired: Sequence[Commit]) -> set[str]:
    """Return the pair ids of a split, without those of the source of this digest and of `retired` parts."""
    gone = {part.stem for part in retired}
    # What a damaged table held is not known. It gets new ids, unlike these, when its source is embedded again.
    in_split = [part for part in dataset.whole_parts() if part.record["split"] == split and part.stem not in gone]
    others = [part for part in in_split if part.record["digest"] != digest]
    return {pair_id for part in others for pair_id in read_table(part, "pairs", ["pair_id"])["pair_id"]}


def _pair_table(name: str, incoming: Incoming, pair_ids: list[str]) -> pa.Table:
    pairs = incoming.pairs
    prompts = [prompt_id(pair.prompt) for pair in pairs]
    columns: dict[str, list[Any]] = {
        "data": [name] * len(pairs),
        "split": [incoming.split] * len(pairs),
        "part": [part_of(incoming.split, prompt) for prompt in prompts],
        "pair_id": pair_ids,
        "prompt_id": prompts,
        "attribute": [pair.attribute for pair in pairs],
        "context": [pair.context for pair in pairs],
        "user": [pair.user for pair in pairs],
        "prompt": [display(pair.prompt) for pair in pairs],
        "chosen": [display(pair.chosen) for pair in pairs],
        "rejected": [display(pair.rejected) for pair in pairs],
        "margin": [pair.margin for pair in pairs],
        "chosen_id": [response_id(pair.prompt, pair.chosen) for pair in pairs],
        "rejected_id": [response_id(pair.prompt, pair.rejected) for pair in pairs],
    }
    return pa.table(columns, schema=PAIR_SCHEMA)


def _rating_table(name: str, incoming: Incoming) -> pa.Table:
    ratings = incoming.ratings
    columns: dict[str, list[Any]] = {
        "data": [name] * len(ratings),
        "split": [incoming.split] * len(ratings),
        "prompt_id": [prompt_id(rating.prompt) for rating in ratings],
        "response_id": [response_id(rating.prompt, rating.response) for rating in ratings],
        "attribute": [rating.attribute for rating in ratings],
        "rating": [rating.rating for rating in ratings],
    }
    return pa.table(columns, schema=RATING_SCHEMA)


def write_rejects(folder: Path, stem: str, rejects: list[Reject]) -> StoredFile:
    """Write a rejects file, uncommitted: one JSON object a line."""

    def write(file: BinaryIO) -> int:
        for reject in rejects:
            line = {"file": reject.origin.path, "line": reject.origin.line, "reason": reject.reason}
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        return len(rejects)

    return write_file(folder, stem, "rejects", "jsonl", write)
