"""Loading a checkpoint's trunk and tokenizer with transformers, and what has to be right before anything is read."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForTextEncoding,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES

from micropref.cache.errors import BadInput
from micropref.pipeline.backbone.adapter import load_merged
from micropref.pipeline.backbone.checkpoint import Checkpoint
from micropref.pipeline.backbone.loading import loading
from micropref.pipeline.backbone.matmul import fast_products
from micropref.pipeline.backbone.weight_files import check_names_and_shapes, check_not_quantised

_LOADING_ERRORS = (OSError, ValueError, KeyError, AttributeError, ImportError, RuntimeError, TypeError, SafetensorError)
_UNUSED_WEIGHTS = ("pooler.",)
"""Weights a checkpoint may lack: they come after the hidden states."""
_TOKENIZERS = ("tokenizer*", "vocab*", "*.model", "spiece*", "merges.txt", "*.tiktoken", "tokenization_*.py")
FULL_ATTENTION = "original_full"
"""What big_bird falls back to for short texts, and then keeps to for all that follow."""


def load_parts(
    checkpoint: Checkpoint, dtype: torch.dtype, *, trust_remote_code: bool, weights: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the trunk in evaluation mode and the tokenizer; without `weights` an outline on the meta device.

    Raises BadInput where they cannot be loaded, or the weights are not those of the trunk.
    """
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    trunk: Any
    try:
        with loading():
            config = AutoConfig.from_pretrained(checkpoint.folder, **options)
            check_not_quantised(config, checkpoint.name)
            kind = _model_class(config, checkpoint.name)
            config.use_cache = False
            _check_tokenizer_files(checkpoint)
            tokenizer = AutoTokenizer.from_pretrained(checkpoint.tokenizer_folder, **options)
            # Code of its own may be such that only a plan needs an outline of it.
            with suppress(*_LOADING_ERRORS) if weights else nullcontext(), torch.device("meta"):
                trunk = kind.from_config(config, dtype=dtype, **options)
                check_names_and_shapes(checkpoint.folder, checkpoint.name, trunk)
            if weights:
                trunk = _with_weights(checkpoint, kind, config, dtype, options)
    except (*_LOADING_ERRORS, StrictDataclassError) as error:
        reason = str(error).strip().partition("\n")[0]
        if isinstance(error, StrictDataclassError):  # which names the field in one line, and what is wrong in the next
            reason = " ".join(str(error).split())
        raise BadInput(
            f"backbone {checkpoint.name}: transformers cannot load {checkpoint.folder} "
            f"({type(error).__name__}: {reason})"
        ) from None
    _check_tokenizer(checkpoint, tokenizer)
    if hasattr(trunk, "set_attention_type"):  # else the first short text would change how all others are read
        trunk.set_attention_type(FULL_ATTENTION)
    return trunk.eval(), tokenizer


def _with_weights(
    checkpoint: Checkpoint, kind: Any, config: PretrainedConfig, dtype: torch.dtype, options: dict[str, Any]
) -> PreTrainedModel:
    asked = {**options, "config": config, "dtype": dtype, "use_safetensors": True, "output_loading_info": True}
    if checkpoint.adapter is None:
        trunk, report = kind.from_pretrained(checkpoint.folder, **asked)
    else:
        trunk, report = load_merged(checkpoint.folder, checkpoint.adapter, checkpoint.name, **asked)
    _check_report(checkpoint, trunk, report)
    assert isinstance(trunk, PreTrainedModel)
    return trunk


def uses_half(config: PretrainedConfig) -> bool:
    """Return whether only the encoder of an encoder-decoder is read."""
    return MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES.get(config.model_type, "").endswith("EncoderModel")


def output_width(name: str, trunk: PreTrainedModel) -> int:
    """Return the width of the hidden states that a trunk gives, found by reading a few tokens.

    Raises BadInput where it gives none for each token. Not every outline can be tried: such a one is as wide as its
    config says.
    """
    if trunk.main_input_name != "input_ids":
        raise BadInput(
            f"backbone {name}: {type(trunk).__name__} reads {trunk.main_input_name}: expected a causal model or an "
            "encoder of text"
        )
    outline = trunk.device.type == "meta"
    ids = torch.arange(4, device=trunk.device)[None]
    mask = {} if outline else {"attention_mask": torch.ones_like(ids)}
    try:
        with torch.inference_mode(), fast_products(torch.float32):
            hidden = trunk(input_ids=ids, **mask).last_hidden_state
    except _LOADING_ERRORS as error:
        declared = getattr(trunk.config.get_text_config(), "hidden_size", None)
        if outline and isinstance(declared, int):
            return declared
        reason = str(error).strip().partition("\n")[0]
        raise BadInput(
            f"backbone {name}: {type(trunk).__name__} cannot read token ids alone ({type(error).__name__}: {reason}): "
            "expected a causal model or an encoder of text"
        ) from None
    if hidden.ndim != 3 or hidden.shape[:2] != ids.shape:
        raise BadInput(
            f"backbone {name}: {type(trunk).__name__} gives hidden states {list(hidden.shape)} for a text of 4 tokens: "
            "expected one for each token"
        )
    if not outline and not hidden.isfinite().any():
        raise BadInput(
            f"backbone {name}: {type(trunk).__name__} makes no number but NaN of a text: its weights are broken, or "
            "too large for the compute dtype; try float32"
        )
    return int(hidden.shape[2])


def _model_class(config: PretrainedConfig, name: str) -> Any:
    if uses_half(config):
        return AutoModelForTextEncoding
    if not config.is_encoder_decoder:
        return AutoModel
    raise BadInput(
        f"backbone {name}: {config.model_type} is an encoder-decoder whose encoder is not read by itself; expected a "
        "causal model or an encoder"
    )


def _check_report(checkpoint: Checkpoint, trunk: PreTrainedModel, report: dict[str, Any]) -> None:
    """Raise BadInput where weights of the trunk are missing: they would be random."""
    missing = sorted(key for key in report["missing_keys"] if not key.startswith(_UNUSED_WEIGHTS))
    if not missing:
        return
    others = sorted(report["unexpected_keys"])
    there = f"; what is there has other names ({others[0]}, ...)" if others else ""
    raise BadInput(
        f"backbone {checkpoint.name}: its safetensors lack {len(missing)} weights of a {type(trunk).__name__} "
        f"({missing[0]}, ...){there}: expected a complete checkpoint"
    )


def _check_tokenizer_files(checkpoint: Checkpoint) -> None:
    folder = checkpoint.tokenizer_folder
    if not any(path.is_file() for pattern in _TOKENIZERS for path in folder.glob(pattern)):
        raise BadInput(
            f"backbone {checkpoint.name}: no tokenizer in {folder}: expected tokenizer.json; save the model's "
            "tokenizer there with save_pretrained"
        )


def _check_tokenizer(checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise BadInput where a tokenizer has no words: without its files transformers makes an empty one."""
    if not tokenizer("a b", add_special_tokens=False)["input_ids"]:
        raise BadInput(
            f"backbone {checkpoint.name}: the tokenizer in {checkpoint.tokenizer_folder} makes no token of a text: "
            "expected tokenizer.json, or the files that transformers makes one of"
        )
