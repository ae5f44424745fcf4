"""Tree attention in stock models of many families, against each text read alone by the model's own attention."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    AutoModel,
    BertConfig,
    BloomConfig,
    DistilBertConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    ModernBertConfig,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
)

from micropref.pipeline.backbone import tree_attention as attention
from micropref.pipeline.backbone.architecture import is_causal, position_offset
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.backbone.checkpoint import Checkpoint
from micropref.pipeline.backbone.pooling import Pooling
from micropref.pipeline.backbone.recipe import Recipe
from micropref.pipeline.backbone.weight_files import RewardHead
from micropref.pipeline.forwarding.choose_pass import choose_pass, objection
from micropref.pipeline.forwarding.passes import PackedPass
from micropref.pipeline.text.tokens import Tokens

VOCABULARY = 64
WINDOW = 12
SHAPE: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48,
    "vocab_size": VOCABULARY, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1,
}  # fmt: skip
GROUPED = {**SHAPE, "num_key_value_heads": 2}
CAUSAL: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: LlamaConfig(**GROUPED),
    "qwen2": lambda: Qwen2Config(**GROUPED, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=2),
    "qwen3": lambda: Qwen3Config(**GROUPED, head_dim=16),
    "mistral": lambda: MistralConfig(**GROUPED, sliding_window=WINDOW),
    "gemma2": lambda: Gemma2Config(**GROUPED, head_dim=8, sliding_window=WINDOW, attn_logit_softcapping=2.0),
    "gemma3": lambda: Gemma3TextConfig(**GROUPED, head_dim=8, sliding_window=WINDOW, sliding_window_pattern=2),
    "phi3": lambda: Phi3Config(**GROUPED, sliding_window=WINDOW),
    "gpt2": lambda: GPT2Config(
        n_embd=32, n_layer=2, n_head=4, vocab_size=VOCABULARY, n_positions=128, bos_token_id=1, eos_token_id=1
    ),
    "neox": lambda: GPTNeoXConfig(**SHAPE),
}
ENCODERS: dict[str, Callable[[], PretrainedConfig]] = {
    "bert": lambda: BertConfig(**SHAPE),
    "roberta": lambda: RobertaConfig(**SHAPE),
    "distilbert": lambda: DistilBertConfig(
        dim=32, n_layers=2, n_heads=4, hidden_dim=48, vocab_size=VOCABULARY, max_position_embeddings=128
    ),
    "modernbert": lambda: ModernBertConfig(
        **SHAPE, local_attention=WINDOW, global_attn_every_n_layers=2, cls_token_id=1, sep_token_id=1
    ),
}
WINDOWED = ["qwen2", "mistral", "gemma2", "gemma3", "phi3", "modernbert"]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def backbone_of(
    config: PretrainedConfig,
    dtype: torch.dtype = torch.float32,
    mode: Any = None,
    device: str = "cpu",
    spread: float = 0.85,
) -> Backbone:
    """A tiny model with weights that spread enough for every token to matter."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config.use_cache = False
        trunk = AutoModel.from_config(config).eval()
        for name, weight in trunk.named_parameters():
            if weight.ndim == 2 and "position" not in name:
                nn.init.normal_(weight, std=spread * config.hidden_size**-0.5)
    causal = is_causal(config)
    where = torch.device(device)
    return Backbone(
        Checkpoint("tiny", None, None),  # type: ignore[arg-type]
        nn.Module.to(trunk, where, dtype), None, causal,  # type: ignore[arg-type]
        Recipe(Pooling(mode or ("last" if causal else "mean"))), where, dtype,
        config.hidden_size, 120, position_offset(trunk), RewardHead(), False,
    )  # fmt: skip


def texts_and_groups() -> tuple[list[Tokens], list[int]]:
    """Three prompts, below and beyond the window, alone and with responses below and beyond it; a fork in a fork."""
    generator = np.random.default_rng(0)

    def draw(length: int) -> np.ndarray:
        return generator.integers(2, VOCABULARY, length).astype(np.int32)

    texts, groups = [], []
    for group, length in enumerate((3, 11, 40)):
        prompt = draw(length)
        tails = [draw(0), draw(1), draw(30), draw(8)]
        tails.append(np.concatenate([tails[2][:20], draw(15)]))
        texts += [Tokens(np.concatenate([prompt, tail])) for tail in tails]
        groups += [group] * len(tails)
    return texts, groups


def embed(backbone: Backbone, texts: list[Tokens], groups: list[int], *, share: bool) -> torch.Tensor:
    vectors = torch.zeros(len(texts), backbone.width)
    for batch in PackedPass(backbone, share=share, tokens_per_batch=150).run(texts, groups):
        vectors[batch.places] = batch.vectors
    return vectors


def alone(backbone: Backbone, texts: list[Tokens]) -> torch.Tensor:
    """Each text through the stock model, by its own attention, no mask and no padding."""
    rows = []
    for text in texts:
        ids = torch.from_numpy(text.ids).long()[None].to(backbone.device)
        with torch.inference_mode():
            hidden = backbone.trunk(input_ids=ids).last_hidden_state[0].float()
        rows.append({"last": hidden[-1], "mean": hidden.mean(0), "cls": hidden[0]}[backbone.pooling.mode].cpu())
    return torch.stack(rows)


def worst(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max())


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("family", CAUSAL)
def test_causal_families_read_trees_as_texts_alone(family: str, share: bool) -> None:
    texts, groups = texts_and_groups()
    exact = backbone_of(CAUSAL[family]())
    assert exact.causal
    assert worst(embed(exact, texts, groups, share=share), alone(exact, texts)) <= 1e-5


@pytest.mark.parametrize("family", CAUSAL)
def test_trees_in_bfloat16_are_as_near_as_its_rounding_allows(family: str) -> None:
    texts, groups = texts_and_groups()
    config = CAUSAL[family]()
    config.hidden_size = 256  # in a narrower one rounding alone moves the vectors of two stock kernels further apart
    short = backbone_of(config, torch.bfloat16, spread=0.32)  # as new models have it
    found, expected = embed(short, texts, groups, share=True), alone(short, texts)
    assert nn.functional.cosine_similarity(found, expected).min() >= 0.9999
    exact = alone(backbone_of(config, spread=0.32), texts)
    assert worst(found, exact) <= 1.3 * worst(expected, exact)


@pytest.mark.parametrize("mode", ["mean", "cls", "last"])
@pytest.mark.parametrize("family", ENCODERS)
def test_encoder_families_read_packs_as_texts_alone(family: str, mode: str) -> None:
    texts, groups = texts_and_groups()
    exact = backbone_of(ENCODERS[family](), mode=mode)
    assert not exact.causal
    assert worst(embed(exact, texts, groups, share=False), alone(exact, texts)) <= 1e-5


def test_the_mean_over_a_causal_path_takes_in_what_is_shared() -> None:
    texts, groups = texts_and_groups()
    backbone = backbone_of(CAUSAL["llama"](), mode="mean")
    assert worst(embed(backbone, texts, groups, share=True), alone(backbone, texts)) <= 1e-5


def test_segments_of_packed_pairs_reach_the_encoder() -> None:
    texts, groups = texts_and_groups()
    typed = [Tokens(text.ids, (np.arange(len(text)) > len(text) // 2).astype(np.int32)) for text in texts]
    backbone = backbone_of(ENCODERS["bert"]())
    expected = torch.cat([backbone.embed([text]) for text in typed])
    assert worst(embed(backbone, typed, groups, share=False), expected) <= 1e-5
    assert worst(embed(backbone, texts, groups, share=False), expected) > 1e-2


@pytest.mark.parametrize("family", WINDOWED)
def test_a_forgotten_window_is_seen_by_the_check(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, groups = texts_and_groups()
    backbone = backbone_of({**CAUSAL, **ENCODERS}[family]())
    chosen = PackedPass(backbone, share=backbone.causal)
    assert objection(chosen, texts, groups) is None
    real = attention.Layout.tiles
    monkeypatch.setattr(attention.Layout, "tiles", lambda self, window, *heads: real(self, None, *heads))
    found = objection(chosen, texts, groups)
    assert found is not None
    assert "differ by up to" in found


def test_a_forgotten_soft_cap_is_seen_by_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    texts, groups = texts_and_groups()
    backbone = backbone_of(CAUSAL["gemma2"]())
    real = attention._tile_by_tile
    monkeypatch.setattr(attention, "_tile_by_tile", lambda *given: real(*given[:-2], 1e4, given[-1]))
    assert "differ by up to" in (objection(PackedPass(backbone, share=True), texts, groups) or "")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=VOCABULARY), "has attention of its own"),
        (
            GptOssConfig(
                **GROUPED, head_dim=8, num_local_experts=2, num_experts_per_tok=1, rope_parameters=None
            ),
            "asks for s_aux",
        ),
        (
            Phi3Config(
                **{**GROUPED, "max_position_embeddings": 128},
                original_max_position_embeddings=64,
                rope_parameters={
                    "rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4,
                    "original_max_position_embeddings": 64, "rope_theta": 1e4,
                },
            ),
            "depend on a text's length beyond 64 tokens, and one text has 75",
        ),
    ],
    ids=["own-attention", "sinks", "longrope"],
)  # fmt: skip
def test_what_cannot_be_followed_is_read_in_padded_batches(config: PretrainedConfig, reason: str) -> None:
    texts, groups = texts_and_groups()
    said: list[str] = []
    assert choose_pass(backbone_of(config), "auto", None, texts, groups, said.append).name == "padded"
    assert len(said) == 1
    assert reason in said[0]


def test_a_model_that_loses_the_layout_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    texts, groups = texts_and_groups()
    backbone = backbone_of(CAUSAL["llama"]())
    forward = backbone.trunk.forward
    monkeypatch.setattr(
        backbone.trunk, "forward", lambda input_ids, position_ids, **_: forward(input_ids, position_ids)
    )
    monkeypatch.setattr("inspect.signature", lambda _: type("S", (), {"parameters": {"position_ids": None}}))
    assert "attention without a layout" in (objection(PackedPass(backbone, share=True), texts, groups) or "")
    # The model's own attention is back in its place, whatever happened.
    assert backbone.trunk.config._attn_implementation != attention.ATTENTION_NAME


def variable_length(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_ends: torch.Tensor,
    key_ends: torch.Tensor,
    longest_query: int,
    longest_key: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> torch.Tensor:
    """What torch documents of its GPU kernel, written out: one segment after the other, both counted from the end."""
    left, right = (10**6 if size < 0 else size for size in window_size)
    assert query.is_contiguous()
    assert (query.shape[1] != key.shape[1]) <= enable_gqa
    assert (query_ends.dtype, key_ends.dtype) == (torch.int32, torch.int32)
    assert longest_query >= int(query_ends.diff().max())
    assert longest_key >= int(key_ends.diff().max())
    out = torch.zeros_like(query)
    shared = query.shape[1] // key.shape[1]
    for (start, stop), (first, last) in zip(pairwise(query_ends.tolist()), pairwise(key_ends.tolist()), strict=True):
        apart = torch.arange(last - first) - (torch.arange(stop - start)[:, None] + (last - first) - (stop - start))
        seen = (apart >= -left) & (apart <= right)
        for head in range(query.shape[1]):
            scores = query[start:stop, head] @ key[first:last, head // shared].T * scale
            weights = scores.masked_fill(~seen, float("-inf")).softmax(1)
            out[start:stop, head] = weights @ value[first:last, head // shared]
    return out


@pytest.mark.parametrize("family", [name for name in (*CAUSAL, *ENCODERS) if name != "gemma2"])
def test_what_the_gpu_kernel_is_given_reads_packs_as_texts_alone(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, groups = texts_and_groups()
    backbone = backbone_of({**CAUSAL, **ENCODERS}[family]())
    called = []
    monkeypatch.setattr(attention, "_has_variable_length", lambda query: True)
    monkeypatch.setattr(attention, "_tile_by_tile", None)
    monkeypatch.setattr(
        "torch.nn.attention.varlen.varlen_attn",
        lambda *given, **how: called.append(1) or variable_length(*given, **how),
    )
    assert worst(embed(backbone, texts, groups, share=backbone.causal), alone(backbone, texts)) <= 1e-5
    assert called


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("family", [*CAUSAL, *ENCODERS])
def test_on_a_gpu_packs_are_read_as_texts_alone(family: str, dtype: torch.dtype) -> None:
    texts, groups = texts_and_groups()
    backbone = backbone_of({**CAUSAL, **ENCODERS}[family](), dtype, device="cuda")
    found, expected = embed(backbone, texts, groups, share=backbone.causal), alone(backbone, texts)
    if dtype is torch.float32:
        assert worst(found, expected) <= 1e-4  # TF32 off; kernels sum in other orders
    assert nn.functional.cosine_similarity(found, expected).min() >= 0.9995
