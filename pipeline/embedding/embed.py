"""Text to vectors, once: read sources, tokenize, forward what the store lacks, link pairs to their vectors."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from micropref.cache.choices import TEST, TRAIN
from micropref.cache.commits import Commit, commit, write_table
from micropref.cache.datasets import Dataset, linked_keys
from micropref.cache.errors import Damaged
from micropref.cache.maintenance.gc import remove_damaged
from micropref.cache.maintenance.uses import holds
from micropref.cache.store import StoreFolder, check_name
from micropref.cache.vectors.features import Features
from micropref.cache.vectors.opening import whole_features
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.backbone.checkpoint import find_checkpoint
from micropref.pipeline.embedding.report import EmbedReport, make_report
from micropref.pipeline.embedding.shard_plan import TextPlan, link_table
from micropref.pipeline.embedding.store_vectors import Work, missing_shards, store_vectors, total_demand
from micropref.pipeline.forwarding.engines.base import Engine
from micropref.pipeline.forwarding.engines.choose import choose_engine
from micropref.pipeline.forwarding.options import EmbedOptions, EngineOptions
from micropref.pipeline.forwarding.worker import Job
from micropref.pipeline.options import Responses
from micropref.pipeline.progress import Announce
from micropref.pipeline.sources.ingest import SourceOptions, covered, doubled_stems, read_sources
from micropref.pipeline.sources.parts import Incoming, write_numbered
from micropref.pipeline.text.tokenizer import PairTokenizer, Tokenizing

_LOCAL = EngineOptions()


@holds(data="name")
def embed(
    store: StoreFolder,
    paths: Sequence[Path],
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
    dataset = _open(store, name, announce)
    doubled = doubled_stems(dataset, sources.splits)
    known = {path: covered(dataset, path, sources, doubled) for path in dict.fromkeys(paths)}
    place = choose_engine(engine, options)
    options = place.resolve(options)
    backbone, tokenizer = _load(options, place, plan_only=plan_only)
    features, damaged = whole_features(store, _settings(backbone, tokenizer, options))
    responses = _responses(dataset, features, options.responses)
    finished = {path: parts for path, parts in known.items() if parts and _linked(dataset, features, parts, responses)}
    incoming = _read({path: parts for path, parts in known.items() if path not in finished}, sources, announce)
    for line in damaged.values():
        announce(f"{line}; what it held is embedded again where these sources need it")
    pairs = [pair for one in incoming for pair in one.pairs]
    if plan_only:
        plan = TextPlan(pairs, tokenizer, features.id, responses)
        stored = set(features.keys().to_pylist())
        missing = missing_shards(plan, stored.intersection, tokenizer.options.max_length)
        wanted, forwarded = total_demand(plan, missing), None
    else:
        about = {**backbone.description(), "device": options.device}
        features.create(about, None if backbone.reward_head is None else backbone.reward_head.numpy())
        work = Work(place, Job(features.folder, features.settings, options), backbone, tokenizer, announce)
        with ExitStack() as leased:
            retired = _retired(dataset, sources, incoming, finished)

            def link(plan: TextPlan) -> None:
                nonlocal dataset
                dataset = _commit_parts(dataset, features, incoming, plan, responses, retired)

            plan, forwarded = store_vectors(store, features, work, pairs, responses, leased, link)
            wanted = forwarded.demand
            if sources.replace:
                dataset = _forget_damaged(dataset, sources.splits)
        for line in remove_damaged(store, features):
            announce(f"warning: {line}")
    unchanged = [part for parts in finished.values() for part in parts]
    links = [item for part in unchanged if (item := dataset.links(part, features.id))]
    report = make_report(dataset.reopened(), features, backbone, incoming, plan, wanted, forwarded, unchanged, links)
    return replace(report, seconds=time.monotonic() - start)


def _open(store: StoreFolder, name: str, announce: Announce) -> Dataset:
    """Open a data set that may not exist yet, without parts whose commit files are damaged: embedding repairs them."""
    dataset = Dataset(check_name("data set", name), store.dataset(name))
    damaged = dataset.damaged_parts()
    for line in damaged.values():
        announce(line)
    return replace(dataset, skip=frozenset(damaged))


def _load(options: EmbedOptions, place: Engine, *, plan_only: bool) -> tuple[Backbone, PairTokenizer]:
    if not plan_only and not place.in_process:  # the workers load what the features id is made of
        find_checkpoint(options.backbone, options.revision)
    backbone = options.load(weights=place.in_process and not plan_only)
    tokenizing = Tokenizing(
        max_length=backbone.max_length,
        template=options.template,
        overlong=options.overlong,
        context_template=options.context_template,
        date=options.date,
    )
    return backbone, backbone.pair_tokenizer(tokenizing)


def _settings(backbone: Backbone, tokenizer: PairTokenizer, options: EmbedOptions) -> dict[str, Any]:
    """Return everything that changes a vector."""
    settings = {**backbone.settings(), **tokenizer.settings(), "width": backbone.width}
    halves = "float32" if settings["dtype"] == "float32" else "float16"
    return {**settings, "store_dtype": halves if options.store_dtype == "auto" else options.store_dtype}


def _responses(dataset: Dataset, features: Features, asked: Responses) -> Responses:
    """Return what to embed so that nothing an earlier command embedded is unlinked."""
    linked = [_whole_links(dataset, part, features) for part in dataset.parts]
    before = {item.record["responses"] for item in linked if item}
    return asked if before <= {asked} else "both"


def _linked(dataset: Dataset, features: Features, parts: list[Commit], responses: Responses) -> bool:
    """Say whether every text of these parts has a vector that can be read."""
    for part in parts:
        links = _whole_links(dataset, part, features)
        if links is None or links.record["responses"] != responses or links.damage("links", digest=True):
            return False
        if any(part.damage(role, digest=True) for role in part.files):
            return False
        if (features.locate(linked_keys(links)) < 0).any():
            return False
    return True


def _whole_links(dataset: Dataset, part: Commit, features: Features) -> Commit | None:
    """Return a part's links; None where there are none, or a damaged commit file, which is written again."""
    try:
        return dataset.links(part, features.id)
    except Damaged:
        return None


def _read(unread: dict[Path, list[Commit]], sources: SourceOptions, announce: Announce) -> list[Incoming]:
    """Read sources as far as this command asks, or as an earlier one already read them."""
    incoming = []
    for path, parts in unread.items():
        limits = sources if not parts else replace(sources, limit=parts[0].record["limit"])
        incoming += read_sources([path], limits)
    for path in unread if sources.split_by_prompt is not None else ():
        if {one.split for one in incoming if one.path == str(path)} != {TRAIN, TEST}:
            announce(f"warning: {path}: too few prompts for `split_by_prompt`, one split is empty")
    for one in incoming:
        losses = "".join(f", {count:,} {reason}" for reason, count in one.dropped.items())
        announce(f"{one.path}: {one.shape} rows; {len(one.pairs):,} pairs for split {one.split}{losses}")
    return incoming


def _retired(
    dataset: Dataset, sources: SourceOptions, incoming: list[Incoming], finished: dict[Path, list[Commit]]
) -> list[Commit]:
    """Return the parts that `replace` removes.

    Those are the parts of these splits whose source was not given again, and what an earlier `split_by_prompt`
    assigned from a given source to a split that it does not fill now.
    """
    if not sources.replace:
        return []
    unchanged = [part for parts in finished.values() for part in parts]
    given = {one.digest for one in incoming} | {part.record["digest"] for part in unchanged}
    filled = {(one.digest, one.split) for one in incoming}
    filled |= {(part.record["digest"], part.record["split"]) for part in unchanged}

    def ends(part: Commit) -> bool:
        digest, split = part.record["digest"], part.record["split"]
        if digest in given:
            by_prompt = part.record["identity"]["split_by_prompt"] is not None
            return (digest, split) not in filled and (by_prompt or split in sources.splits)
        return split in sources.splits

    return [part for part in dataset.parts if ends(part)]


def _forget_damaged(dataset: Dataset, splits: Sequence[str]) -> Dataset:
    """Remove the damaged commit files of splits that start over: what they named is replaced."""
    for stem in dataset.damaged_parts():
        if stem.rsplit("-", 2)[0] in splits:
            (dataset.folder / "pairs" / f"{stem}.json").unlink(missing_ok=True)
    return replace(dataset, skip=frozenset(dataset.damaged_parts()))


def _commit_parts(
    dataset: Dataset,
    features: Features,
    incoming: list[Incoming],
    plan: TextPlan,
    responses: Responses,
    retired: list[Commit],
) -> Dataset:
    """Write pairs, then the links that say they are embedded, then remove what is replaced; return what is there."""
    start = 0
    for one in incoming:
        part, pair_ids = write_numbered(dataset, one, retired)
        dataset = dataset.reopened(part.stem)
        rows = range(start, start + len(one.pairs))
        folder = dataset.links_folder(features.id)
        file = write_table(folder, part.stem, "links", link_table(plan, rows, pair_ids))
        record = {
            "pairs_digest": part.files["pairs"].digest,
            "responses": responses,
            **{
                name: int(getattr(plan, name)[rows.start : rows.stop].sum())
                for name in ("trimmed", "overlong", "indistinguishable")
            },
        }
        commit(folder, part.stem, {"links": file}, record)
        start = rows.stop
    for part in retired:
        for features_id in dataset.linked_features():
            try:
                links = dataset.links(part, features_id)
            except Damaged:
                (dataset.links_folder(features_id) / f"{part.stem}.json").unlink(missing_ok=True)
            else:
                if links is not None:
                    links.remove()
        part.remove()
    return dataset.reopened()
