"""Pairs to token ids, with a tokenizer of one token per byte: every length can be counted by hand."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest

from micropref.cache.errors import BadInput
from micropref.pipeline.sources.pairs import Message, Origin, PreferencePair, Text
from micropref.pipeline.text.tokenizer import ROLES, PairTokenizer, Tokenizing
from micropref.pipeline.text.truncation import truncate_prompt
from tests.support.backbones import CHAT_TEMPLATE, byte_tokenizer

HERE = Origin("pairs.jsonl", 7)
BOS = 256


def pair(prompt: Text, chosen: Text = "yes", rejected: Text = "no", context: str | None = None) -> PreferencePair:
    return PreferencePair(prompt, chosen, rejected, context=context, origin=HERE)


def tokenizer(kind: str = "llama", max_length: int = 64, chat: str | None = None, **options: Any) -> PairTokenizer:
    inner = byte_tokenizer(kind, chat)
    return PairTokenizer(inner, Tokenizing(max_length=max_length, **options), segments=kind == "bert")


def texts(kind: str, found: Any, row: int = 0) -> dict[str, str]:
    """What each role of a row reads, decoded."""
    inner = byte_tokenizer(kind)
    used = {role: getattr(found, role)[row] for role in ROLES}
    return {role: inner.decode(found.texts[at].ids) for role, at in used.items() if at >= 0}


def test_a_pair_becomes_three_texts_and_six_with_a_context() -> None:
    plain = tokenizer().encode([pair("2+2?")])
    assert texts("llama", plain) == {
        "prompt": "<s>2+2?",
        "chosen": "<s>2+2?\n\nyes",
        "rejected": "<s>2+2?\n\nno",
    }
    both = tokenizer().encode([pair("2+2?", context="be kind")], "both")
    assert texts("llama", both) == {
        **texts("llama", plain),
        "context": "<s>be kind\n\n2+2?",
        "chosen_context": "<s>be kind\n\n2+2?\n\nyes",
        "rejected_context": "<s>be kind\n\n2+2?\n\nno",
    }


def test_responses_say_behind_which_prompt_they_are_wanted() -> None:
    pairs = [pair("2+2?", context="be kind"), pair("3+3?")]
    wanted = {kind: tokenizer().encode(pairs, kind) for kind in ("plain", "context", "both")}
    for kind, found in wanted.items():
        assert (found.prompt >= 0).all()
        assert (found.context >= 0).tolist() == [True, False]
        assert (found.chosen >= 0).tolist() == [kind != "context"] * 2
        assert (found.rejected_context >= 0).tolist() == [kind != "plain", False]


def test_texts_are_distinct_and_numbered_by_first_use() -> None:
    found = tokenizer().encode([pair("a", "b", "c"), pair("a", "c", "d"), pair("a", "b", "c")])
    assert found.prompt.tolist() == [0, 0, 0]
    assert found.chosen.tolist() == [1, 2, 1]
    assert found.rejected.tolist() == [2, 3, 2]
    assert len(found.texts) == len({tokens.content for tokens in found.texts}) == 4


def test_responses_that_are_one_text_to_the_backbone_share_a_number() -> None:
    trims = "{% for m in messages %}{{ m.content | trim }};{% endfor %}"
    found = tokenizer(chat=trims).encode([pair("a", "yes", "yes ")])
    assert found.chosen.tolist() == found.rejected.tolist()


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("chat", [None, CHAT_TEMPLATE, CHAT_TEMPLATE.removeprefix("{{ bos_token or '' }}")])
def test_every_text_has_the_one_bos_its_tokenizer_would_add_and_no_eos(kind: str, chat: str | None) -> None:
    conversation = (Message("user", "hi"), Message("assistant", "ho"), Message("user", "so?"))
    pairs = [
        pair("2+2?", context="kind"),
        pair(conversation, (Message("assistant", "a"),), (Message("assistant", "b"),)),
    ]
    for tokens in tokenizer(kind, chat=chat).encode(pairs, "both").texts:
        ids = tokens.ids.tolist()
        assert ids.count(BOS) == (kind == "llama")
        assert ids[0] == BOS or kind == "qwen2"
        assert 257 not in ids


def test_a_template_that_begins_twice_is_refused() -> None:
    with pytest.raises(BadInput, match="2 <s> tokens, expected one"):
        tokenizer(chat="{{ bos_token }}" + CHAT_TEMPLATE)


CHATML = (
    "{% for message in messages %}{{ bos_token }}{{ message.role }}:{{ message.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}{{ bos_token }}assistant:{% endif %}"
)


def test_a_beginning_token_that_opens_every_turn_is_the_templates_own() -> None:
    """ChatML: `<|im_start|>` is the tokenizer's BOS and the marker of each role."""
    found = tokenizer(chat=CHATML).encode([pair("hi", "yes", "")])
    read = texts("llama", found)
    assert read["prompt"] == "<s>user:hi</s><s>assistant:"
    assert read["chosen"] == "<s>user:hi</s><s>assistant:yes</s>"
    assert read["rejected"] == "<s>user:hi</s><s>assistant:</s>"


@pytest.mark.parametrize("kind", ["llama", "qwen2", "bert"])
def test_an_empty_response_is_not_the_prompt_alone(kind: str) -> None:
    for chat in (None, CHAT_TEMPLATE):
        found = tokenizer(kind, chat=chat).encode([pair("hi", "", "no")])
        assert len({int(found.prompt[0]), int(found.chosen[0]), int(found.rejected[0])}) == 3


def test_an_encoder_reads_two_segments() -> None:
    found = tokenizer("bert").encode([pair("ab", "cde")])
    assert texts("bert", found)["chosen"] == "[CLS]ab[SEP]cde[SEP]"
    chosen = found.texts[found.chosen[0]]
    assert chosen.type_ids is not None
    assert chosen.type_ids.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert chosen.type_ids.dtype == chosen.ids.dtype == np.int32


def test_both_sides_are_cut_to_one_prompt_and_responses_stay_whole() -> None:
    # <s> + prompt + \n\n + 9 bytes of the longer response: 20 - 1 - 2 - 9 leave 8 of the prompt.
    found = tokenizer(max_length=20).encode([pair("0123456789ABCDEF", "long yes!", "no")])
    assert texts("llama", found) == {
        "prompt": "<s>0123456789ABCDEF",
        "chosen": "<s>89ABCDEF\n\nlong yes!",
        "rejected": "<s>89ABCDEF\n\nno",
    }
    assert (found.trimmed.tolist(), found.overlong.tolist()) == ([True], [False])


def test_each_kind_of_text_is_cut_by_itself_and_a_context_stays_whole() -> None:
    found = tokenizer(max_length=14).encode([pair("0123456789ABCDEF", context="kind")], "both")
    assert texts("llama", found) == {
        "prompt": "<s>3456789ABCDEF",
        "context": "<s>kind\n\n9ABCDEF",
        "chosen": "<s>89ABCDEF\n\nyes",
        "rejected": "<s>89ABCDEF\n\nno",
        "chosen_context": "<s>kind\n\nEF\n\nyes",
        "rejected_context": "<s>kind\n\nEF\n\nno",
    }


def test_an_encoder_s_prompt_segment_is_cut() -> None:
    found = tokenizer("bert", max_length=12).encode([pair("0123456789ABCDEF", "yes", "no")])
    assert texts("bert", found) == {
        "prompt": "[CLS]6789ABCDEF[SEP]",
        "chosen": "[CLS]ABCDEF[SEP]yes[SEP]",
        "rejected": "[CLS]ABCDEF[SEP]no[SEP]",
    }


@pytest.mark.parametrize(("limit", "fits"), [(8, True), (7, False)])
def test_a_pair_whose_responses_leave_no_token_of_prompt_is_overlong(limit: int, fits: bool) -> None:
    found = tokenizer(max_length=limit).encode([pair("0123", "four", "no"), pair("0", "1", "2")])
    assert found.overlong.tolist() == [not fits, False]
    assert found.trimmed.tolist() == [fits, False]
    for role in ROLES:
        assert fits or getattr(found, role)[0] == -1
    assert all(len(tokens) <= limit for tokens in found.texts)


def test_drop_leaves_out_what_truncation_would_cut() -> None:
    pairs = [pair("0123456789ABCDEF"), pair("01")]
    found = tokenizer(max_length=12, overlong="drop").encode(pairs)
    assert found.overlong.tolist() == [True, False]
    assert not found.trimmed.any()
    assert found.prompt.tolist() == [-1, 0]


def test_a_conversation_loses_its_oldest_words_but_not_its_roles_or_system_message() -> None:
    talk = (
        Message("system", "Sys"), Message("user", "first"), Message("assistant", "second"), Message("user", "third"),
    )  # fmt: skip
    answers = (Message("assistant", "yes"),), (Message("assistant", "no"),)
    whole = tokenizer(chat=CHAT_TEMPLATE, max_length=99).encode([pair(talk, *answers)])
    length = len(whole.texts[whole.chosen[0]])
    for cut, words in [(2, ("rst", "second")), (5, ("", "second")), (6, ("", "econd")), (13, ("", ""))]:
        found = tokenizer(chat=CHAT_TEMPLATE, max_length=length - cut).encode([pair(talk, *answers)])
        last = "third" if cut < 13 else "ird"
        shown = f"<s><|system|>Sys<|end|><|user|>{words[0]}<|end|><|assistant|>{words[1]}<|end|><|user|>{last}<|end|>"
        assert texts("llama", found)["chosen"] == shown + "<|assistant|>yes<|end|>"
        assert texts("llama", found)["rejected"] == shown + "<|assistant|>no<|end|>"


def test_a_character_of_several_tokens_is_never_split() -> None:
    # é takes two byte tokens, so a limit in the middle of one drops all of it.
    found = tokenizer(max_length=11).encode([pair("ééééé", "yes", "no")])
    assert texts("llama", found)["chosen"] == "<s>éé\n\nyes"


def test_a_cut_that_changes_nothing_cannot_loop() -> None:
    assert truncate_prompt("é", lambda prompt: 1, lambda text: [0, 0]) is None
    assert truncate_prompt("ab", lambda prompt: 1, lambda text: list(range(len(text)))) is None


def test_settings_name_everything_that_changes_token_ids() -> None:
    base = Tokenizing(max_length=32)
    dated = CHAT_TEMPLATE + "{{ strftime_now('%Y') }}"
    changes: dict[str, Any] = {
        "max_length": 33, "template": "plain", "overlong": "drop", "context_template": "{context} {prompt}",
        "date": "2025-01-01", "special_tokens": "keep",
    }  # fmt: skip
    assert set(changes) == {field.name for field in dataclasses.fields(Tokenizing)}
    inner = byte_tokenizer("llama", dated)
    options = [base, *(dataclasses.replace(base, **{name: value}) for name, value in changes.items())]
    found = [str(PairTokenizer(inner, option, segments=False).settings()) for option in options]
    assert len(set(found)) == len(found)
    assert tokenizer("qwen2").settings() != tokenizer("llama").settings()


def test_auto_and_the_template_it_chooses_are_one_setting() -> None:
    assert tokenizer(chat=CHAT_TEMPLATE).settings() == tokenizer(chat=CHAT_TEMPLATE, template="chat").settings()
    assert tokenizer().settings() == tokenizer(template="plain", date="2025-01-01").settings()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 0}, "max length 0"),
        ({"context_template": "{prompt}"}, "once each"),
        ({"date": "26 Jul 2024"}, "expected YYYY-MM-DD"),
    ],
)
def test_options_that_cannot_be_followed_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Tokenizing(**{"max_length": 8, **options})


def test_a_text_without_a_token_refuses_its_pair_alone() -> None:
    found = tokenizer("qwen2").encode([pair(""), pair("a")])
    assert found.refused == {0: "prompt: found a text without a single token; give it words"}
    assert found.prompt.tolist() == [-1, 0]


def test_a_refused_conversation_refuses_its_pair_alone() -> None:
    refuses = "{% if messages | length > 2 %}{{ raise_exception('too long a talk') }}{% endif %}"
    refuses += "{{ bos_token }}{% for one in messages %}{{ one.content }}{% endfor %}"
    talk = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    answers = (Message("assistant", "d"),), (Message("assistant", "e"),)
    found = tokenizer(chat=refuses).encode([pair(talk[:1], *answers), pair(talk, *answers)])
    assert list(found.refused) == [1]
    assert re.match("the backbone's chat template .*too long a talk", found.refused[1])
    assert (found.chosen.tolist(), found.overlong.tolist()) == ([1, -1], [False, False])
