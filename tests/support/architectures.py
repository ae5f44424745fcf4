"""Tiny models of many families, from their configs: what every pass has to read as each text alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers as hf
from torch import nn

from micropref.pipeline.backbone.architecture import is_causal, position_offset
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.backbone.checkpoint import Checkpoint
from micropref.pipeline.backbone.load_trunk import output_width, uses_half
from micropref.pipeline.backbone.pooling import Pooling
from micropref.pipeline.backbone.recipe import Recipe
from micropref.pipeline.backbone.weight_files import RewardHead
from micropref.pipeline.text.tokens import Tokens

VOCABULARY = 64
WINDOW = 12
_SHAPE: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "vocab_size": VOCABULARY, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1,
}  # fmt: skip
_GROUPED = {**_SHAPE, "num_key_value_heads": 2, "head_dim": 8}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
_LONGROPE = {
    "rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "rope_theta": 1e4,
    "original_max_position_embeddings": 32,
}  # fmt: skip

ARCHITECTURES: dict[str, Callable[[], hf.PretrainedConfig]] = {
    # attention that trees follow
    "llama": lambda: hf.LlamaConfig(**_GROUPED),
    "mistral": lambda: hf.MistralConfig(**_GROUPED, sliding_window=WINDOW),
    "qwen2": lambda: hf.Qwen2Config(**_GROUPED, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1),
    "qwen3": lambda: hf.Qwen3Config(**_GROUPED),
    "gemma2": lambda: hf.Gemma2Config(**_GROUPED, sliding_window=WINDOW, attn_logit_softcapping=2.0),
    "gemma3": lambda: hf.Gemma3TextConfig(**_GROUPED, sliding_window=WINDOW, sliding_window_pattern=2),
    "phi": lambda: hf.PhiConfig(**_SHAPE),
    "phi3": lambda: hf.Phi3Config(**_GROUPED, sliding_window=WINDOW),
    "gpt2": lambda: hf.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=VOCABULARY, n_positions=128, **_ENDS),
    "neox": lambda: hf.GPTNeoXConfig(**_SHAPE),
    "gptj": lambda: hf.GPTJConfig(
        n_embd=32, n_layer=2, n_head=4, vocab_size=VOCABULARY, n_positions=128, rotary_dim=4, **_ENDS
    ),
    "opt": lambda: hf.OPTConfig(**_SHAPE, ffn_dim=48, word_embed_proj_dim=16),
    "stablelm": lambda: hf.StableLmConfig(**_GROUPED),
    "olmo2": lambda: hf.Olmo2Config(**_GROUPED),
    "cohere": lambda: hf.CohereConfig(**_GROUPED),
    "granite": lambda: hf.GraniteConfig(**_GROUPED),
    "starcoder2": lambda: hf.Starcoder2Config(**_GROUPED, sliding_window=WINDOW),
    "glm": lambda: hf.GlmConfig(**_GROUPED),
    "smollm3": lambda: hf.SmolLM3Config(**_GROUPED),
    "mixtral": lambda: hf.MixtralConfig(**_GROUPED, num_local_experts=4),
    "qwen3-moe": lambda: hf.Qwen3MoeConfig(**_GROUPED, **_EXPERTS, num_experts=4),
    "deepseek3": lambda: hf.DeepseekV3Config(
        **_SHAPE, **_EXPERTS, num_key_value_heads=4, n_routed_experts=4, n_group=1, topk_group=1, kv_lora_rank=8,
        q_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=8, first_k_dense_replace=1,
    ),
    # attention of their own: sinks, ALiBi, chunks, positions that depend on the length
    "gpt-oss": lambda: hf.GptOssConfig(
        **_GROUPED, num_local_experts=4, num_experts_per_tok=2, sliding_window=WINDOW, rope_parameters=None
    ),
    "bloom": lambda: hf.BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=VOCABULARY),
    "mpt": lambda: hf.MptConfig(d_model=32, n_heads=4, n_layers=2, vocab_size=VOCABULARY, max_seq_len=128),
    "falcon": lambda: hf.FalconConfig(**_SHAPE, alibi=True),
    "llama4": lambda: hf.Llama4TextConfig(
        **_GROUPED, attention_chunk_size=16, num_local_experts=2, intermediate_size_mlp=48
    ),
    "phi3-longrope": lambda: hf.Phi3Config(**_GROUPED, rope_parameters=_LONGROPE, original_max_position_embeddings=32),
    # states and convolutions along the text
    "mamba": lambda: hf.MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=VOCABULARY, state_size=8),
    "mamba2": lambda: hf.Mamba2Config(
        hidden_size=32, num_hidden_layers=2, vocab_size=VOCABULARY, state_size=8, num_heads=8, head_dim=8, n_groups=2,
        chunk_size=8,
    ),
    "rwkv": lambda: hf.RwkvConfig(
        hidden_size=32, num_hidden_layers=2, vocab_size=VOCABULARY, context_length=128, attention_hidden_size=32,
    ),
    "lfm2": lambda: hf.Lfm2Config(**_GROUPED, full_attn_idxs=[1]),
    "jamba": lambda: hf.JambaConfig(
        **_GROUPED, num_experts=2, attn_layer_offset=1, attn_layer_period=2, mamba_d_state=8, expert_layer_period=2,
        expert_layer_offset=1,
    ),
    "recurrent-gemma": lambda: hf.RecurrentGemmaConfig(
        **_GROUPED, lru_width=32, attention_window_size=WINDOW, block_types=["recurrent", "attention"]
    ),
    "falcon-h1": lambda: hf.FalconH1Config(
        **_GROUPED, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_n_groups=1, mamba_d_state=8,
        mamba_chunk_size=8,
    ),
    "qwen3-next": lambda: hf.Qwen3NextConfig(
        **_GROUPED, **_EXPERTS, num_experts=4, shared_expert_intermediate_size=16, linear_num_key_heads=2,
        linear_num_value_heads=2, linear_key_head_dim=8, linear_value_head_dim=8,
        layer_types=["linear_attention", "full_attention"],
    ),
    # encoders
    "bert": lambda: hf.BertConfig(**_SHAPE),
    "roberta": lambda: hf.RobertaConfig(**{**_SHAPE, "pad_token_id": 1}),
    "xlm-roberta": lambda: hf.XLMRobertaConfig(**{**_SHAPE, "pad_token_id": 1}),
    "distilbert": lambda: hf.DistilBertConfig(
        dim=32, n_layers=2, n_heads=4, hidden_dim=48, vocab_size=VOCABULARY, max_position_embeddings=128
    ),
    "modernbert": lambda: hf.ModernBertConfig(
        **_SHAPE, local_attention=WINDOW, global_attn_every_n_layers=2, cls_token_id=1, sep_token_id=1
    ),
    "electra": lambda: hf.ElectraConfig(**_SHAPE, embedding_size=16),
    "albert": lambda: hf.AlbertConfig(**_SHAPE, embedding_size=16),
    "mpnet": lambda: hf.MPNetConfig(**{**_SHAPE, "pad_token_id": 1}),
    "nomic": lambda: hf.NomicBertConfig(**_SHAPE),
    "gemma3-encoder": lambda: hf.Gemma3TextConfig(
        **_GROUPED, use_bidirectional_attention=True, sliding_window=WINDOW
    ),
    "deberta2": lambda: hf.DebertaV2Config(
        **_SHAPE, relative_attention=True, pos_att_type=["c2p", "p2c"], position_biased_input=False,
        position_buckets=8, max_relative_positions=-1,
    ),
    "t5-encoder": lambda: hf.T5Config(vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4),
    "xlnet": lambda: hf.XLNetConfig(vocab_size=VOCABULARY, d_model=32, n_layer=2, n_head=4, d_inner=48),
    "fnet": lambda: hf.FNetConfig(
        hidden_size=32, num_hidden_layers=2, intermediate_size=48, vocab_size=VOCABULARY, max_position_embeddings=128
    ),
    "convbert": lambda: hf.ConvBertConfig(**_SHAPE, embedding_size=32, head_ratio=2, conv_kernel_size=3),
    "big-bird": lambda: hf.BigBirdConfig(
        **_SHAPE, block_size=4, num_random_blocks=1, attention_type="block_sparse", sep_token_id=2
    ),
    "longformer": lambda: hf.LongformerConfig(**{**_SHAPE, "pad_token_id": 1}, attention_window=8),
}  # fmt: skip
_ENDS = {"bos_token_id": 1, "eos_token_id": 1}


def tiny(config: hf.PretrainedConfig, spread: float = 0.85) -> Backbone:
    """Return a model with random weights that spread enough for every token to matter."""
    config.use_cache = False
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kind = hf.AutoModelForTextEncoding if uses_half(config) else hf.AutoModel
        trunk = kind.from_config(config).eval()
        for name, weight in trunk.named_parameters():
            if weight.ndim == 2 and "position" not in name:
                nn.init.normal_(weight, std=spread * config.hidden_size**-0.5)
    if hasattr(trunk, "set_attention_type"):
        trunk.set_attention_type("original_full")
    causal = is_causal(config)
    return Backbone(
        Checkpoint("tiny", None, None), trunk, None, causal, Recipe(Pooling("last" if causal else "mean")),  # type: ignore[arg-type]
        torch.device("cpu"), torch.float32, output_width("tiny", trunk), 120, position_offset(trunk), RewardHead(),
        False,
    )  # fmt: skip


def texts_and_groups() -> tuple[list[Tokens], list[int]]:
    """Return three prompts, below and beyond a window, alone and with responses below and beyond it."""
    generator = np.random.default_rng(0)

    def draw(length: int) -> np.ndarray:
        return generator.integers(3, VOCABULARY, length).astype(np.int32)

    texts, groups = [], []
    for group, length in enumerate((3, 11, 40)):
        prompt = draw(length)
        tails = [draw(0), draw(1), draw(30), draw(8)]
        tails.append(np.concatenate([tails[2][:20], draw(15)]))
        texts += [Tokens(np.concatenate([prompt, tail])) for tail in tails]
        groups += [group] * len(tails)
    return texts, groups


def alone(backbone: Backbone, texts: list[Tokens]) -> torch.Tensor:
    """Return what the stock model gives for each text by itself: its own attention, no mask, no padding."""
    rows = []
    for text in texts:
        with torch.inference_mode():
            hidden = backbone.trunk(input_ids=torch.from_numpy(text.ids).long()[None]).last_hidden_state[0]
        rows.append(hidden[-1] if backbone.pooling.mode == "last" else hidden.mean(0))
    return torch.stack(rows)


def worst(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference of two vectors, relative to the length of the second."""
    return float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max())
