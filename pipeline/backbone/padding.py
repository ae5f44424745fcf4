"""Padding: texts of several lengths as the arguments of one forward, for any architecture.

Letters: B texts of a batch, T tokens of the longest of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from micropref.pipeline.text.tokens import Tokens


def padded(trunk: PreTrainedModel, batch: Sequence[Tokens], side: str, first_position: int) -> dict[str, Tensor]:
    """Return the trunk's arguments, [B, T] each. Padding is known by the mask alone: its id never matters."""
    longest = max(map(len, batch))
    shape = (len(batch), longest)
    ids = torch.full(shape, _padding_id(trunk), dtype=torch.int64)
    mask = torch.zeros(shape, dtype=torch.int64)
    types = torch.zeros(shape, dtype=torch.int64)
    for row, tokens in enumerate(batch):
        span = slice(len(tokens)) if side == "right" else slice(longest - len(tokens), None)
        ids[row, span] = torch.from_numpy(tokens.ids)
        mask[row, span] = 1
        if tokens.type_ids is not None:
            types[row, span] = torch.from_numpy(tokens.type_ids)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if has_segments(trunk):
        inputs["token_type_ids"] = types
    if side == "left" and "position_ids" in inspect.signature(trunk.forward).parameters:
        inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0) + first_position
    return inputs


def has_segments(trunk: PreTrainedModel) -> bool:
    """Return whether a trunk tells the two texts of a pair apart."""
    accepted = inspect.signature(trunk.forward).parameters
    return "token_type_ids" in accepted and getattr(trunk.config, "type_vocab_size", 0) > 1


def _padding_id(trunk: PreTrainedModel) -> int:
    # RoBERTa-like models count positions by their own padding id, so it is used where there is a usable one.
    config = trunk.config.get_text_config()
    own = getattr(config, "pad_token_id", None)
    return own if isinstance(own, int) and 0 <= own < config.vocab_size else 0
