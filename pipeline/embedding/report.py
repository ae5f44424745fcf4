"""The result of `embed`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from micropref.cache.commits import Commit
from micropref.cache.datasets import Dataset, linked_keys, read_table
from micropref.cache.schemas import KEY_BYTES
from micropref.cache.vectors.features import Features
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.embedding.cost import Lengths, Price, forward_flops, linked_lengths, planned_lengths, price
from micropref.pipeline.embedding.shard_plan import TextPlan
from micropref.pipeline.forwarding.shards import Demand
from micropref.pipeline.forwarding.worker import Forwarded
from micropref.pipeline.sources.parts import Incoming


@dataclass(frozen=True)
class EmbedReport:
    """What `embed` did, or with `--plan` would do."""

    data: str
    """Data set."""
    features: str
    """Features id, the name of this backbone's vectors under these settings; empty where it is not known: with
    `--plan` of a backbone whose weights are not here."""
    backbone: str
    """What the user called it."""
    pairs: int
    """Usable pairs of these sources, in all their splits."""
    splits: dict[str, int]
    """The same by split."""
    all_splits: list[str]
    """Splits that the data set has now, those of other sources among them."""
    texts: int
    """Distinct texts the pairs need."""
    texts_embedded: int
    """Texts forwarded now; with `--plan`, to be forwarded."""
    texts_reused: int
    """Texts whose vectors were there already."""
    pass_name: str | None
    """Pass that forwarded them: tree, packed or padded, or several; None where nothing was forwarded."""
    tokens_unique: int
    """Tokens that have to be read for them: distinct prefixes within a prompt for causal backbones, else all."""
    tokens_forwarded: int
    """Tokens read, padding included; 0 with `--plan`."""
    dropped: dict[str, int]
    """Rows and pairs left out, by reason; `overlong` for this backbone only."""
    trimmed: int
    """Pairs whose prompt was cut."""
    indistinguishable: int
    """Pairs whose responses are the same tokens to this backbone: their margin is always 0."""
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
    delta_storage_error: float | None
    """Median relative error of Δ by the storage dtype, on the first shard stored now."""
    store_bytes: int
    """Size of these texts' vectors as stored."""
    forward_flops: float
    """Operations that the texts forwarded now take, with `--plan` would take; see pricing.forward_flops."""
    price: Price | None
    """With `--plan`: what that would cost."""
    tokens_per_second: float
    """`tokens_unique` by the time of forwarding, and of tokenizing and writing next to it; 0 where there were none."""
    seconds: float
    """Wall time of the command, loading included."""


def make_report(
    dataset: Dataset,
    features: Features,
    backbone: Backbone,
    incoming: Sequence[Incoming],
    plan: TextPlan,
    wanted: Demand,
    forwarded: Forwarded | None,
    unchanged: Sequence[Commit],
    links: Sequence[Commit],
) -> EmbedReport:
    """Count what was read and embedded now together with the parts that were there before, and their links.

    `wanted` is what was forwarded, or would be.
    """
    splits = Counter[str]()
    dropped = Counter[str]()
    rejected = empty = 0
    for record, pairs in [(one.record, len(one.pairs)) for one in incoming] + [
        (part.record, part.files["pairs"].rows) for part in unchanged
    ]:
        splits[record["split"]] += pairs
        dropped.update(record["dropped"])
        rejected += record["rejected_rows"]
        empty += record.get("empty_responses", 0)  # parts without a count were read when such rows were refused
    overlong = int(plan.overlong.sum()) + sum(item.record["overlong"] for item in links)
    if overlong:
        dropped["overlong"] += overlong
    old = _facts(unchanged, links)
    texts = len(set(plan.keys) | old.keys)
    flops = forward_flops(backbone, wanted)
    pairs_now = [pair for one in incoming for pair in one.pairs]
    return EmbedReport(
        data=dataset.name,
        features=features.id if backbone.checkpoint.has_weights else "",
        backbone=backbone.checkpoint.name,
        pairs=sum(splits.values()),
        splits=dict(splits),
        all_splits=sorted({*dataset.splits(), *splits}),
        texts=texts,
        texts_embedded=wanted.texts,
        texts_reused=texts - wanted.texts,
        pass_name=None if forwarded is None else ", ".join(forwarded.pass_names) or None,
        tokens_unique=wanted.tokens,
        tokens_forwarded=0 if forwarded is None else forwarded.forwarded_tokens,
        dropped=dict(dropped),
        trimmed=int(plan.trimmed.sum()) + sum(item.record["trimmed"] for item in links),
        indistinguishable=int(plan.indistinguishable.sum()) + sum(item.record["indistinguishable"] for item in links),
        empty_responses=empty,
        without_context=sum(pair.context is None for pair in pairs_now) + old.without_context,
        users=len({pair.user for pair in pairs_now if pair.user is not None} | old.users),
        rejected_rows=rejected,
        repeated=_repeated(dataset, tuple(splits)),
        shared_prompts=_shared_prompts(dataset, tuple(splits)),
        delta_storage_error=None if forwarded is None else forwarded.delta_error,
        store_bytes=texts * (features.width * features.dtype.itemsize + KEY_BYTES),
        forward_flops=flops,
        price=price(flops, _loops(incoming, plan, links)) if forwarded is None else None,
        tokens_per_second=wanted.tokens / forwarded.seconds if forwarded and wanted.tokens else 0.0,
        seconds=0.0,
    )


def _loops(incoming: Sequence[Incoming], plan: TextPlan, links: Sequence[Commit]) -> list[Lengths]:
    """Return what padded loops over the same pairs would read, one loop for each source of a split."""
    loops = [linked_lengths(item) for item in links]
    start = 0
    for one in incoming:
        loops.append(planned_lengths(plan, range(start, start + len(one.pairs))))
        start += len(one.pairs)
    return loops


@dataclass(frozen=True)
class _Facts:
    """What the report needs to know of parts that did not have to be read again."""

    keys: set[bytes]
    users: set[str]
    without_context: int


def _facts(unchanged: Sequence[Commit], links: Sequence[Commit]) -> _Facts:
    keys: set[bytes] = set()
    for item in links:
        keys.update(linked_keys(item))
    users: set[str] = set()
    without = 0
    for part in unchanged:
        pairs = read_table(part, "pairs", ["user", "context"])
        users.update(pairs["user"].drop_nulls().unique())
        without += pairs["context"].null_count()
    return _Facts(keys, users, without)


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
