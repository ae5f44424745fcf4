"""What `embed` read, embedded and left out, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from micropref.cache.commits import Commit
from micropref.cache.datasets import Dataset
from micropref.cache.schemas import KEY_BYTES
from micropref.cache.vectors.features import Features
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.embedding.cost import Lengths, forward_flops, linked_lengths, planned_lengths, price
from micropref.pipeline.embedding.embed_report import EmbedReport
from micropref.pipeline.embedding.shard_plan import TextPlan
from micropref.pipeline.embedding.source_counts import OVERLONG, count_sources
from micropref.pipeline.forwarding.shards import Demand
from micropref.pipeline.forwarding.worker import Forwarded
from micropref.pipeline.sources.parts import Incoming


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
    contexts: Mapping[str, bytes],
) -> EmbedReport:
    """Count what was read and embedded now together with the parts that were there before, and their links.

    `wanted` is what was forwarded, or would be; `contexts` have these keys by themselves.
    """
    counts, old = count_sources(dataset, incoming, unchanged, links, left_out=_left_out(incoming, plan))
    texts = len(old.union(plan.vector_keys, contexts.values()))
    flops = forward_flops(backbone, wanted)
    return EmbedReport(
        **vars(counts),
        features=features.id if backbone.checkpoint.has_weights else "",
        backbone=backbone.checkpoint.name,
        texts=texts,
        contexts=len(contexts),
        texts_embedded=wanted.texts,
        texts_reused=texts - wanted.texts,
        pass_name=None if forwarded is None else ", ".join(forwarded.pass_names) or None,
        tokens_unique=wanted.tokens,
        tokens_forwarded=0 if forwarded is None else forwarded.forwarded_tokens,
        trimmed=int(plan.trimmed.sum()) + sum(item.record["trimmed"] for item in links),
        indistinguishable=int(plan.indistinguishable.sum()) + sum(item.record["indistinguishable"] for item in links),
        special_tokens=int(plan.special.sum()) + sum(item.record.get("special", 0) for item in links),
        not_rendered=_not_rendered(plan, links),
        delta_storage_error=None if forwarded is None else forwarded.delta_error,
        store_bytes=texts * (features.width * features.dtype.itemsize + KEY_BYTES),
        forward_flops=flops,
        price=price(flops, _loops(incoming, plan, links)) if forwarded is None else None,
        tokens_per_second=wanted.tokens / forwarded.seconds if forwarded and wanted.tokens else 0.0,
        seconds=0.0,
    )


def _not_rendered(plan: TextPlan, links: Sequence[Commit]) -> dict[str, int]:
    """Return what the template did not write of the messages read now, and of those that were there before."""
    found = Counter({what: int(flags.sum()) for what, flags in plan.lost.items()})
    for item in links:
        found.update(item.record.get("lost", {}))
    return dict(sorted((+found).items()))


def _left_out(incoming: Sequence[Incoming], plan: TextPlan) -> list[dict[str, int]]:
    """Count the pairs of each source that have no vectors, by reason."""
    found, start = [], 0
    for one in incoming:
        rows = range(start, start + len(one.pairs))
        kinds = Counter(why.partition(": ")[0] for row, why in plan.set_aside.items() if row in rows)
        found.append({OVERLONG: int(plan.overlong[rows.start : rows.stop].sum()), **kinds})
        start = rows.stop
    return found


def _loops(incoming: Sequence[Incoming], plan: TextPlan, links: Sequence[Commit]) -> list[Lengths]:
    """Return what padded loops over the same pairs would read, one loop for each source of a split."""
    loops = [linked_lengths(item) for item in links]
    start = 0
    for one in incoming:
        loops.append(planned_lengths(plan, range(start, start + len(one.pairs))))
        start += len(one.pairs)
    return loops
