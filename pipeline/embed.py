"""Text to vectors, once: read sources, tokenize, forward what the store lacks, link pairs to their vectors."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from cache.commits import Commit, commit, write_table
from cache.datasets import Dataset, linked_keys
from cache.errors import BadInput
from cache.store import Store, check_name
from cache.vectors import ROLE, Features, planned_features
from pipeline.backbone import Backbone
from pipeline.checkpoint import find_checkpoint
from pipeline.embed_options import EmbedOptions, EngineOptions
from pipeline.embed_report import EmbedReport, make_report
from pipeline.engine import Engine, choose_engine, drive
from pipeline.forward import Forwarded, Job, summary
from pipeline.ingest import Incoming, SourceOptions, covered, number_pairs, read_sources, write_part
from pipeline.progress import Announce, progress_bar
from pipeline.shards import Demand, Shard, demand
from pipeline.splits import TEST, TRAIN
from pipeline.text_plan import TextPlan, link_table
from pipeline.tokens import PairTokenizer, Responses, Tokenizing

_LOCAL = EngineOptions()


def embed(
    store: Store,
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
    dataset = Dataset(check_name("data set", name), store.dataset(name))
    known = {path: covered(dataset, path, sources) for path in dict.fromkeys(paths)}
    place = choose_engine(engine, options)
    options = place.resolve(options)
    backbone, tokenizer = _load(options, place, plan_only=plan_only)
    features = planned_features(store, _settings(backbone, tokenizer, options))
    damaged = features.damaged()
    features = replace(features, skip=frozenset(item.stem for item, _ in damaged))
    responses = _responses(dataset, features, options.responses)
    finished = {path: parts for path, parts in known.items() if parts and _linked(dataset, features, parts, responses)}
    incoming = _read({path: parts for path, parts in known.items() if path not in finished}, sources, announce)
    for _, line in damaged:
        announce(f"{line}; its vectors are embedded again")
    plan = TextPlan([pair for one in incoming for pair in one.pairs], tokenizer, features.id, responses)
    missing = _missing(plan, features, tokenizer.options.max_length)
    forwarded = None
    if plan_only:
        wanted = _wanted(plan, missing, causal=backbone.causal)
    else:
        for shard, _ in damaged:
            if shard.problem(ROLE, digest=True):  # still: another writer may have mended it
                shard.remove()
        about = {**backbone.description(), "device": options.device}
        features.create(about, None if backbone.reward_head is None else backbone.reward_head.numpy())
        forwarded = _forward(place, Job(features.folder, features.settings, options), backbone, plan, missing, announce)
        wanted = forwarded.demand
        _commit_parts(dataset, features, incoming, plan, responses, _retired(dataset, sources, incoming, finished))
    settled = [part for parts in finished.values() for part in parts]
    links = [item for part in settled if (item := dataset.links(part, features.id))]
    after = Dataset(name, dataset.folder)
    report = make_report(after, features, backbone, incoming, plan, wanted, forwarded, settled, links)
    return replace(report, seconds=time.monotonic() - start)


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


def _missing(plan: TextPlan, features: Features, max_length: int) -> Iterator[Shard]:
    """Return the shards of a plan without the texts that have a vector. Raises BadInput where no pair fits."""
    stored = set(features.keys().to_pylist())
    shards = (missing for shard in plan.shards() if (missing := shard.without(stored)))
    first = next(shards, None)  # now, before anything is written
    if first is None and len(plan.overlong) and plan.overlong.all():
        raise BadInput(f"no pair fits {max_length} tokens: give a larger --max-length")
    return shards if first is None else chain([first], shards)


def _wanted(plan: TextPlan, missing: Iterator[Shard], *, causal: bool) -> Demand:
    """Return what forwarding would ask for."""
    wanted, counted = Demand(), 0
    with progress_bar(len(plan.overlong), "tokenizing", "pair") as advance:
        for shard in missing:
            wanted += demand(shard, causal=causal)
            advance(plan.planned - counted)
            counted = plan.planned
    return wanted


def _forward(
    place: Engine, job: Job, backbone: Backbone, plan: TextPlan, missing: Iterator[Shard], announce: Announce
) -> Forwarded:
    """Have the missing texts forwarded and stored while the others are still tokenized."""
    first = next(missing, None)
    if first is None:
        return summary([], 0.0)
    handed_out = 0

    def counted(shards: Iterator[Shard]) -> Iterator[Shard]:
        nonlocal handed_out
        for shard in shards:
            handed_out += shard.size
            yield shard

    with progress_bar(None, "embedding", "tok") as count, place.hire(job, backbone) as crew:

        def advance(tokens: int) -> None:
            count(tokens)
            share = plan.planned / len(plan.overlong)  # what is not tokenized is taken to be like what is
            count.expect(int(handed_out / share), f"{share:.0%} tokenized" if share < 1 else "")

        return drive(crew, counted(chain([first], missing)), advance, announce)


def _settings(backbone: Backbone, tokenizer: PairTokenizer, options: EmbedOptions) -> dict[str, Any]:
    """Return everything that changes a vector."""
    settings = {**backbone.settings(), **tokenizer.settings(), "width": backbone.width}
    halves = "float32" if settings["dtype"] == "float32" else "float16"
    return {**settings, "store_dtype": halves if options.store_dtype == "auto" else options.store_dtype}


def _responses(dataset: Dataset, features: Features, asked: Responses) -> Responses:
    """Return what to embed so that nothing an earlier command embedded is unlinked."""
    linked = [dataset.links(part, features.id) for part in dataset.parts]
    before = {item.record["responses"] for item in linked if item}
    return asked if before <= {asked} else "both"


def _linked(dataset: Dataset, features: Features, parts: list[Commit], responses: Responses) -> bool:
    """Say whether every text of these parts has a vector that can be read."""
    for part in parts:
        links = dataset.links(part, features.id)
        if links is None or links.record["responses"] != responses or links.problem("links", digest=True):
            return False
        if any(part.problem(role, digest=True) for role in part.files):
            return False
        if (features.locate(linked_keys(links)) < 0).any():
            return False
    return True


def _read(unread: dict[Path, list[Commit]], sources: SourceOptions, announce: Announce) -> list[Incoming]:
    """Read sources as far as this command asks, or as an earlier one already read them."""
    incoming = []
    for path, parts in unread.items():
        limits = sources if not parts else replace(sources, limit=parts[0].record["limit"])
        incoming += read_sources([path], limits)
    for path in unread if sources.split_by_prompt is not None else ():
        if {one.split for one in incoming if one.path == str(path)} != {TRAIN, TEST}:
            announce(f"warning: {path}: too few prompts for --split-by-prompt, one split is empty")
    for one in incoming:
        losses = "".join(f", {count:,} {reason}" for reason, count in one.dropped.items())
        announce(f"{one.path}: {one.shape} rows; {len(one.pairs):,} pairs for split {one.split}{losses}")
    return incoming


def _retired(
    dataset: Dataset, sources: SourceOptions, incoming: list[Incoming], finished: dict[Path, list[Commit]]
) -> list[Commit]:
    """Return the parts that `--replace` puts an end to.

    Those are the parts of these splits whose source was not given again, and what an earlier `--split-by-prompt`
    dealt from a given source to a split that it does not fill now.
    """
    if not sources.replace:
        return []
    settled = [part for parts in finished.values() for part in parts]
    given = {one.digest for one in incoming} | {part.record["digest"] for part in settled}
    filled = {(one.digest, one.split) for one in incoming}
    filled |= {(part.record["digest"], part.record["split"]) for part in settled}

    def ends(part: Commit) -> bool:
        digest, split = part.record["digest"], part.record["split"]
        if digest in given:
            dealt = part.record["identity"]["split_by_prompt"] is not None
            return (digest, split) not in filled and (dealt or split in sources.splits)
        return split in sources.splits

    return [part for part in dataset.parts if ends(part)]


def _commit_parts(
    dataset: Dataset,
    features: Features,
    incoming: list[Incoming],
    plan: TextPlan,
    responses: Responses,
    retired: list[Commit],
) -> None:
    """Write pairs, then the links that say they are embedded, then let go of what is replaced."""
    start = 0
    for one in incoming:
        now = Dataset(dataset.name, dataset.folder)  # with the parts that were written a moment ago
        pair_ids = number_pairs(now, one, retired)
        part = write_part(now, one, pair_ids)
        rows = range(start, start + len(one.pairs))
        folder = now.links_folder(features.id)
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
            links = dataset.links(part, features_id)
            if links is not None:
                links.remove()
        part.remove()
