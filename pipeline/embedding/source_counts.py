"""What `embed` and `import-vectors` count of their sources."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from micropref.cache.commits import Commit
from micropref.cache.datasets import Dataset, linked_keys, read_table
from micropref.pipeline.embedding.embed_report import SourceCounts
from micropref.pipeline.embedding.linking import SET_ASIDE
from micropref.pipeline.sources.parts import Incoming

OVERLONG = "overlong"


def count_sources(
    dataset: Dataset,
    incoming: Sequence[Incoming],
    unchanged: Sequence[Commit],
    links: Sequence[Commit],
    *,
    left_out: Sequence[Mapping[str, int]],
) -> tuple[SourceCounts, set[bytes]]:
    """Count what was read now together with the parts that were there before, and return the keys that these need.

    `left_out` are the pairs of each incoming one that this backbone cannot use, by reason; `links` are those of the
    parts.
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
    linked = [(part.record["split"], left_out_before(item)) for part, item in zip(unchanged, links, strict=True)]
    for split, found in [*((one.split, found) for one, found in zip(incoming, left_out, strict=True)), *linked]:
        dropped.update({reason: count for reason, count in found.items() if count})
        aside = sum(count for reason, count in found.items() if reason != OVERLONG)
        rejected += aside
        splits[split] -= aside
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
        columns=_columns([*(one.record for one in incoming), *(part.record for part in unchanged)]),
        repeated=_repeated(dataset, tuple(splits)),
        shared_prompts=_shared_prompts(dataset, tuple(splits)),
    )
    return counts, {key for item in links for key in linked_keys(item)}


def left_out_before(links: Commit) -> dict[str, int]:
    """Return the pairs of a part that a backbone cannot use, by reason."""
    return {OVERLONG: links.record["overlong"], **links.record.get(SET_ASIDE, {})}


def _columns(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the readings of sources, each once however many splits it fills."""
    by_source = {record["source"]: record.get("columns", []) for record in records}
    return [{"source": source, **column} for source, columns in by_source.items() for column in columns]


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
