"""Tiny embedding models with a recipe of their own: sentence-transformers files around a tiny backbone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from tests.support.backbones import SPECIALS, byte_tokenizer, save_tiny_backbone


def ending_tokenizer(chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per byte that ends every text with </s>, and begins none."""
    tokenizer = byte_tokenizer("qwen2", chat_template)
    inner = tokenizer.backend_tokenizer
    numbers = [(token, inner.token_to_id(token)) for token in SPECIALS]
    inner.post_processor = processors.TemplateProcessing("$A </s>", "$A </s> $B </s>", numbers)
    return tokenizer


def save_embedding_model(
    folder: Path,
    kind: str = "qwen2",
    *,
    pooling: dict[str, Any] | None = None,
    normalize: bool = True,
    prompts: dict[str, Any] | None = None,
    lower_case: bool = False,
    chat_template: str | None = None,
    more: tuple[str, ...] = (),
) -> Path:
    """Save a tiny model with its modules.json; a causal one's tokenizer ends texts with </s>.

    `prompts`: config_sentence_transformers.json; `more`: modules behind the pooling.
    """
    modules = {**(pooling or {"pooling_mode_lasttoken": True}), "normalize": normalize}
    save_tiny_backbone(folder, kind, modules=modules)
    size = json.loads((folder / "config.json").read_text()).get("hidden_size", 32)
    config = folder / "1_Pooling" / "config.json"
    config.write_text(json.dumps({"word_embedding_dimension": size, **json.loads(config.read_text())}))
    tokenizer = byte_tokenizer("bert") if kind == "bert" else ending_tokenizer(chat_template)
    tokenizer.pad_token = "</s>"  # sentence-transformers pads
    tokenizer.save_pretrained(folder)
    if prompts is not None:
        (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 200, "do_lower_case": lower_case}))
    rows = json.loads((folder / "modules.json").read_text())
    rows += [
        {"idx": 9, "name": "9", "path": f"9_{name}", "type": f"sentence_transformers.models.{name}"} for name in more
    ]
    (folder / "modules.json").write_text(json.dumps(rows))
    return folder
