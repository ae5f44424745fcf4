"""The texts of a plan that have no vector yet: found, forwarded, stored, and located again."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain

from micropref.cache.errors import BadInput
from micropref.cache.maintenance.leases import Leases
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.features import Features
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.embedding.linking import store_and_link
from micropref.pipeline.embedding.shard_plan import TextPlan
from micropref.pipeline.forwarding.engines.base import Engine, drive
from micropref.pipeline.forwarding.shards import Demand, Shard
from micropref.pipeline.forwarding.worker import Forwarded, Job, summary
from micropref.pipeline.options import OnBad, Responses
from micropref.pipeline.progress import Announce, progress_bar
from micropref.pipeline.sources.pairs import PreferencePair
from micropref.pipeline.text.tokenizer import PairTokenizer


@dataclass(frozen=True)
class Work:
    """What forwarding the texts of a plan takes."""

    engine: Engine
    job: Job
    backbone: Backbone
    tokenizer: PairTokenizer
    announce: Announce


def store_vectors(
    store: StoreFolder,
    features: Features,
    work: Work,
    pairs: Sequence[PreferencePair],
    responses: Responses,
    contexts: Sequence[str],
    leased: ExitStack,
    link: Callable[[TextPlan], None],
    on_bad: OnBad,
) -> tuple[TextPlan, Forwarded]:
    """Store what has no vector yet, and have it linked by `link` when every text of the plan was found.

    `contexts` are distinct, and embedded by themselves.

    Raises Failure where vectors keep going while this runs; see `store_and_link`.
    """
    forwarded, plan = summary([], 0.0), TextPlan((), work.tokenizer, features.id, responses)

    def put(leases: Leases) -> list[bytes]:
        nonlocal forwarded, plan
        plan = TextPlan(pairs, work.tokenizer, features.id, responses, contexts, on_bad=on_bad)
        missing = missing_shards(plan, leases.stored, work.tokenizer.options.max_length)
        forwarded += _forward(work, plan, missing, leases)
        plan.without(forwarded.bad)
        _require_some(plan)
        return plan.vector_keys

    store_and_link(store, features, work.announce, leased, put, lambda: link(plan))
    return plan, forwarded


def missing_shards(
    plan: TextPlan, stored: Callable[[list[bytes]], Container[bytes]], max_length: int
) -> Iterator[Shard]:
    """Return the shards of a plan without the texts that have a vector.

    `stored` says which of some keys have one. Raises BadInput where no pair can be used.
    """
    shards = (missing for shard in plan.shards() if (missing := shard.without(stored(shard.keys))))
    first = next(shards, None)  # now, before anything is written
    if first is None and len(plan.overlong) and plan.overlong.all():
        raise BadInput(f"no pair fits {max_length} tokens: give a larger `max_length`")
    if first is None:
        _require_some(plan)
    return shards if first is None else chain([first], shards)


def _require_some(plan: TextPlan) -> None:
    """Raise BadInput where no pair is left."""
    if plan.set_aside and len(plan.set_aside) + int(plan.overlong.sum()) == len(plan.overlong):
        first = plan.set_aside[min(plan.set_aside)]
        raise BadInput(f"no pair can be used: {len(plan.set_aside):,} are set aside, the first for {first}")


def total_demand(plan: TextPlan, missing: Iterator[Shard]) -> Demand:
    """Return what forwarding would ask for."""
    wanted, counted = Demand(), 0
    with progress_bar(len(plan.overlong), "tokenizing", "pair") as advance:
        for shard in missing:
            wanted += shard.demand
            advance(plan.planned - counted)
            counted = plan.planned
    return wanted


def _forward(work: Work, plan: TextPlan, missing: Iterator[Shard], leases: Leases) -> Forwarded:
    """Have the missing texts forwarded and stored while the others are still tokenized."""
    first = next(missing, None)
    if first is None:
        return summary([], 0.0)
    sent = 0

    def counted(shards: Iterator[Shard]) -> Iterator[Shard]:
        nonlocal sent
        for shard in shards:
            sent += shard.demand.tokens
            leases.expect(shard.keys)
            yield shard

    with progress_bar(None, "embedding", "token") as count, work.engine.start(work.job, work.backbone) as pool:

        def advance(tokens: int) -> None:
            count(tokens)
            # Assumes that the rest has as many tokens a pair; contexts alone are few.
            share = plan.planned / len(plan.overlong) if len(plan.overlong) else 1
            count.expect(int(sent / share), f"{share:.0%} tokenized" if share < 1 else "")

        return drive(pool, counted(chain([first], missing)), advance, work.announce)
