"""How a data set's texts are read: the backbone and its tokenizer, checked before the pass, as the data set began."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from micropref.cache.datasets import Dataset
from micropref.cache.errors import MicroprefError
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.opening import open_features, planned_features
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.backbone.checkpoint import find_checkpoint
from micropref.pipeline.embedding.shard_plan import TextPlan
from micropref.pipeline.forwarding.engines.base import Engine
from micropref.pipeline.forwarding.options import EmbedOptions
from micropref.pipeline.options import OnBad, Responses
from micropref.pipeline.progress import Announce
from micropref.pipeline.sources.pairs import PreferencePair
from micropref.pipeline.text.tokenizer import PairTokenizer, Tokenizing

_READING = ("pooling", "special_tokens_behind", "text_prompt", "lower_case")
"""Settings by which an embedding model's own recipe differs from what version 0.1.0 read."""


def load_reading(
    store: StoreFolder,
    dataset: Dataset,
    options: EmbedOptions,
    engine: Engine,
    announce: Announce,
    *,
    plan_only: bool,
) -> tuple[Backbone, PairTokenizer, EmbedOptions]:
    """Return the backbone, its tokenizer, and the options by which workers load the same.

    Under pooling `auto` an embedding model's own recipe is followed, but a data set that began without it goes on
    without. Raises BadInput where the checkpoint cannot be used.
    """
    if not plan_only and not engine.in_process:  # the workers load what the features id is made of
        find_checkpoint(options.backbone, options.revision)
    backbone = options.load(weights=engine.in_process and not plan_only)
    for note in backbone.notes:
        announce(note)
    if not backbone.recipe.own:
        return backbone, _kept_tokenizer(store, dataset, backbone, options, announce), options
    before = backbone.read_as_first_release()
    own, old = (_reading(one, _tokenizer(one, options)) for one in (backbone, before))
    if _began_as(store, dataset, backbone, old, own):
        announce(
            f"data set {dataset.name!r} was made without the embedding model's own recipe, and goes on so: a new data "
            f"set gets it ({backbone.recipe.describe()})"
        )
        kept = replace(options, pooling="last") if backbone.causal else options
        return before, _kept_tokenizer(store, dataset, before, kept, announce), kept
    announce(f"backbone {backbone.checkpoint.name}: an embedding model's own recipe: {backbone.recipe.describe()}")
    return backbone, _kept_tokenizer(store, dataset, backbone, options, announce), options


def vector_settings(backbone: Backbone, tokenizer: PairTokenizer, options: EmbedOptions) -> dict[str, Any]:
    """Return everything that changes a vector."""
    settings = {**backbone.settings(), **tokenizer.settings(), "width": backbone.width}
    halves = "float32" if settings["dtype"] == "float32" else "float16"
    return {**settings, "store_dtype": halves if options.store_dtype == "auto" else options.store_dtype}


def check_tokens(
    tokenizer: PairTokenizer,
    pairs: Sequence[PreferencePair],
    responses: Responses,
    contexts: Sequence[str],
    backbone: str,
    on_bad: OnBad,
    announce: Announce,
) -> None:
    """Tokenize all texts before the pass where the tokenizer makes ids that the backbone's embedding has no row for.

    Raises BadInput naming the first row with such a token, unless such rows are set aside.
    """
    strangers = tokenizer.strangers
    if not strangers:
        return
    several = f"{len(strangers):,} tokens, such as {strangers[0]!r}," if len(strangers) > 1 else repr(strangers[0])
    announce(f"warning: backbone {backbone}: its tokenizer has {several} for which its embedding has no row")
    for _ in TextPlan(pairs, tokenizer, "", responses, contexts, on_bad=on_bad).shards():
        pass


def _kept_tokenizer(
    store: StoreFolder, dataset: Dataset, backbone: Backbone, options: EmbedOptions, announce: Announce
) -> PairTokenizer:
    """Return the tokenizer of these options; a data set keeps its policy of special tokens unless one is asked for."""
    tokenizer = _tokenizer(backbone, options)
    if options.special_tokens != "auto":
        return tokenizer
    linked = dataset.linked_features()
    older = _tokenizer(backbone, replace(options, special_tokens="keep"))
    now, before = (planned_features(store, vector_settings(backbone, one, options)).id for one in (tokenizer, older))
    if now in linked or before not in linked:
        return tokenizer
    announce(
        f"data set {dataset.name!r} keeps its features {before}, to which special tokens that users typed are control "
        "tokens; `special_tokens` text reads them as text, in features of their own"
    )
    return older


def _tokenizer(backbone: Backbone, options: EmbedOptions) -> PairTokenizer:
    return backbone.pair_tokenizer(
        Tokenizing(
            max_length=backbone.max_length,
            template=options.template,
            overlong=options.overlong,
            context_template=options.context_template,
            date=options.date,
            special_tokens=options.special_tokens,
        )
    )


def _reading(backbone: Backbone, tokenizer: PairTokenizer) -> dict[str, Any]:
    found = {**backbone.settings(), **tokenizer.settings()}
    return {name: found.get(name) for name in (*_READING, "template")}


def _began_as(
    store: StoreFolder, dataset: Dataset, backbone: Backbone, old: dict[str, Any], own: dict[str, Any]
) -> bool:
    """Say whether the data set has vectors of this backbone by the `old` reading, and none by its `own`."""
    differ = [name for name in _READING if old[name] != own[name]] or [name for name in own if old[name] != own[name]]
    if not differ:
        return False
    found = [_settings(store, features_id) for features_id in dataset.linked_features()]
    model = backbone.settings()
    same = ("tokenizer", "checkpoint") if backbone.checkpoint.has_weights else ("tokenizer",)
    found = [one for one in found if all(one.get(name) == model[name] for name in same)]
    return _any_is(found, old, differ) and not _any_is(found, own, differ)


def _any_is(found: Sequence[dict[str, Any]], reading: dict[str, Any], names: Sequence[str]) -> bool:
    return any(all(one.get(name) == reading[name] for name in names) for one in found)


def _settings(store: StoreFolder, features_id: str) -> dict[str, Any]:
    try:
        return open_features(store, features_id).settings
    except MicroprefError:  # damaged or gone, which others report
        return {}
