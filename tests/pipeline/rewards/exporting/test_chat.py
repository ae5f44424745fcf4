"""Tokenizer files of an export: clients that take a beginning-of-text token off, and pad tokens that nobody knows."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AddedToken, AutoTokenizer, PreTrainedTokenizerFast

from micropref.cache.errors import BadInput
from micropref.pipeline.rewards.exporting.chat import choose_pad, exported_template, rendered, write_tokenizer
from micropref.pipeline.text.tokenizer import PairTokenizer, Tokenizing
from tests.support.backbones import CHAT_TEMPLATE, VOCABULARY, byte_tokenizer

CHATML = (
    "\n{% for message in messages %}{{ '<|user|>' if loop.first else '<|assistant|>' }}{{ message.content }}<|end|>"
    "{% endfor %}"
)


def own_beginning(template: str, token: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer that has a beginning-of-text token and leaves it to the template to write it."""
    tokenizer = byte_tokenizer("qwen2", template)
    tokenizer.bos_token = token
    return tokenizer


@pytest.mark.parametrize(("template", "token"), [(CHAT_TEMPLATE, "<s>"), (CHATML.lstrip(), "<|user|>")])
def test_what_a_client_takes_off_the_front_is_put_back(template: str, token: str, tmp_path: Path) -> None:
    """verl removes `bos_token` from what the template wrote; SmolLM2's is the token that opens every turn."""
    tokenizer = own_beginning(template, token)
    read = PairTokenizer(tokenizer, Tokenizing(max_length=64), segments=False)
    whole = rendered(tokenizer, template, "2+2?", "4")
    assert whole.startswith(token)
    first, second = read.encode_written([whole, whole.removeprefix(token)])
    assert first is not None
    assert second is not None
    assert first.ids.tolist() == second.ids.tolist() == tokenizer(whole)["input_ids"]

    tokenizer.save_pretrained(tmp_path)
    exported = exported_template(tokenizer, read.settings())
    write_tokenizer(tmp_path, "[SEP]", exported, read.settings())
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.bos_token is None
    assert rendered(loaded, exported, "2+2?", "4") == whole


def test_a_tokenizer_that_adds_the_beginning_itself_goes_on_naming_it(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer("llama", CHAT_TEMPLATE)
    read = PairTokenizer(tokenizer, Tokenizing(max_length=64), segments=False)
    whole = rendered(tokenizer, CHAT_TEMPLATE, "2+2?", "4")
    first, second = read.encode_written([whole, whole.removeprefix("<s>")])
    assert first is not None
    assert second is not None
    assert first.ids.tolist() == second.ids.tolist()
    tokenizer.save_pretrained(tmp_path)
    write_tokenizer(tmp_path, "[SEP]", exported_template(tokenizer, read.settings()), read.settings())
    assert AutoTokenizer.from_pretrained(tmp_path).bos_token == "<s>"


def test_a_template_that_begins_with_a_line_keeps_it() -> None:
    tokenizer = own_beginning(CHATML + "{{ bos_token }}{{ date_string }}", "<s>")
    settings = {"template": "chat", "date": "2024-07-26", "special_tokens": []}
    exported = exported_template(tokenizer, settings)
    assert rendered(tokenizer, exported, "p", "r") == "\n<|user|>p<|end|><|assistant|>r<|end|><s>26 Jul 2024"


def test_a_pad_token_that_the_backbone_never_saw_is_not_taken() -> None:
    tokenizer = byte_tokenizer("qwen2", CHAT_TEMPLATE)
    tokenizer.add_special_tokens({"pad_token": AddedToken("<|endoftext|>", special=True)})
    assert tokenizer.pad_token_id == VOCABULARY
    texts = [rendered(tokenizer, CHAT_TEMPLATE, "p", "r")]
    assert choose_pad(tokenizer, texts, CHAT_TEMPLATE, VOCABULARY + 1) == "<|endoftext|>"
    known = choose_pad(tokenizer, texts, CHAT_TEMPLATE, VOCABULARY)
    assert known not in ("<|endoftext|>", "<|end|>", "<|user|>")
    with pytest.raises(BadInput, match="no special token that its texts do not end with"):
        choose_pad(tokenizer, texts, CHAT_TEMPLATE, 256)
