"""Sources become parts of a data set: read, given contexts and splits, numbered, committed as tables."""

from __future__ import annotations

import json
import random
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import pyarrow as pa

from cache.commits import Commit, StoredFile, commit, write_file, write_table
from cache.datasets import PAIR_SCHEMA, RATING_SCHEMA, Dataset, doubled_ids, has_response_ids, read_table
from cache.errors import BadInput
from cache.keys import digest_file
from cache.store import check_name
from pipeline.sources.contexts import read_contexts, with_contexts
from pipeline.sources.files import source_digest, source_files
from pipeline.sources.pairs import (
    PreferencePair,
    Rating,
    Reject,
    content_hash,
    display,
    is_empty,
    prompt_id,
    response_id,
)
from pipeline.sources.reader import Source, read_source
from pipeline.sources.splits import TEST, TRAIN, check_test_share, part_of, split_of

UNANIMOUS = "unanimous"
PAUSE_S = 0.5
"""Longest pause before pairs are numbered anew."""


@dataclass(frozen=True)
class SourceOptions:
    """How sources become pairs."""

    split: str | None = None
    """Split of every row; None: train."""
    split_by_prompt: float | None = None
    """Share of prompts that go to test, the others to train; excludes `split`."""
    shape: str = "auto"
    """Shape of the rows; auto: recognised."""
    contexts: Path | None = None
    """JSON file: attribute -> one or several context sentences."""
    limit: int | None = None
    """Rows read of each source."""
    on_bad: Literal["stop", "skip"] = "stop"
    """What a malformed row does."""
    replace: bool = False
    """Whether the splits start over with these sources."""

    def __post_init__(self) -> None:
        if self.split is not None and self.split_by_prompt is not None:
            raise BadInput("--split and --split-by-prompt exclude each other: give one of them")
        if self.split_by_prompt is not None:
            check_test_share(self.split_by_prompt)
        if self.limit is not None and self.limit < 1:
            raise BadInput(f"--limit {self.limit}: expected at least 1 row")
        check_name("split", self.split or TRAIN)

    @property
    def splits(self) -> tuple[str, ...]:
        """Return the splits the rows may go to."""
        return (TRAIN, TEST) if self.split_by_prompt is not None else (self.split or TRAIN,)

    def identity(self) -> dict[str, Any]:
        """Return what changes the pairs of a source beside its content and limit."""
        contexts = digest_file(self.contexts) if self.contexts else None
        return {"shape": self.shape, "contexts": contexts, "split_by_prompt": self.split_by_prompt}


@dataclass(frozen=True)
class Incoming:
    """One source's share of one split, not yet written."""

    path: str
    digest: str
    split: str
    shape: str
    pairs: list[PreferencePair]
    ratings: list[Rating]
    rejects: list[Reject]
    dropped: dict[str, int]
    record: dict[str, Any]
    """What the commit will say of it."""


def read_sources(paths: Sequence[Path], options: SourceOptions) -> list[Incoming]:
    """Read sources completely before anything is written. Raises BadInput at the first that cannot be used."""
    contexts = read_contexts(options.contexts) if options.contexts else None
    found: list[Incoming] = []
    for path in paths:
        source = read_source(path, shape=options.shape, limit=options.limit, on_bad=options.on_bad)
        if contexts is not None:
            _check_contexts(source, contexts, options.contexts)
        pairs = with_contexts(source.pairs, contexts) if contexts is not None else source.pairs
        found += _by_split(source, pairs, options)
    return found


def _check_contexts(source: Source, contexts: Mapping[str, tuple[str, ...]], path: Path | None) -> None:
    """Raise BadInput where a contexts file says nothing of any of the source's attributes."""
    attributes = {pair.attribute for pair in source.pairs if pair.attribute is not None}
    if not attributes & set(contexts):
        there = ", ".join(sorted(attributes)[:8]) or "none"
        raise BadInput(
            f"{path}: none of its attributes ({', '.join(contexts)}) is one of {source.path} (there: {there})"
        )


def covered(dataset: Dataset, path: Path, options: SourceOptions) -> list[Commit]:
    """Return the parts that already hold all this source would give, none where it has to be read.

    Raises BadInput where the source is there with other options: its pairs would silently become others.
    """
    digest = source_digest(path, source_files(path))
    doubled = {part.stem for split in options.splits for part in _doubled(dataset, split)}
    same = [part for part in dataset.parts if part.record["digest"] == digest]
    parts = [part for part in same if part.record["split"] in options.splits]
    for part in parts:
        known, wanted = part.record["identity"], options.identity()
        if known != wanted and not options.replace:
            differs = next(name for name in wanted if known.get(name) != wanted[name])
            raise BadInput(
                f"{path}: already in data set {dataset.name!r}, split {part.record['split']!r}, with another "
                f"--{differs.replace('_', '-').replace('shape', 'format')}; give the same again, or --replace"
            )
    return parts if all(_suffices(part, options) and part.stem not in doubled for part in parts) else []


def _doubled(dataset: Dataset, split: str) -> list[Commit]:
    """Return the parts of a split that share pair ids with another: reading either of the two again numbers it anew."""
    parts = [part for part in dataset.parts if part.record["split"] == split and not part.damage("pairs", digest=True)]
    found = doubled_ids(parts, [read_table(part, "pairs", ["pair_id"])["pair_id"] for part in parts])
    return [part for both in found for part in (both.first, both.second)]


def _suffices(part: Commit, options: SourceOptions) -> bool:
    """Say whether a part holds what a source would give now; a smaller limit cuts only what `--replace` starts over."""
    before = part.record["limit"]
    reaches = before is None or (options.limit is not None and options.limit <= before)
    if options.replace:
        reaches = before == options.limit
    passed_over = options.on_bad == "stop" and part.record["dropped"].get("malformed", 0) > 0
    return reaches and not passed_over and part.record["identity"] == options.identity() and has_response_ids(part)


def _by_split(source: Source, pairs: Iterable[PreferencePair], options: SourceOptions) -> list[Incoming]:
    """Deal a source's pairs to their splits; in train, pairs on which all attributes agree teach nothing and go."""
    share = options.split_by_prompt
    dealt: dict[str, list[PreferencePair]] = {split: [] for split in options.splits}
    ratings: dict[str, list[Rating]] = {split: [] for split in options.splits}
    rejects, dropped = list(source.rejects), Counter(source.dropped)
    for pair in pairs:
        split = options.splits[0] if share is None else split_of(prompt_id(pair.prompt), share)
        if split == TRAIN and pair.unanimous:
            dropped[UNANIMOUS] += 1
            rejects.append(Reject(pair.origin, f"{UNANIMOUS}: every attribute prefers the same response"))
        else:
            dealt[split].append(pair)
    for rating in source.ratings:
        split = options.splits[0] if share is None else split_of(prompt_id(rating.prompt), share)
        ratings[split].append(rating)
    filled = [split for split in options.splits if dealt[split]]
    if not filled:
        raise BadInput(f"{source.path}: no usable pair: {_counts(dropped)}; give rows that prefer one response")
    return [
        _incoming(source, split, dealt[split], ratings[split], rejects, dropped, options, first=split == filled[0])
        for split in filled
    ]


def _incoming(
    source: Source,
    split: str,
    pairs: list[PreferencePair],
    ratings: list[Rating],
    rejects: list[Reject],
    dropped: dict[str, int],
    options: SourceOptions,
    *,
    first: bool,
) -> Incoming:
    # What was left out belongs to the source, not to a split: it is recorded once, with the first.
    rejects, dropped = (rejects, dict(dropped)) if first else ([], {})
    record = {
        "source": source.path,
        "digest": source.digest,
        "split": split,
        "shape": source.shape,
        "rows": source.rows,
        "limit": options.limit if options.limit is not None and source.rows >= options.limit else None,
        "identity": options.identity(),
        "dropped": dropped,
        "rejected_rows": len(rejects),
        "empty_responses": sum(is_empty(pair.chosen) or is_empty(pair.rejected) for pair in pairs),
    }
    return Incoming(source.path, source.digest, split, source.shape, pairs, ratings, rejects, dropped, record)


def _counts(dropped: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in dropped.items()) or "it has none"


def write_numbered(dataset: Dataset, incoming: Incoming, retired: Sequence[Commit]) -> tuple[Commit, list[str]]:
    """Commit one source's part with pair ids that no other part of its split has, and return both.

    Commands that write to one split at the same moment cannot see each other's ids before they commit. So each looks
    again after its commit, and numbers its pairs anew where another came first; a random pause lets one of the two go
    ahead. The last to commit sees all others, so that no id stands twice once all have ended.
    """
    while True:
        pair_ids = number_pairs(dataset, incoming, retired)
        part = write_part(dataset, incoming, pair_ids)
        dataset = dataset.reopened(part.stem)
        if not _clashes(dataset, part, pair_ids, retired):
            return part, pair_ids
        time.sleep(random.uniform(0, PAUSE_S))  # noqa: S311 - a pause, not a secret


def _clashes(dataset: Dataset, part: Commit, pair_ids: list[str], retired: Sequence[Commit]) -> bool:
    taken = _taken_ids(dataset, part.record["split"], part.record["digest"], retired)
    return not taken.isdisjoint(pair_ids)


def write_part(dataset: Dataset, incoming: Incoming, pair_ids: list[str]) -> Commit:
    """Commit one source's pairs, ratings and rejects as a part of its split."""
    folder = dataset.folder / "pairs"
    ordinal = _ordinal(dataset, incoming)
    stem = f"{incoming.split}-{ordinal:04d}-{incoming.digest[:16]}"
    files = {"pairs": write_table(folder, stem, "pairs", _pair_table(dataset.name, incoming, pair_ids))}
    if incoming.ratings:
        files["ratings"] = write_table(folder, stem, "ratings", _rating_table(dataset.name, incoming))
    if incoming.rejects:
        files["rejects"] = _write_rejects(folder, stem, incoming.rejects)
    return commit(folder, stem, files, {**incoming.record, "ordinal": ordinal})


def _ordinal(dataset: Dataset, incoming: Incoming) -> int:
    """Return a source's place in its split: the one it has, that of its damaged commit file, or the next."""
    same_split = [part for part in dataset.parts if part.record["split"] == incoming.split]
    known = [part.record["ordinal"] for part in same_split if part.record["digest"] == incoming.digest]
    stem = re.compile(rf"{re.escape(incoming.split)}-(\d+)-{incoming.digest[:16]}")
    damaged = [int(found[1]) for name in sorted(dataset.skip) if (found := stem.fullmatch(name))]
    following = 1 + max((part.record["ordinal"] for part in same_split), default=0)
    return next(iter([*known, *damaged]), following)


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
    in_split = [part for part in dataset.parts if part.record["split"] == split and part.stem not in gone]
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


def _write_rejects(folder: Path, stem: str, rejects: list[Reject]) -> StoredFile:
    def write(file: BinaryIO) -> int:
        for reject in rejects:
            line = {"file": reject.origin.path, "line": reject.origin.line, "reason": reject.reason}
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        return len(rejects)

    return write_file(folder, stem, "rejects", "jsonl", write)
