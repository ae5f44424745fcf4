"""What a backbone's config and modules say: causal or encoder, how long a text may be, what may be read together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

from torch import nn
from transformers import PretrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

LONGEST = 4096
"""Default limit of a text in tokens, where the backbone would take more."""
_POSITION_FIELDS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length")
_POSITION_TABLES = ("position_embeddings", "wpe")
_WINDOW_FIELDS = ("sliding_window", "local_attention", "attention_window", "attention_chunk_size")
_LENGTH_DEPENDENT = ("dynamic", "longrope")
_GROWING = "dynamic"
"""Rotary embedding that turns the tokens of a batch by the exact length of its longest text."""
_NO_LIMIT = 10**7
"""Positions beyond this are a placeholder for "no limit", such as the 1e30 of tokenizers."""
_ATTENTION_LAYERS = ("full_attention", "sliding_attention", "chunked_attention")
_CAUSAL_CLASSES = ("ForCausalLM", "LMHeadModel")


def is_causal(config: PretrainedConfig) -> bool:
    """Return whether a token sees only those before it, so that the last one has seen the whole text.

    In this order: a config that says it attends both ways is an encoder; a family known to transformers for masked
    language modelling (BERT-like models, some of which can also decode) is causal only as a decoder; one known for
    causal language modelling only is causal; any other (code of its own) is what its class is called.
    """
    text = config.get_text_config()
    if config.is_encoder_decoder:  # of which only the encoder is read
        return False
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


def position_limit(config: PretrainedConfig, trunk: nn.Module, offset: int) -> int | None:
    """Return the most tokens that the backbone's positions take; None where they have no end.

    A limit that is missing, not positive (-1 is how some configs say "none") or absurdly large is none. A learned
    table of positions ends where it ends, whatever the config says.
    """
    text = config.get_text_config()
    named = [getattr(text, field, None) for field in _POSITION_FIELDS]
    own = next((int(limit) for limit in named if _is_limit(limit)), None)
    tables = [
        module.num_embeddings
        for name, module in trunk.named_modules()
        if name.endswith(_POSITION_TABLES) and "relative" not in name and isinstance(module, nn.Embedding)
    ]
    limits = [limit - offset for limit in (own, *tables) if limit is not None]
    return min(limits, default=None)


def limit_note(config: PretrainedConfig) -> str | None:
    """Return what to say of a config whose position limit is no number that a text could have; None: nothing."""
    text = config.get_text_config()
    for field in _POSITION_FIELDS:
        limit = getattr(text, field, None)
        if limit is not None and not _is_limit(limit):
            return f"{field} {limit!r} is no limit: texts may have {LONGEST:,} tokens, or what max length says"
    return None


def _is_limit(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 1 <= value <= _NO_LIMIT


def fixed_positions(config: PretrainedConfig) -> int | None:
    """Return the longest text up to which a token's position means the same in every text; None: in all texts.

    Beyond it rotary embeddings of some kinds turn all tokens of a batch by what its longest text needs.
    """
    limits = [limit for _, limit in _length_dependent(config)]
    return min(limits, default=None)


def readable_together(config: PretrainedConfig, lengths: Sequence[int]) -> list[list[int]]:
    """Return which texts may share a forward, as places in `lengths`: every text in exactly one group, in order.

    Rotary embeddings of some kinds turn all tokens of a batch by what its longest text needs: texts on both sides of
    the limit of such a kind never meet, and where it grows with the length only texts of one length do.
    """
    kinds = _length_dependent(config)
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, length in enumerate(lengths):
        beyond = [(length if kind == _GROWING else 1) if length > limit else 0 for kind, limit in kinds]
        groups.setdefault(tuple(beyond), []).append(place)
    return list(groups.values())


def grows_with_length(config: PretrainedConfig) -> bool:
    """Return whether the rotary embedding remembers the longest text that it has read."""
    return any(kind == _GROWING for kind, _ in _length_dependent(config))


def _length_dependent(config: PretrainedConfig) -> list[tuple[str, int]]:
    """Return the kind and the limit of each rotary embedding that depends on a text's length beyond it."""
    text = config.get_text_config()
    own: dict[str, Any] = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    kinds = [own, *(kind for kind in own.values() if isinstance(kind, dict))]
    found = []
    for kind in kinds:
        name = kind.get("rope_type") or kind.get("type")
        limit = kind.get("original_max_position_embeddings") or getattr(text, "original_max_position_embeddings", None)
        limit = limit or getattr(text, "max_position_embeddings", None)
        if name in _LENGTH_DEPENDENT and _is_limit(limit):
            found.append((str(name), int(limit)))
    return found


def length_limits(config: PretrainedConfig) -> list[int]:
    """Return the lengths beyond which a backbone reads texts in another way: its windows, and its fixed positions."""
    text = config.get_text_config()
    limits = [getattr(text, field, None) for field in _WINDOW_FIELDS]
    return [limit for limit in (*limits, fixed_positions(config)) if isinstance(limit, int)]


def carries_state(trunk: nn.Module) -> str | None:
    """Return what hands a state from each row to the next, whoever's row that is; None: only attention links tokens.

    A recurrence or a convolution along the text goes by rows. It would mix the texts of a pack or a tree, by so little
    at times that a comparison in 16 bits does not see it.
    """
    config = trunk.config.get_text_config()  # type: ignore[union-attr, operator]
    for module in trunk.modules():
        along = isinstance(module, nn.Conv1d) and max(module.kernel_size) > 1
        if along or isinstance(module, nn.ZeroPad2d):  # RWKV moves rows on by padding
            return "a convolution along the text" if along else "a state from token to token"
    other = [kind for kind in getattr(config, "layer_types", None) or () if kind not in _ATTENTION_LAYERS]
    return f"layers of the kind {other[0]}" if other else None
