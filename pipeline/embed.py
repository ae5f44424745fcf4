"""Text to vectors, once: read sources, tokenize, forward what the store lacks, link pairs to their vectors."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from cache.commits import Commit, commit, write_table
from cache.datasets import Dataset, linked_keys
from cache.errors import BadInput
from cache.store import Store, check_name
from cache.vectors import ROLE, Features, planned_features
from pipeline.backbone import Backbone
from pipeline.checkpoint import MINILM
from pipeline.devices import DeviceName, DtypeName, usable_cores
from pipeline.embed_report import EmbedReport, make_report
from pipeline.forward import Forwarded, forward_shards, missing_texts
from pipeline.ingest import Incoming, SourceOptions, covered, number_pairs, read_sources, write_part
from pipeline.pass_check import choose_pass
from pipeline.passes import PassName
from pipeline.pooling import PoolingName
from pipeline.progress import Announce, progress_bar
from pipeline.splits import TEST, TRAIN
from pipeline.templates import TemplateName
from pipeline.text_plan import TextPlan, link_table, plan_texts
from pipeline.tokens import CONTEXT_TEMPLATE, PINNED_DATE, PairTokenizer, Responses, Tokenizing

StoreDtype = Literal["auto", "float16", "float32"]


@dataclass(frozen=True)
class EmbedOptions:
    """What `embed` is told of backbone and texts; sources have options of their own."""

    backbone: str = MINILM
    """`minilm`, a folder, or a hub id."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    pooling: PoolingName = "auto"
    """How a text's vector is made; see Backbone.load."""
    max_length: int | None = None
    """Most tokens of a text; None: the backbone's positions, at most 4096."""
    overlong: Literal["trim-prompt", "drop"] = "trim-prompt"
    """What becomes of pairs that do not fit."""
    template: TemplateName = "auto"
    """How prompt and response become one text."""
    date: str = PINNED_DATE
    """Today, to chat templates that ask."""
    context_template: str = CONTEXT_TEMPLATE
    """How a context goes before a prompt."""
    responses: Responses = "plain"
    """Behind which prompt responses are embedded."""
    dtype: DtypeName = "auto"
    """Compute dtype."""
    store_dtype: StoreDtype = "auto"
    """auto: float16 for vectors computed in 16 bits, else float32."""
    device: DeviceName = "auto"
    """Where the backbone computes."""
    packing: PassName = "auto"
    """How texts are put together for the backbone; the vectors are the same."""
    tokens_per_batch: int | None = None
    """Tokens of a batch, padding included; None: a size that is near the best on CPUs."""
    trust_remote_code: bool = False
    """Whether the checkpoint's own Python code may run."""

    def __post_init__(self) -> None:
        if self.tokens_per_batch is not None and self.tokens_per_batch < 1:
            raise BadInput(f"--tokens-per-batch {self.tokens_per_batch}: expected at least 1")


def embed(
    store: Store,
    paths: Sequence[Path],
    name: str,
    sources: SourceOptions,
    options: EmbedOptions,
    *,
    plan_only: bool = False,
    announce: Announce = lambda _: None,
) -> EmbedReport:
    """Embed sources into a data set. What is stored is never computed again, and a stopped run goes on.

    Pairs and links are committed when all their vectors are there; `plan_only` forwards and writes nothing.
    Raises BadInput for unusable sources, names and options before anything is written.
    """
    start = time.monotonic()
    dataset = Dataset(check_name("data set", name), store.dataset(name))
    known = {path: covered(dataset, path, sources) for path in dict.fromkeys(paths)}
    backbone, tokenizer = _load(options)
    features = planned_features(store, _settings(backbone, tokenizer, options))
    damaged = features.damaged()
    features = replace(features, skip=frozenset(item.stem for item, _ in damaged))
    responses = _responses(dataset, features, options.responses)
    finished = {path: parts for path, parts in known.items() if parts and _linked(dataset, features, parts, responses)}
    incoming = _read({path: parts for path, parts in known.items() if path not in finished}, sources, announce)
    for _, line in damaged:
        announce(f"{line}; its vectors are embedded again")
    pairs = [pair for one in incoming for pair in one.pairs]
    with progress_bar(len(pairs), "tokenizing", "pair") as advance:
        plan = plan_texts(pairs, tokenizer, features.id, responses, advance)
    if pairs and plan.overlong.all():
        raise BadInput(f"no pair fits {tokenizer.options.max_length} tokens: give a larger --max-length")
    todo = missing_texts(features, plan)
    forwarded = None
    if not plan_only:
        for shard, _ in damaged:
            if shard.problem(ROLE, digest=True):  # still: another writer may have mended it
                shard.remove()
        features.create(backbone.description(), None if backbone.reward_head is None else backbone.reward_head.numpy())
        forwarded = _forward(backbone, features, plan, todo, options, announce)
        retired = _retired(dataset, sources, incoming, finished)
        _commit_parts(dataset, features, incoming, plan, responses, retired)
    settled = [part for parts in finished.values() for part in parts]
    links = [item for part in settled if (item := dataset.links(part, features.id))]
    after = Dataset(name, dataset.folder)
    report = make_report(after, features, backbone, incoming, plan, todo, forwarded, settled, links)
    return replace(report, seconds=time.monotonic() - start)


def _load(options: EmbedOptions) -> tuple[Backbone, PairTokenizer]:
    backbone = Backbone.load(
        options.backbone,
        dtype=options.dtype,
        device=options.device,
        pooling=options.pooling,
        max_length=options.max_length,
        revision=options.revision,
        trust_remote_code=options.trust_remote_code,
    )
    tokenizing = Tokenizing(
        max_length=backbone.max_length,
        template=options.template,
        overlong=options.overlong,
        context_template=options.context_template,
        date=options.date,
    )
    return backbone, backbone.pair_tokenizer(tokenizing)


def _forward(
    backbone: Backbone,
    features: Features,
    plan: TextPlan,
    todo: list[list[int]],
    options: EmbedOptions,
    announce: Announce,
) -> Forwarded:
    # More threads than cores wait for each other at the end of every product.
    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
    texts = [text for shard in todo for text in shard]
    chosen = choose_pass(
        backbone,
        options.packing,
        options.tokens_per_batch,
        [plan.tokens[text] for text in texts],
        [plan.groups[text] for text in texts],
        announce,
    )
    return forward_shards(chosen, features, plan, todo)


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
