"""The texts of a plan that have no vector yet: found, forwarded, stored, and located again."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain

import polars as pl

from micropref.cache.errors import BadInput, Failure
from micropref.cache.maintenance.leases import Leases
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.features import Features
from micropref.cache.vectors.opening import whole_features
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.embedding.shard_plan import TextPlan
from micropref.pipeline.forwarding.engines.base import Engine, drive
from micropref.pipeline.forwarding.shards import Demand, Shard
from micropref.pipeline.forwarding.worker import Forwarded, Job, summary
from micropref.pipeline.options import Responses
from micropref.pipeline.progress import Announce, progress_bar
from micropref.pipeline.sources.pairs import PreferencePair
from micropref.pipeline.text.tokenizer import PairTokenizer

ROUNDS = 3
"""How often vectors that vanish while a command runs are embedded again."""


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
    leased: ExitStack,
    link: Callable[[TextPlan], None],
) -> tuple[TextPlan, Forwarded]:
    """Store what has no vector yet, and have it linked by `link` when every text of the plan was found.

    Shards are leased, which keeps `gc` away from what was stored before, and located again before and after they are
    linked. What is removed all the same, by a `gc --min-age 0` at the same moment, is embedded again. Raises Failure
    where that goes on.
    """
    forwarded, linked = summary([], 0.0), False
    for _ in range(ROUNDS):
        leases = leased.enter_context(Leases(features, work.announce))
        plan = TextPlan(pairs, work.tokenizer, features.id, responses)
        limit = work.tokenizer.options.max_length
        missing = missing_shards(plan, leases.stored, limit)
        forwarded += _forward(work, plan, missing, leases)
        features, lost = _located(store, features, plan)
        if not lost and not linked:
            link(plan)
            linked = True
            features, lost = _located(store, features, plan)
        if not lost:
            return plan, forwarded
        work.announce(f"{lost:,} vectors went while this command ran, by `gc` it seems: they are embedded again")
    raise Failure(
        f"{features.folder}: vectors went {ROUNDS} times while this command ran; stop the `gc` that runs at the same "
        "time, then give the same command again: it goes on from there"
    )


def _located(store: StoreFolder, features: Features, plan: TextPlan) -> tuple[Features, int]:
    """Return the features as they are now, and how many texts of a plan have no vector there."""
    features, _ = whole_features(store, features.settings)
    return features, int((features.locate(pl.Series(plan.keys, dtype=pl.Binary)) < 0).sum())


def missing_shards(
    plan: TextPlan, stored: Callable[[list[bytes]], Container[bytes]], max_length: int
) -> Iterator[Shard]:
    """Return the shards of a plan without the texts that have a vector.

    `stored` says which of some keys have one. Raises BadInput where no pair fits.
    """
    shards = (missing for shard in plan.shards() if (missing := shard.without(stored(shard.keys))))
    first = next(shards, None)  # now, before anything is written
    if first is None and len(plan.overlong) and plan.overlong.all():
        raise BadInput(f"no pair fits {max_length} tokens: give a larger `max_length`")
    return shards if first is None else chain([first], shards)


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
            share = plan.planned / len(plan.overlong)  # assumes that the rest has as many tokens a pair
            count.expect(int(sent / share), f"{share:.0%} tokenized" if share < 1 else "")

        return drive(pool, counted(chain([first], missing)), advance, work.announce)
