"""Sources become parts of a data set: read, given contexts and splits, numbered, committed as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from micropref.cache.choices import TEST, TRAIN
from micropref.cache.commits import Commit
from micropref.cache.datasets import Dataset, has_response_ids
from micropref.cache.errors import BadInput
from micropref.cache.keys import digest_file
from micropref.cache.store import check_name
from micropref.pipeline.options import OnBad
from micropref.pipeline.sources.contexts import SHIPPED, read_contexts, with_contexts
from micropref.pipeline.sources.files import source_digest, source_files
from micropref.pipeline.sources.pairs import (
    PreferencePair,
    Rating,
    Reject,
    is_empty,
    prompt_id,
)
from micropref.pipeline.sources.parts import Incoming
from micropref.pipeline.sources.reader import Source, read_source
from micropref.pipeline.sources.rows import VectorColumns
from micropref.pipeline.sources.splits import check_test_share, split_of

UNANIMOUS = "unanimous"


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
    on_bad: OnBad = "stop"
    """What a malformed row does."""
    replace: bool = False
    """Whether the splits start over with these sources."""

    def __post_init__(self) -> None:
        if self.split is not None and self.split_by_prompt is not None:
            raise BadInput("`split` and `split_by_prompt` exclude each other: give one of them")
        if self.split_by_prompt is not None:
            check_test_share(self.split_by_prompt)
        if self.limit is not None and self.limit < 1:
            raise BadInput(f"limit is {self.limit}: expected at least 1 row")
        check_name("split", self.split or TRAIN)
        if self.contexts is not None and not self.contexts.is_file():
            raise BadInput(
                f"contexts is {str(self.contexts)!r}: no such file; expected JSON, attribute to context sentences, or "
                f"{', '.join(SHIPPED)}, which comes with the package"
            )

    @property
    def splits(self) -> tuple[str, ...]:
        """Return the splits the rows may go to."""
        return (TRAIN, TEST) if self.split_by_prompt is not None else (self.split or TRAIN,)

    def identity(self) -> dict[str, Any]:
        """Return what changes the pairs of a source besides its content and limit."""
        contexts = digest_file(self.contexts) if self.contexts else None
        return {"shape": self.shape, "contexts": contexts, "split_by_prompt": self.split_by_prompt}


def read_sources(paths: Sequence[Path], options: SourceOptions, vectors: VectorColumns | None = None) -> list[Incoming]:
    """Read sources completely before anything is written. Raises BadInput at the first that cannot be used."""
    contexts = read_contexts(options.contexts) if options.contexts else None
    found: list[Incoming] = []
    for path in paths:
        source = read_source(path, shape=options.shape, limit=options.limit, on_bad=options.on_bad, vectors=vectors)
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


def known_parts(dataset: Dataset, paths: Sequence[Path], options: SourceOptions) -> dict[Path, list[Commit]]:
    """Return, for each distinct source, the parts that hold it already; none where it has to be read."""
    doubled = _doubled_stems(dataset, options.splits)
    return {path: covered(dataset, path, options, doubled) for path in dict.fromkeys(paths)}


def covered(dataset: Dataset, path: Path, options: SourceOptions, doubled: Container[str] = ()) -> list[Commit]:
    """Return the parts that already hold all this source would give, none where it has to be read.

    Parts whose stems are among `doubled` are read again.
    Raises BadInput where the source is there with other options: its pairs would silently become others.
    """
    digest = source_digest(path, source_files(path))
    same = [part for part in dataset.parts if part.record["digest"] == digest]
    parts = [part for part in same if part.record["split"] in options.splits]
    for part in parts:
        known, wanted = part.record["identity"], options.identity()
        if known != wanted and not options.replace:
            differs = next(name for name in wanted if known.get(name) != wanted[name])
            raise BadInput(
                f"{path}: already in data set {dataset.name!r}, split {part.record['split']!r}, with another "
                f"`{differs.replace('shape', 'format')}`; give the same again, or `replace`"
            )
    return parts if all(_suffices(part, options) and part.stem not in doubled for part in parts) else []


def _doubled_stems(dataset: Dataset, splits: Sequence[str]) -> set[str]:
    """Return the stems of parts that share pair ids with another: reading either of the two again numbers it again."""
    found = (both for split in splits for both in dataset.doubled(split))
    return {part.stem for both in found for part in (both.first, both.second)}


def _suffices(part: Commit, options: SourceOptions) -> bool:
    """Say whether a part holds what a source would give now; a smaller limit cuts only where `replace` starts over."""
    before = part.record["limit"]
    reaches = before is None or (options.limit is not None and options.limit <= before)
    if options.replace:
        reaches = before == options.limit
    passed_over = options.on_bad == "stop" and part.record["dropped"].get("malformed", 0) > 0
    return reaches and not passed_over and part.record["identity"] == options.identity() and has_response_ids(part)


def _by_split(source: Source, pairs: Iterable[PreferencePair], options: SourceOptions) -> list[Incoming]:
    """Assign a source's pairs to their splits; in train, pairs on which all attributes agree are dropped."""
    share = options.split_by_prompt
    by_split: dict[str, list[PreferencePair]] = {split: [] for split in options.splits}
    ratings: dict[str, list[Rating]] = {split: [] for split in options.splits}
    rejects, dropped = list(source.rejects), Counter(source.dropped)
    for pair in pairs:
        split = options.splits[0] if share is None else split_of(prompt_id(pair.prompt), share)
        if split == TRAIN and pair.unanimous:
            dropped[UNANIMOUS] += 1
            rejects.append(Reject(pair.origin, f"{UNANIMOUS}: every attribute prefers the same response"))
        else:
            by_split[split].append(pair)
    for rating in source.ratings:
        split = options.splits[0] if share is None else split_of(prompt_id(rating.prompt), share)
        ratings[split].append(rating)
    filled = [split for split in options.splits if by_split[split]]
    if not filled:
        raise BadInput(f"{source.path}: no usable pair: {_counts(dropped)}; give rows that prefer one response")
    return [
        _incoming(source, split, by_split[split], ratings[split], rejects, dropped, options, first=split == filled[0])
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
