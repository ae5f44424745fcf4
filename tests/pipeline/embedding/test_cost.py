"""Prices of embedding passes against numbers worked by hand and a loop that pads."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from micropref.cache.errors import BadInput
from micropref.cache.store import StoreFolder
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.backbone.checkpoint import find_checkpoint
from micropref.pipeline.embedding.cost import DEVICES, forward_flops, padded_tokens
from micropref.pipeline.embedding.embed import embed
from micropref.pipeline.embedding.embed_report import EmbedReport
from micropref.pipeline.forwarding.options import EmbedOptions
from micropref.pipeline.forwarding.shards import Demand, Shard
from micropref.pipeline.sources.ingest import SourceOptions
from micropref.pipeline.text.tokens import Tokens

Plan = Callable[..., EmbedReport]
PAIRS = [{"prompt": "ab", "chosen": "x", "rejected": "yz"}, {"prompt": "abcd", "chosen": "x", "rejected": "y"}]
LLAMA = 2 * (1024 + 512 + 512 + 1024 + 3 * 32 * 64 + 2 * 32) + 32
"""Parameters of the tiny llama: query, key, value, output, three matrices of the MLP, norms; the last norm."""
BERT = 2 * (4 * (1024 + 32) + 64 + (2048 + 64) + (2048 + 32) + 64) + 64 + (1024 + 32)
"""Those of the tiny bert: attention, norm, two matrices, norm; the norm of the embeddings; the pooler."""


@pytest.fixture
def plan(store: StoreFolder, tiny_backbone: Callable[..., Path], write_rows: Callable[..., Path]) -> Plan:
    """Return `plan(rows, kind="llama", write=False, ...)`: the report of `embed --plan`, or of `embed`."""

    def run(rows: list[dict[str, Any]], kind: str = "llama", *, write: bool = False, **options: Any) -> EmbedReport:
        sources = SourceOptions(split_by_prompt=options.pop("split_by_prompt", None))
        backbone = EmbedOptions(backbone=str(tiny_backbone(kind)), dtype="float32", **options)
        return embed(store, [write_rows(rows)], "mine", sources, backbone, plan_only=not write)

    return run


def test_a_causal_backbone_by_hand(plan: Plan) -> None:
    report = plan(PAIRS)
    assert report.price is not None
    # <s>ab, <s>ab\n\n x, <s>ab\n\n yz: 5 + 1 + 2 distinct tokens; <s>abcd\n\n x, y: 7 + 1 + 1.
    assert report.tokens_unique == 8 + 9
    contexts = (1 + 2 + 3 + 4 + 5 + 6 + 6 + 7) + (1 + 2 + 3 + 4 + 5 + 6 + 7 + 8 + 8)
    assert report.forward_flops == 2 * LLAMA * 17 + 4 * 2 * 32 * contexts
    # One batch a pass: prompts of 3 and 5 tokens, chosen of 6 and 8, rejected of 7 and 8.
    assert report.price.padded_tokens == 2 * (5 + 8 + 8)
    assert report.store_bytes == 6 * (32 * 4 + 16)


def test_an_encoder_by_hand(plan: Plan) -> None:
    report = plan(PAIRS[:1], "bert")
    assert report.price is not None
    # [CLS]ab[SEP], [CLS]ab[SEP]x[SEP], [CLS]ab[SEP]yz[SEP], every token of a text sees all of it.
    assert report.tokens_unique == report.price.padded_tokens == 4 + 6 + 7
    assert report.forward_flops == 2 * BERT * 17 + 4 * 2 * 32 * (16 + 36 + 49)


@pytest.mark.parametrize("seed", range(5))
def test_each_distinct_prefix_sees_its_own_length(seed: int) -> None:
    generator = np.random.default_rng(seed)
    groups = np.sort(generator.integers(0, 3, 12)).tolist()
    tokens = [Tokens(generator.integers(0, 2, generator.integers(1, 8)).astype(np.int32)) for _ in groups]
    shard = Shard(0, [], tokens, groups, [], np.zeros((2, 0), dtype=np.int64), True)
    ends = [(group, text.ids.tolist(), end) for group, text in zip(groups, tokens, strict=True) for end in range(8)]
    prefixes = {(group, tuple(ids[:end])) for group, ids, end in ends}
    prefixes = {(group, prefix) for group, prefix in prefixes if prefix}
    found, encoder = shard.demand, replace(shard, causal=False).demand
    assert (found.tokens, found.seen) == (len(prefixes), sum(len(prefix) for _, prefix in prefixes))
    assert (encoder.tokens, encoder.seen) == (sum(map(len, tokens)), sum(len(text) ** 2 for text in tokens))


def test_attention_is_as_wide_as_its_heads(make_backbone: Callable[..., Path]) -> None:
    backbone = Backbone.load(str(make_backbone("llama", head_dim=16)), dtype="float32")
    assert forward_flops(backbone, Demand(0, 0, 10)) == 4 * 2 * (4 * 16) * 10


def test_hours_are_flops_by_what_a_device_reaches(plan: Plan) -> None:
    report = plan(PAIRS)
    price = report.price
    assert price is not None
    assert price.utilisation == 0.4
    for device in DEVICES:
        assert price.hours[device.name] * 3600 * device.tflops * 0.4e12 == pytest.approx(report.forward_flops)
    assert price.hours["H100 SXM"] == price.hours["H200"] < price.hours["A100"] < price.hours["RTX 4090"]


@pytest.mark.parametrize("pairs", [0, 1, 15, 16, 17, 50])
def test_padding_is_that_of_a_loop(pairs: int) -> None:
    lengths = np.random.default_rng(pairs).integers(1, 100, (3, pairs))
    expected = 0
    for texts in lengths.tolist():
        for start in range(0, pairs, 16):
            batch = texts[start : start + 16]
            expected += len(batch) * max(batch)
    assert padded_tokens(lengths) == expected


def test_more_pairs_cost_more_and_repeated_ones_cost_the_loop_alone(plan: Plan, rows: list[dict[str, Any]]) -> None:
    some, more, twice = (plan(chosen) for chosen in (rows[:30], rows[:60], rows[:30] * 2))
    assert some.price is not None
    assert more.price is not None
    assert twice.price is not None
    assert some.tokens_unique < some.price.padded_tokens
    assert some.tokens_unique < more.tokens_unique
    assert some.forward_flops < more.forward_flops
    assert all(some.price.hours[name] < hours for name, hours in more.price.hours.items())
    assert (twice.tokens_unique, twice.forward_flops) == (some.tokens_unique, some.forward_flops)
    assert twice.price.padded_tokens > 1.9 * some.price.padded_tokens


@pytest.mark.parametrize("responses", ["plain", "context"])
def test_what_is_stored_is_free_but_a_loop_reads_it_again(
    plan: Plan, rows: list[dict[str, Any]], responses: str
) -> None:
    overlong = {"prompt": "p", "chosen": "x" * 300, "rejected": "no", "context": "c"}
    chosen: dict[str, Any] = {"responses": responses, "split_by_prompt": 0.3}
    before = plan([*rows, overlong], **chosen)
    assert plan([*rows, overlong], write=True, **chosen).price is None
    after = plan([*rows, overlong], **chosen)
    assert before.price is not None
    assert after.price is not None
    assert (after.tokens_unique, after.forward_flops, set(after.price.hours.values())) == (0, 0, {0})
    assert after.price.padded_tokens == before.price.padded_tokens > before.tokens_unique
    assert after.store_bytes == before.store_bytes


def test_a_plan_needs_no_weights(
    store: StoreFolder,
    make_backbone: Callable[..., Path],
    write_rows: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = make_backbone("llama")
    options = EmbedOptions(backbone=str(folder), dtype="float32")
    arguments: Any = (store, [write_rows(PAIRS)], "mine", SourceOptions(), options)
    whole = embed(*arguments, plan_only=True)
    monkeypatch.setattr("micropref.pipeline.backbone.load_trunk.AutoModel.from_pretrained", None)
    monkeypatch.setattr("micropref.pipeline.backbone.weight_files._SMALL", 0)
    assert embed(*arguments, plan_only=True).features == whole.features  # nothing loads weights that are not small
    for path in folder.glob("*.safetensors"):
        path.unlink()
    outline = embed(*arguments, plan_only=True)
    assert outline.price == whole.price
    assert outline.forward_flops == whole.forward_flops > 0
    assert whole.features
    assert outline.features == ""  # it depends on weights that are not here
    with pytest.raises(BadInput, match=r"no \*\.safetensors in"):
        embed(*arguments)


def test_a_plan_fetches_no_weights(
    store: StoreFolder,
    make_backbone: Callable[..., Path],
    write_rows: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = make_backbone("llama")
    fetched: list[list[str]] = []

    def fetch(name: str, *, ignore_patterns: list[str], **_: Any) -> str:
        fetched.append(ignore_patterns)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    options = EmbedOptions(backbone="owner/model", dtype="float32")
    arguments: Any = (store, [write_rows(PAIRS)], "mine", SourceOptions(), options)
    assert embed(*arguments, plan_only=True).features == embed(*arguments).features
    assert fetched == [["*.safetensors"], ["*/*.safetensors"]]


def test_a_download_that_stopped_is_not_taken_for_the_weights(make_backbone: Callable[..., Path]) -> None:
    folder = make_backbone("llama")
    checkpoint = find_checkpoint(str(folder))
    assert checkpoint.has_weights
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert not checkpoint.has_weights
    (folder / "model-2.safetensors").touch()
    assert checkpoint.has_weights
