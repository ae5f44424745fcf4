"""Tiny backbones with random weights, built in code: fixtures for every test that needs a real transformer."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoModel, BertConfig, GPT2Config, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config

from micropref.pipeline.backbone.backbone import Backbone

CHAT_TEMPLATE = (
    "{{ bos_token or '' }}{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIALS = ["<s>", "</s>", "[CLS]", "[SEP]", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
VOCABULARY = 256 + len(SPECIALS)
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
CONFIGS: dict[str, Any] = {
    "llama": lambda **changes: LlamaConfig(
        **SHAPE, num_key_value_heads=2, vocab_size=VOCABULARY, max_position_embeddings=256, **changes
    ),
    "qwen2": lambda **changes: Qwen2Config(
        **SHAPE, num_key_value_heads=2, vocab_size=VOCABULARY, max_position_embeddings=256, **changes
    ),
    "gpt2": lambda **changes: GPT2Config(
        n_embd=32, n_layer=2, n_head=4, vocab_size=VOCABULARY, n_positions=256, **changes
    ),
    "bert": lambda **changes: BertConfig(**SHAPE, vocab_size=VOCABULARY, max_position_embeddings=128, **changes),
}


def byte_tokenizer(kind: str, chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per byte: `llama` adds a BOS, `bert` [CLS] and [SEP], the others nothing."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(SPECIALS)
    numbers = [(token, inner.token_to_id(token)) for token in SPECIALS]
    if kind == "llama":
        inner.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A $B:1", numbers)
        names = {"bos_token": "<s>", "eos_token": "</s>"}
    elif kind == "bert":
        inner.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", numbers)
        names = {"cls_token": "[CLS]", "sep_token": "[SEP]"}
    else:
        names = {"eos_token": "</s>", "pad_token": "</s>"}
    inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if kind == "bert" else [])]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, model_input_names=inputs, **names)
    tokenizer.chat_template = chat_template
    return tokenizer


def save_tiny_backbone(
    folder: Path, kind: str, *, chat_template: str | None = None, modules: dict[str, Any] | None = None, **config: Any
) -> Path:
    """Save a tiny model of `kind` with its tokenizer; `modules`: an encoder's pooling config and `normalize`."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModel.from_config(CONFIGS[kind](**config))
        for name, weight in model.named_parameters():
            # The usual tiny spread would leave all hidden states nearly alike.
            if weight.ndim == 2 and "position" not in name:
                torch.nn.init.normal_(weight, std=0.15)
    model.save_pretrained(folder)
    byte_tokenizer(kind, chat_template).save_pretrained(folder)
    if modules is not None:
        _save_modules(folder, dict(modules))
    return folder


def _save_modules(folder: Path, modules: dict[str, Any]) -> None:
    kinds = ["Transformer", "Pooling", *(["Normalize"] if modules.pop("normalize", False) else [])]
    paths = ["" if kind == "Transformer" else f"{at}_{kind}" for at, kind in enumerate(kinds)]
    rows = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for at, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(rows))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(modules))


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return `make(kind)`: the folder of a tiny llama, qwen2, gpt2 or bert, shared by all tests: not to be changed."""

    @cache
    def make(kind: str, *, chat: bool = False) -> Path:
        folder = tmp_path_factory.mktemp(f"tiny-{kind}")
        modules = {"pooling_mode_mean_tokens": True, "normalize": True} if kind == "bert" else None
        return save_tiny_backbone(folder, kind, chat_template=CHAT_TEMPLATE if chat else None, modules=modules)

    return make


@pytest.fixture(scope="module")
def loaded_once() -> Iterator[None]:
    """Load each backbone once for the tests of a file, in each thread: a trunk forwards one batch at a time."""
    load = Backbone.load
    once = cache(lambda _thread, name, **options: load(name, **options))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Backbone, "load", lambda name, **options: once(threading.get_ident(), name, **options))
        yield


@pytest.fixture(scope="session")
def make_backbone(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return `make(kind, chat_template=..., modules=..., **config)`: a new folder each time, free to be changed."""

    def make(kind: str, **options: Any) -> Path:
        return save_tiny_backbone(tmp_path_factory.mktemp(f"own-{kind}"), kind, **options)

    return make
