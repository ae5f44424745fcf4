"""What the templates write, against texts worked out by hand."""

from __future__ import annotations

import datetime
import time

import pytest

from micropref.cache.errors import BadInput
from micropref.pipeline.sources.pairs import Message
from micropref.pipeline.text.templates import (
    ChatTemplate,
    PlainTemplate,
    SegmentTemplate,
    check_context_template,
    choose_template,
    with_context,
)
from tests.support.backbones import CHAT_TEMPLATE, byte_tokenizer

DATE = datetime.date(2024, 7, 6)
TALK = (Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Sum?"))
ANSWER = (Message("assistant", "42"),)


def choose(chat_template: str | None, name: str = "auto", *, segments: bool = False):
    return choose_template(byte_tokenizer("llama", chat_template), name, date=DATE, segments=segments)


def test_plain_joins_prompt_and_response_with_a_blank_line() -> None:
    assert PlainTemplate().render("2+2?", "4") == "2+2?\n\n4"
    assert PlainTemplate().render("2+2?", None) == "2+2?"


def test_plain_shows_conversations_as_role_tagged_text() -> None:
    expected = "system: Be brief.\n\nuser: Hi\n\nassistant: Hello\n\nuser: Sum?"
    assert PlainTemplate().render(TALK, None) == expected
    assert PlainTemplate().render(TALK, ANSWER) == expected + "\n\nassistant: 42"


def test_an_encoder_takes_two_segments_whatever_chat_template_comes_with_it() -> None:
    template = choose(CHAT_TEMPLATE, segments=True)
    assert isinstance(template, SegmentTemplate)
    assert template.render("2+2?", "4") == ("2+2?", "4")
    assert template.render("2+2?", None) == "2+2?"


def test_chat_ends_a_prompt_where_the_assistant_begins() -> None:
    template = choose(CHAT_TEMPLATE)
    assert template.render("2+2?", None) == "<s><|user|>2+2?<|end|><|assistant|>"
    assert template.render("2+2?", "4") == "<s><|user|>2+2?<|end|><|assistant|>4<|end|>"


def test_chat_keeps_the_turns_of_a_conversation() -> None:
    expected = (
        "<s><|system|>Be brief.<|end|><|user|>Hi<|end|><|assistant|>Hello<|end|><|user|>Sum?<|end|>"
        "<|assistant|>42<|end|>"
    )
    assert choose(CHAT_TEMPLATE).render(TALK, ANSWER) == expected


def test_auto_is_chat_only_where_the_tokenizer_has_a_chat_template() -> None:
    assert isinstance(choose(CHAT_TEMPLATE), ChatTemplate)
    assert isinstance(choose(None), PlainTemplate)
    assert isinstance(choose(CHAT_TEMPLATE, "plain"), PlainTemplate)


@pytest.mark.parametrize(("segments", "message"), [(True, "is an encoder"), (False, "has no default chat template")])
def test_chat_is_refused_where_there_is_none(segments: bool, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        choose(None, "chat", segments=segments)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ strftime_now('%d %b %Y') }}|{{ messages[0].content }}", "06 Jul 2024|hi"),
        ("{{ strftime_now('%A, %-d. %B %Y %H:%M') }}", "Saturday, 6. July 2024 00:00"),
        ("{% set today = strftime_now('%Y-%m-%d') %}\n  {% if true %}{{ today }}{% endif %}", "2024-07-06"),
        ("\n{{ strftime_now('%y') }}", "\n24"),
        (
            "{% if date_string is defined %}{{ date_string }}{% else %}{{ strftime_now('%Y') }}{% endif %}",
            "06 Jul 2024",
        ),
        ("{% for m in messages %}{{ m.content ~ strftime_now('%j') }}{% endfor %}", "hi188"),
    ],
)
def test_a_template_that_asks_for_today_gets_the_pinned_date(source: str, expected: str) -> None:
    template = choose(source)
    assert template.render("hi", None) == expected
    assert template.settings() == {"template": "chat", "date": "2024-07-06"}


def test_a_dated_text_is_the_same_tomorrow(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tomorrow(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
            return cls.fromtimestamp(time.time() + 86_400)

    source = "Today is {{ strftime_now('%d %b %Y') }}."
    today = choose(source).render("hi", None)
    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Tomorrow)
    unpinned = byte_tokenizer("llama", source).apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert choose(source).render("hi", None) == today == "Today is 06 Jul 2024."
    assert unpinned != today


def test_pinning_the_date_leaves_the_rest_of_a_template_as_transformers_renders_it() -> None:
    source = (
        "\n  {% if messages %}\n    {% for m in messages %}\n  <{{ m.role }}>\n{{- m.content }}\n{% endfor %}\n"
        "{% endif %}  end{{ '' if true else strftime_now('%Y') }}\n"
    )
    expected = byte_tokenizer("llama", source).apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert choose(source).render("hi", None) == expected


def test_a_template_without_a_date_records_none() -> None:
    assert choose(CHAT_TEMPLATE).settings() == {"template": "chat", "date": None}


def test_a_conversation_that_the_template_refuses_is_one_line_naming_its_roles() -> None:
    template = choose("{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}")
    with pytest.raises(BadInput, match=r"roles system, user, assistant, user \(no system role\)") as caught:
        template.render(TALK, None)
    assert "\n" not in str(caught.value)


def test_a_context_goes_before_a_prompt_and_braces_in_the_data_are_data() -> None:
    assert with_context("{context}\n\n{prompt}", "be {prompt}", "write {context}") == "be {prompt}\n\nwrite {context}"


def test_a_context_goes_into_the_first_user_message() -> None:
    found = with_context("[{context}] {prompt}", "be kind", TALK)
    assert found == (TALK[0], Message("user", "[be kind] Hi"), *TALK[2:])


@pytest.mark.parametrize("template", ["{context}", "{prompt}{prompt}{context}", "", "{Context}{prompt}"])
def test_a_context_template_needs_both_parts_once(template: str) -> None:
    with pytest.raises(BadInput, match="once each"):
        check_context_template(template)
