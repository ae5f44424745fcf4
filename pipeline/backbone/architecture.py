"""What a backbone's config says of it: causal or encoder, how wide, how long a text may be."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PretrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

LONGEST = 4096
"""Default limit of a text in tokens, where the backbone would take more."""
_POSITION_FIELDS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length")
_WINDOW_FIELDS = ("sliding_window", "local_attention", "attention_window", "attention_chunk_size")
_LENGTH_DEPENDENT = ("dynamic", "longrope")
_CAUSAL_CLASSES = ("ForCausalLM", "LMHeadModel")


def is_causal(config: PretrainedConfig) -> bool:
    """Return whether a token sees only those before it, so that the last one has seen the whole text.

    In this order: a config that says it attends both ways is an encoder; a family known to transformers for masked
    language modelling (BERT-like models, some of which can also decode) is causal only as a decoder; one known for
    causal language modelling only is causal; any other (code of its own) is what its class is called.
    """
    text = config.get_text_config()
    if getattr(text, "is_causal", None) is False or getattr(text, "use_bidirectional_attention", None) is True:
        return False
    if text.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return bool(getattr(text, "is_decoder", False))
    if text.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return True
    code: dict[str, Any] = getattr(config, "auto_map", None) or {}
    return "AutoModelForCausalLM" in code or any(name.endswith(_CAUSAL_CLASSES) for name in config.architectures or ())


def position_offset(trunk: nn.Module) -> int:
    """Return the position of a text's first token: 0, but padding id + 1 for RoBERTa-like models."""
    for name, module in trunk.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return 0 if module.padding_idx is None else module.padding_idx + 1
    return 0


def position_limit(config: PretrainedConfig, offset: int) -> int | None:
    """Return the most tokens that the backbone's positions take; None where they have no end."""
    text = config.get_text_config()
    limits = [getattr(text, field, None) for field in _POSITION_FIELDS]
    return next((int(limit) - offset for limit in limits if limit), None)


def fixed_positions(config: PretrainedConfig) -> int | None:
    """Return the longest text up to which a token's position means the same in every text; None: in all texts.

    Beyond it rotary embeddings of some kinds turn all tokens of a batch by what its longest text needs.
    """
    text = config.get_text_config()
    own: dict[str, Any] = getattr(text, "rope_parameters", None) or {}
    kinds = [own, *(kind for kind in own.values() if isinstance(kind, dict))]
    limits = [
        kind.get("original_max_position_embeddings") or text.max_position_embeddings
        for kind in kinds
        if kind.get("rope_type") in _LENGTH_DEPENDENT
    ]
    return min(map(int, limits), default=None)


def length_limits(config: PretrainedConfig) -> list[int]:
    """Return the lengths beyond which a backbone reads texts in another way: its windows, and its fixed positions."""
    text = config.get_text_config()
    limits = [getattr(text, field, None) for field in _WINDOW_FIELDS]
    return [limit for limit in (*limits, fixed_positions(config)) if isinstance(limit, int)]
