"""Text to vectors, once: read sources, tokenize, forward what the store lacks, link pairs to their vectors."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from micropref.cache.commits import Commit
from micropref.cache.datasets import Dataset
from micropref.cache.maintenance.gc import tidy_vectors
from micropref.cache.maintenance.uses import holds
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.context_keys import add_context_keys, linked_contexts, stored_context_keys
from micropref.cache.vectors.features import Features
from micropref.cache.vectors.opening import whole_features
from micropref.pipeline.embedding.embed_report import EmbedReport
from micropref.pipeline.embedding.linking import (
    commit_parts,
    finished_sources,
    forget_damaged,
    open_to_fill,
    read_unfinished,
    retired_parts,
    whole_links,
)
from micropref.pipeline.embedding.reading import check_tokens, load_reading, vector_settings
from micropref.pipeline.embedding.report import make_report
from micropref.pipeline.embedding.shard_plan import TextPlan
from micropref.pipeline.embedding.store_vectors import Work, missing_shards, store_vectors, total_demand
from micropref.pipeline.forwarding.engines.choose import choose_engine
from micropref.pipeline.forwarding.options import EmbedOptions, EngineOptions
from micropref.pipeline.forwarding.worker import Job
from micropref.pipeline.options import Responses
from micropref.pipeline.progress import Announce
from micropref.pipeline.sources.earlier import kept_version
from micropref.pipeline.sources.ingest import SourceOptions, known_parts
from micropref.pipeline.sources.locations import Given
from micropref.pipeline.sources.parts import Incoming

_LOCAL = EngineOptions()


@holds(data="name")
def embed(
    store: StoreFolder,
    paths: Sequence[Given | Path],
    name: str,
    sources: SourceOptions,
    options: EmbedOptions,
    engine: EngineOptions = _LOCAL,
    *,
    plan_only: bool = False,
    announce: Announce = lambda _: None,
) -> EmbedReport:
    """Embed sources into a data set. What is stored is never computed again, and a stopped run goes on.

    Pairs and links are committed when all their vectors are there; `plan_only` forwards and writes nothing, and needs
    no weights. Raises BadInput for unusable sources, names and options before anything is written.
    """
    start = time.monotonic()
    dataset = open_to_fill(store, name, announce)
    sources = sources if sources.replace else replace(sources, version=kept_version(dataset))
    known = known_parts(dataset, paths, sources)
    place = choose_engine(engine, options)
    options = place.resolve(options)
    backbone, tokenizer, options = load_reading(store, dataset, options, place, announce, plan_only=plan_only)
    features, damaged = whole_features(store, vector_settings(backbone, tokenizer, options))
    _tell_imported(dataset, features, announce)
    responses = _responses(dataset, features, options.responses)
    finished = finished_sources(dataset, features, known, responses, sources.on_bad)
    incoming = read_unfinished(dataset, known, finished, sources, announce)
    for line in damaged.values():
        announce(f"{line}; what it held is embedded again where these sources need it")
    pairs = [pair for one in incoming for pair in one.pairs]
    retired = retired_parts(dataset, sources, incoming, known, finished, announce)
    contexts = _contexts(dataset, features, incoming, retired)
    alone = stored_context_keys(features, contexts)
    wanted_alone = contexts if incoming else [context for context in contexts if context not in alone]
    check_tokens(tokenizer, pairs, responses, wanted_alone, backbone.checkpoint.name, sources.on_bad, announce)
    if plan_only:
        plan = TextPlan(pairs, tokenizer, features.id, responses, wanted_alone, on_bad=sources.on_bad)
        missing = missing_shards(plan, features.stored, tokenizer.options.max_length)
        wanted, forwarded = total_demand(plan, missing), None
    else:
        about = {**backbone.description(), "device": options.device}
        features.create(about, None if backbone.reward_head is None else backbone.reward_head.numpy())
        job = Job(features.folder, features.settings, options, sources.on_bad)
        work = Work(place, job, backbone, tokenizer, announce)
        with ExitStack() as leased:

            def link(plan: TextPlan) -> None:
                nonlocal dataset
                dataset = commit_parts(dataset, features, incoming, plan, responses, retired)
                add_context_keys(features, plan.context_keys)

            plan, forwarded = store_vectors(
                store, features, work, pairs, responses, wanted_alone, leased, link, sources.on_bad
            )
            wanted = forwarded.demand
            if sources.replace:
                dataset = forget_damaged(dataset, {split for one in known for split in sources.splits_of(one)})
        for line in tidy_vectors(store, features):
            announce(f"warning: {line}")
    unchanged = [part for parts in finished.values() for part in parts]
    links = [item for part in unchanged if (item := dataset.links(part, features.id))]
    alone |= plan.context_keys
    dataset = dataset.reopened()
    report = make_report(dataset, features, backbone, incoming, plan, wanted, forwarded, unchanged, links, alone)
    return replace(report, seconds=time.monotonic() - start)


def _contexts(
    dataset: Dataset, features: Features, incoming: Sequence[Incoming], retired: Sequence[Commit]
) -> list[str]:
    """Return the distinct contexts to embed by themselves: those of these pairs, and of what was embedded before.

    The others of the data set are few: where an older version embedded it, they are all that is missing.
    """
    kept = replace(dataset, skip=dataset.skip | {part.stem for part in retired})
    own = {pair.context for one in incoming for pair in one.pairs if pair.context is not None}
    return sorted(own | linked_contexts(kept, features.id))


def _tell_imported(dataset: Dataset, features: Features, announce: Announce) -> None:
    """Say that vectors a data set has were imported: the pairs embedded now get none of that kind."""
    for other in dataset.linked_features():
        made_by = dataset.imported_from(other)
        if made_by is not None:
            announce(
                f"warning: data set {dataset.name!r} has imported vectors, features {other} (made by {made_by!r}), "
                f"which cannot be computed here: what is embedded now becomes features {features.id}; choose with "
                "`features`, and give new vectors of the imported kind to `micropref import-vectors`"
            )


def _responses(dataset: Dataset, features: Features, asked: Responses) -> Responses:
    """Return what to embed so that nothing an earlier command embedded is unlinked."""
    linked = [whole_links(dataset, part, features) for part in dataset.parts]
    before = {item.record["responses"] for item in linked if item}
    return asked if before <= {asked} else "both"
