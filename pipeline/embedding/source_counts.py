"""What `embed` and `import-vectors` count of their sources."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from micropref.cache.commits import Commit
from micropref.cache.datasets import Dataset, linked_keys, read_table
from micropref.pipeline.sources.parts import Incoming


@dataclass(frozen=True)
class SourceCounts:
    """What was read and left out."""

    data: str
    """Data set."""
    pairs: int
    """Usable pairs of these sources, in all their splits."""
    splits: dict[str, int]
    """The same by split."""
    all_splits: list[str]
    """Splits that the data set has now, those of other sources among them."""
    all_features: list[str]
    """Features ids that the data set has vectors of now."""
    dropped: dict[str, int]
    """Rows and pairs left out, by reason; `overlong` are those that do not fit this backbone."""
    noted: dict[str, int]
    """What was done to texts on the way, or not read of them → how often."""
    empty_responses: int
    """Pairs of which one response is empty: not answering is an answer."""
    without_context: int
    """Pairs without a context."""
    users: int
    """Distinct users."""
    rejected_rows: int
    """Lines in the rejects files."""
    repeated: int
    """Pairs that say exactly what an earlier one said: they are votes and stay."""
    shared_prompts: int
    """Prompts of these splits that another split has as well: a leak where one of the two is test."""


def count_sources(
    dataset: Dataset,
    incoming: Sequence[Incoming],
    unchanged: Sequence[Commit],
    links: Sequence[Commit],
    *,
    overlong: int,
) -> tuple[SourceCounts, set[bytes]]:
    """Count what was read now together with the parts that were there before, and return the keys that these need.

    `overlong` are the pairs read now that do not fit the backbone; `links` those of these parts.
    """
    splits = Counter[str]()
    dropped, noted = Counter[str](), Counter[str]()
    rejected = empty = 0
    for record, pairs in [(one.record, len(one.pairs)) for one in incoming] + [
        (part.record, part.files["pairs"].rows) for part in unchanged
    ]:
        splits[record["split"]] += pairs
        dropped.update(record["dropped"])
        noted.update(record.get("noted", {}))
        rejected += record["rejected_rows"]
        empty += record.get("empty_responses", 0)  # parts without a count were read when such rows were refused
    overlong += sum(item.record["overlong"] for item in links)
    if overlong:
        dropped["overlong"] += overlong
    pairs_now = [pair for one in incoming for pair in one.pairs]
    users, without_context = _people_before(unchanged)
    counts = SourceCounts(
        data=dataset.name,
        pairs=sum(splits.values()),
        splits=dict(splits),
        all_splits=sorted({*dataset.splits(), *splits}),
        all_features=sorted(dataset.linked_features()),
        dropped=dict(dropped),
        noted=dict(noted),
        empty_responses=empty,
        without_context=sum(pair.context is None for pair in pairs_now) + without_context,
        users=len({pair.user for pair in pairs_now if pair.user is not None} | users),
        rejected_rows=rejected,
        repeated=_repeated(dataset, tuple(splits)),
        shared_prompts=_shared_prompts(dataset, tuple(splits)),
    )
    return counts, {key for item in links for key in linked_keys(item)}


def _people_before(unchanged: Sequence[Commit]) -> tuple[set[str], int]:
    """Return the users of parts that did not have to be read again, and how many of their pairs have no context."""
    users: set[str] = set()
    without = 0
    for part in unchanged:
        pairs = read_table(part, "pairs", ["user", "context"])
        users.update(pairs["user"].drop_nulls().unique())
        without += pairs["context"].null_count()
    return users, without


def _repeated(dataset: Dataset, splits: Sequence[str]) -> int:
    """Count pairs whose occurrence number is not the first."""
    parts = [part for part in dataset.whole_parts() if part.record["split"] in splits]
    ids = [read_table(part, "pairs", ["pair_id"])["pair_id"] for part in parts]
    return sum(int((~names.str.ends_with("-0")).sum()) for names in ids)


def _shared_prompts(dataset: Dataset, splits: Sequence[str]) -> int:
    prompts: dict[str, set[str]] = {}
    for part in dataset.whole_parts():
        names = read_table(part, "pairs", ["prompt_id"])["prompt_id"].unique()
        prompts.setdefault(part.record["split"], set()).update(names)
    shared: set[str] = set()
    for split in splits:
        others = [found for name, found in prompts.items() if name != split]
        shared |= prompts.get(split, set()).intersection(set().union(*others))
    return len(shared)
