"""Sources become parts of a data set: read, given contexts and splits, numbered, committed as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from micropref.cache.choices import TEST, TRAIN
from micropref.cache.commits import Commit
from micropref.cache.datasets import Dataset, has_response_ids
from micropref.cache.errors import BadInput
from micropref.cache.keys import digest_file
from micropref.cache.store import check_name
from micropref.pipeline.options import OnBad
from micropref.pipeline.sources.columns import ColumnChoices, EarlierReading, in_words
from micropref.pipeline.sources.contexts import SHIPPED, read_contexts, with_contexts
from micropref.pipeline.sources.earlier import COLUMNS, earlier_reading
from micropref.pipeline.sources.locations import Given, Located, locate
from micropref.pipeline.sources.pairs import (
    PreferencePair,
    Rating,
    Reject,
    is_empty,
    prompt_id,
)
from micropref.pipeline.sources.parts import Incoming, extends
from micropref.pipeline.sources.reader import Source, read_source
from micropref.pipeline.sources.rows import READING
from micropref.pipeline.sources.splits import check_test_share, split_of
from micropref.pipeline.sources.vector_columns import VectorColumns

UNANIMOUS = "unanimous"
UNPAIRED = "rating in a split without pairs"


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
    choices: ColumnChoices = field(default_factory=ColumnChoices)
    """What the user says of columns."""
    earlier: EarlierReading | None = None
    """How a source was read when it became part of the data set, which is how it is read again."""
    read_split: str | None = None
    """Which split of a source is read; None: train and test."""
    version: int = READING
    """Version of the reading of texts; that of the data set where rows are added to one."""

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

    def splits_of(self, source: Located) -> tuple[str, ...]:
        """Return the splits that a source's rows may go to."""
        return (TRAIN, TEST) if self.split_by_prompt is not None else (self.split or source.split or TRAIN,)

    def identity(self, source: Located) -> dict[str, Any]:
        """Return what changes the pairs of a source besides its content and limit."""
        contexts = digest_file(self.contexts) if self.contexts else None
        found = {"shape": self.shape, "contexts": contexts, "split_by_prompt": self.split_by_prompt}
        return found | ({"adapter": source.adapter.identity} if source.adapter else {})


def read_sources(
    sources: Sequence[Located],
    options: SourceOptions,
    vectors: VectorColumns | None = None,
    marks: Collection[int] = (),
) -> list[Incoming]:
    """Read sources completely before anything is written. Raises BadInput at the first that cannot be used.

    `marks` are the N whose first N rows' digest is wanted of each.
    """
    contexts = read_contexts(options.contexts) if options.contexts else None
    found: list[Incoming] = []
    for located in sources:
        source = read_source(
            located,
            shape=options.shape,
            limit=options.limit,
            on_bad=options.on_bad,
            vectors=vectors,
            version=options.version,
            choices=options.choices,
            earlier=options.earlier,
            marks=marks,
        )
        if contexts is not None:
            _check_contexts(source, contexts, options.contexts)
        pairs = with_contexts(source.pairs, contexts) if contexts is not None else source.pairs
        found += _by_split(located, source, pairs, options)
    return found


def _check_contexts(source: Source, contexts: Mapping[str, tuple[str, ...]], path: Path | None) -> None:
    """Raise BadInput where a contexts file says nothing of any of the source's attributes."""
    attributes = {pair.attribute for pair in source.pairs if pair.attribute is not None}
    if not attributes & set(contexts):
        there = ", ".join(sorted(attributes)[:8]) or "none"
        raise BadInput(
            f"{path}: none of its attributes ({', '.join(contexts)}) is one of {source.path} (there: {there})"
        )


def known_parts(
    dataset: Dataset, sources: Sequence[Given | Path], options: SourceOptions
) -> dict[Located, list[Commit]]:
    """Return, for each distinct split of a source, the parts that hold it already; none where it has to be read."""
    found = [one for source in dict.fromkeys(sources) for one in locate(source, options.read_split, options.split)]
    if options.split_by_prompt is not None:
        _check_one_split(found)
    doubled = _doubled_stems(dataset, {split for one in found for split in options.splits_of(one)})
    return {one: covered(dataset, one, options, doubled) for one in found}


def _check_one_split(sources: Sequence[Located]) -> None:
    """Raise BadInput for a source whose own splits `split_by_prompt` would mix."""
    for name, count in Counter(one.name for one in sources).items():
        if count > 1:
            raise BadInput(
                f"{name}: found splits of its own, which `split_by_prompt` would mix; choose one with `read_split`, or "
                "leave `split_by_prompt` out"
            )


def covered(dataset: Dataset, source: Located, options: SourceOptions, doubled: Container[str] = ()) -> list[Commit]:
    """Return the parts that already hold all this source would give, none where it has to be read.

    Parts whose stems are among `doubled` are read again.
    Raises BadInput where the source is there with other options: its pairs would silently become others.
    """
    digest = source.digest()
    same = [part for part in dataset.parts if part.record["digest"] == digest]
    parts = [part for part in same if part.record["split"] in options.splits_of(source)]
    for part in parts:
        check_identity(dataset, part, source, options)
    earlier = None if options.replace or source.adapter is not None else earlier_reading(same)
    if earlier is not None and (other := options.choices.differs(earlier)):
        raise BadInput(
            f"{source.name}: already in data set {dataset.name!r}, with another `{other}`; give the same again, or "
            "`replace`"
        )
    whole = all(_suffices(part, source, options) and part.stem not in doubled for part in parts)
    return parts if whole else []


def check_identity(dataset: Dataset, part: Commit, source: Located, options: SourceOptions) -> None:
    """Raise BadInput where a part's source was read with other options than now, unless it is replaced."""
    known, wanted = part.record["identity"], options.identity(source)
    differs = [name for name in {**wanted, **known} if known.get(name) != wanted.get(name)]
    if differs and not options.replace:
        raise BadInput(
            f"{source.name}: already in data set {dataset.name!r}, split {part.record['split']!r}, with another "
            f"`{differs[0].replace('shape', 'format')}`; give the same again, or `replace`"
        )


def grown_parts(
    dataset: Dataset, incoming: Sequence[Incoming], given: Container[str], options: SourceOptions
) -> list[Commit]:
    """Return the parts that these sources extend: their rows are the first rows of one of them.

    A source that is `given` itself, known by its digest, stays.
    """
    grown = [
        (one, part)
        for one in incoming
        for part in dataset.parts
        if extends(one, part) and part.record["digest"] not in given
    ]
    for one, part in grown:
        check_identity(dataset, part, one.located, options)
        if part.record.get("choices") != options.choices.record() and not options.replace:
            raise BadInput(
                f"{one.path}: goes on from {part.record['source']} in data set {dataset.name!r}, read with other "
                "`columns` or `attributes`; give the same again, or `replace`"
            )
    return [part for _, part in grown]


def _doubled_stems(dataset: Dataset, splits: Iterable[str]) -> set[str]:
    """Return the stems of parts that share pair ids with another: reading either of the two again numbers it again."""
    found = (both for split in splits for both in dataset.doubled(split))
    return {part.stem for both in found for part in (both.first, both.second)}


def _suffices(part: Commit, source: Located, options: SourceOptions) -> bool:
    """Say whether a part holds what a source would give now; a smaller limit cuts only where `replace` starts over."""
    before = part.record["limit"]
    reaches = before is None or (options.limit is not None and options.limit <= before)
    if options.replace:
        same_reading = COLUMNS in part.record and part.record["choices"] == options.choices.record()
        same_reading = same_reading and part.record.get("reading", 1) == options.version
        reaches = before == options.limit and same_reading
    passed_over = options.on_bad == "stop" and part.record["dropped"].get("malformed", 0) > 0
    return (
        reaches and not passed_over and part.record["identity"] == options.identity(source) and has_response_ids(part)
    )


def _by_split(
    located: Located, source: Source, pairs: Iterable[PreferencePair], options: SourceOptions
) -> list[Incoming]:
    """Assign a source's pairs to their splits; in train, pairs on which all attributes agree are dropped."""
    share, splits = options.split_by_prompt, options.splits_of(located)
    by_split: dict[str, list[PreferencePair]] = {split: [] for split in splits}
    ratings: dict[str, list[Rating]] = {split: [] for split in splits}
    rejects, dropped = list(source.rejects), Counter(source.dropped)
    for pair in pairs:
        split = splits[0] if share is None else split_of(prompt_id(pair.prompt), share)
        if split == TRAIN and pair.unanimous:
            dropped[UNANIMOUS] += 1
            rejects.append(Reject(pair.origin, f"{UNANIMOUS}: every attribute prefers the same response"))
        else:
            by_split[split].append(pair)
    for rating in source.ratings:
        split = splits[0] if share is None else split_of(prompt_id(rating.prompt), share)
        ratings[split].append(rating)
    filled = [split for split in splits if by_split[split]]
    if not filled:
        raise BadInput(
            f"{source.path}: no usable pair: {_counts(dropped)}; give rows that prefer one response; columns: "
            f"{in_words(source.reading.record())}"
        )
    for split in set(splits) - set(filled):  # a split without pairs has no part that could keep them
        dropped[UNPAIRED] += len(ratings[split])
        rejects += [
            Reject(one.origin, f"{UNPAIRED}: {one.attribute!r}; split {split!r} has no pairs") for one in ratings[split]
        ]
    left_out: tuple[list[Reject], dict[str, int]] = rejects, dict(+dropped)
    found = []
    for split in filled:
        # What was left out belongs to the source, not to a split: it is recorded once, with the first.
        here = left_out if split == filled[0] else ([], {})
        record = _record(located, source, split, by_split[split], *here, options)
        record["noted"] = source.noted if split == filled[0] else {}
        found.append(Incoming(located, split, by_split[split], ratings[split], *here, record, source.prefixes))
    return found


def _record(
    located: Located,
    source: Source,
    split: str,
    pairs: list[PreferencePair],
    rejects: list[Reject],
    dropped: dict[str, int],
    options: SourceOptions,
) -> dict[str, Any]:
    """Return what the commit of a part says of it."""
    named = {"read_split": located.read_split} if located.read_split is not None else {}
    return {
        "source": source.path,
        **named,
        "digest": source.digest,
        "split": split,
        "shape": source.shape,
        "rows": source.rows,
        "rows_digest": source.rows_digest,
        "limit": options.limit if options.limit is not None and source.rows >= options.limit else None,
        "identity": options.identity(located),
        "reading": options.version,
        COLUMNS: source.reading.record(),
        "choices": options.choices.record(),
        "dropped": dropped,
        "rejected_rows": len(rejects),
        "empty_responses": sum(is_empty(pair.chosen) or is_empty(pair.rejected) for pair in pairs),
    }


def _counts(dropped: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in dropped.items()) or "it has none"
