"""What a config says of positions, and who may be read together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, GPT2Config, LlamaConfig, MambaConfig, Phi3Config, PretrainedConfig, XLNetConfig

from micropref.pipeline.backbone.architecture import (
    fixed_positions,
    limit_note,
    position_limit,
    position_offset,
    readable_together,
)
from micropref.pipeline.text.tokens import Tokens
from tests.support.architectures import VOCABULARY, alone, tiny, worst
from tests.support.backbones import SHAPE


def llama(**changes: Any) -> LlamaConfig:
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    return LlamaConfig(**{**SHAPE, **ends, "vocab_size": VOCABULARY, "max_position_embeddings": 128, **changes})


def limit(config: PretrainedConfig) -> int | None:
    with torch.device("meta"):
        trunk = AutoModel.from_config(config)
    return position_limit(config, trunk, position_offset(trunk))


@pytest.mark.parametrize("named", [-1, 0, 10**30])
def test_a_limit_that_no_text_can_have_is_none_and_is_said(named: int) -> None:
    config = llama(max_position_embeddings=named)
    assert limit(config) is None
    assert limit_note(config) == (
        f"max_position_embeddings {named} is no limit: texts may have 4,096 tokens, or what max length says"
    )


def test_a_limit_is_taken_and_none_at_all_needs_no_word() -> None:
    assert (limit(llama()), limit_note(llama())) == (128, None)
    without = MambaConfig(hidden_size=32, num_hidden_layers=1, vocab_size=VOCABULARY)
    assert (limit(without), limit_note(without)) == (None, None)
    xlnet = XLNetConfig(vocab_size=VOCABULARY, d_model=32, n_layer=1, n_head=4, d_inner=48)
    assert limit(xlnet) is None
    assert "max_position_embeddings -1 is no limit" in (limit_note(xlnet) or "")


def test_a_table_of_positions_ends_where_it_ends() -> None:
    config = GPT2Config(n_embd=32, n_layer=1, n_head=4, vocab_size=VOCABULARY, n_positions=100)
    with torch.device("meta"):
        trunk = AutoModel.from_config(config)
    config.n_positions = 10**6
    assert position_limit(config, trunk, 0) == 100


def rope(kind: str, limit: int, **more: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": 1e4, "original_max_position_embeddings": limit, **more}


def test_who_may_be_read_together() -> None:
    lengths = [5, 40, 32, 33, 41, 40]
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    positions = {"max_position_embeddings": 128, "original_max_position_embeddings": 32}
    longrope = Phi3Config(**SHAPE, **ends, **positions, rope_parameters=rope("longrope", 32, **factors))
    assert fixed_positions(longrope) == 32
    assert readable_together(longrope, lengths) == [[0, 2], [1, 3, 4, 5]]
    dynamic = llama(rope_parameters=rope("dynamic", 32, factor=2.0))
    assert readable_together(dynamic, lengths) == [[0, 2], [1, 5], [3], [4]]
    assert readable_together(llama(), lengths) == [list(range(6))]
    assert readable_together(dynamic, []) == []


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [3, 0, 4, 2, 1]])
def test_a_rotary_embedding_that_grows_forgets_longer_texts(order: list[int]) -> None:
    config = llama(
        max_position_embeddings=32, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
    )
    backbone = tiny(config)
    generator = np.random.default_rng(0)
    texts = [Tokens(generator.integers(3, VOCABULARY, length).astype(np.int32)) for length in (20, 32, 33, 60, 90)]
    expected = torch.cat([alone(tiny(config), [text]) for text in texts])  # each by a model that has read nothing else
    some = [texts[at] for at in order]
    assert worst(backbone.embed(some), expected[order]) <= 1e-5
    assert worst(torch.cat([backbone.embed([text]) for text in some]), expected[order]) <= 1e-5
