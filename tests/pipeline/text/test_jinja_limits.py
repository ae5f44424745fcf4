"""Chat templates: what they render is what transformers renders, for so long, to such a length, always the same."""

from __future__ import annotations

import datetime
import json
import threading
import time
from typing import Any

import pytest

from micropref.cache.errors import BadInput
from micropref.pipeline.sources.pairs import Message, Origin, PreferencePair, Text
from micropref.pipeline.text.templates import ChatTemplate, choose_template
from micropref.pipeline.text.tokenizer import PairTokenizer, Tokenizing
from tests.support.backbones import byte_tokenizer

DATE = datetime.date(2024, 7, 6)
CALL = {"type": "function", "id": "c1", "function": {"name": "depth", "arguments": {"lake": "Como", "deep": True}}}
TOOLS = [{"type": "function", "function": {"name": "depth", "parameters": {"b": 1, "a": "é"}}}]
TALK: list[dict[str, Any]] = [
    {"role": "user", "content": " Name a lake. "},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "400 m", "tool_call_id": "c1"},
    {"role": "assistant", "content": "Como.", "reasoning_content": "Alps"},
]
WRITES_ALL = (
    "{{- bos_token }}{%- if tools is not none %}{{ tools | tojson(indent=2) }}{% endif %}\n"
    "{%- macro mark(text, times=2) %}{{ '-' * times ~ text ~ loop }}{% endmacro %}\n"
    "{%- set ns = namespace(n=0) %}{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}\n"
    "  {% set ns.n = ns.n + 1 %}<{{ m['role'] }}>{{ ns.n }}{{ mark(m.content | trim) }}\n"
    "  {% generation %}{{ m.content[::-1] + '|' ~ loop.index0 ~ true }}{% endgeneration %}\n"
    "  {% for c in m.tool_calls or [] %}{{ c.function.name ~ (c.function.arguments | tojson) }}{% endfor %}\n"
    "  {% if m.reasoning_content is defined %}<think>{{ m.reasoning_content }}</think>{{ m.thinking }}{% endif %}\n"
    "  {{- '%s-%d' % (m.role, 3) }}{{ m.content.split('a') | join('+') | replace('+', '++') }}\n"
    "{% if loop.last %}{% break %}{% endif %}\n"
    "{% endfor %}{{ dict(a=1).items() | list }}{% if add_generation_prompt %}<assistant>{% endif %}\n"
)


def messages(talk: list[dict[str, Any]], tools: Any = None) -> tuple[Message, ...]:
    found = []
    for at, one in enumerate(talk):
        more = {name: value for name, value in one.items() if name not in ("role", "content")}
        more |= {"tools": tools} if tools and at == 0 else {}
        found.append(Message(one["role"], one["content"], json.dumps(more) if more else ""))
    return tuple(found)


def choose(source: Any) -> ChatTemplate:
    made = choose_template(byte_tokenizer("llama", source), "chat", date=DATE, segments=False)
    assert isinstance(made, ChatTemplate)
    return made


@pytest.mark.parametrize("tools", [None, TOOLS])
def test_texts_are_those_of_transformers(tools: Any) -> None:
    source = WRITES_ALL.replace(" ~ loop }}", " }}")
    inner = byte_tokenizer("llama", source)
    expected = inner.apply_chat_template(TALK, tools=tools, tokenize=False)
    assert choose(source).render(messages(TALK[:3], tools), messages(TALK[3:])) == expected
    asked = inner.apply_chat_template(TALK[:3], tools=tools, tokenize=False, add_generation_prompt=True)
    assert choose(source).render(messages(TALK[:3], tools), None) == asked
    assert "Alps" in expected
    assert '{"lake": "Como", "deep": true}' in expected


def test_a_tokenizer_may_have_a_template_for_tools() -> None:
    made = choose({"default": "D{{ messages | length }}", "tool_use": "T{{ tools | length }}"})
    assert made.render("a", "b") == "D2"
    assert made.render(messages([{"role": "user", "content": "a"}], TOOLS), None) == "T1"


@pytest.mark.parametrize("name", ["reasoning", "thinking", "reasoning_content"])
def test_reasoning_reaches_a_template_under_the_name_it_knows(name: str) -> None:
    made = choose("{% for m in messages %}{{ m." + name + " }}{% endfor %}")
    assert made.render("q", messages(TALK[3:])) == "Alps"


def test_a_template_that_joins_arguments_gets_them_as_text() -> None:
    made = choose(
        "{% for m in messages %}{% for c in m.tool_calls %}"
        "{{ '<' + c.function.arguments + '>' }}{% endfor %}{% endfor %}"
    )
    assert made.render(messages(TALK[:1]), messages(TALK[1:2])) == '<{"lake": "Como", "deep": true}>'


GROWING = "{% set ns = namespace(s='x' * 1000) %}{% for i in range(90) %}?{% endfor %}"
ENDLESS = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    "source",
    [
        ENDLESS,
        "{% macro m(n) %}{{ m(n) }}{{ m(n) }}{% endmacro %}{{ m(1) }}",
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(400) }}",
        "{{ 'x' * 10 ** 10 }}",
        "{{ [1] * 10 ** 10 }}",
        "{{ 10 ** (10 ** 10) }}",
        "{{ 'x'.center(10 ** 10) }}",
        "{{ 'x' | center(9999999999) }}",
        "{{ '%9999999999d' % 1 }}",
        "{{ '%9999999999d' | format(1) }}",
        "{{ '%*d' % (9999999999, 1) }}",
        "{{ '{:9999999999}'.format(1) }}",
        GROWING.replace("?", "{% set ns.s = ns.s + ns.s %}"),
        GROWING.replace("?", "{% set ns.s = ns.s ~ ns.s %}"),
        GROWING.replace("?", "{% set ns.s = [ns.s, ns.s] | join %}"),
        GROWING.replace("?", "{% set t %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = t %}"),
        "{% for i in range(90000) %}{{ messages[0].content * 100000 }}{% endfor %}",
    ],
)
def test_a_template_without_end_is_stopped(source: str) -> None:
    start = time.process_time()
    with pytest.raises(BadInput, match="chat template fails on a conversation with roles user, assistant") as caught:
        choose(source).render("question", "b")
    assert "\n" not in str(caught.value)
    assert time.process_time() - start < 5


def test_time_is_limited_in_any_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("micropref.pipeline.text.jinja_limits.MOST_STEPS", 10**12)
    monkeypatch.setattr("micropref.pipeline.text.jinja_limits.MOST_SECONDS", 0.05)
    said: list[str] = []

    def run() -> None:
        try:
            choose(ENDLESS).render("a", "b")
        except BadInput as error:
            said.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(9)
    assert len(said) == 1
    assert "stopped after 0.05 seconds" in said[0]


def test_long_texts_are_no_fault_of_the_template() -> None:
    long = "x" * (1 << 24)
    made = choose("{% for m in messages %}{{ '[' + m.content + ']' }}{% endfor %}")
    assert len(made.render(long, long)) == 2 * len(long) + 4


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("{{ [1, 2] | random }}", "the filter `random`"),
        ("{% for m in messages | sort %}{{ m | random }}{% endfor %}", "the filter `random`"),
        ("{{ lipsum(n=1) }}", "`lipsum`"),
        ("{% if %}", "is broken"),
        ("{{ a | no_such_filter }}", "is broken"),
        ("{% include 'x' ", "is broken"),
    ],
)
def test_templates_that_change_or_are_none_are_refused_at_once(source: str, what: str) -> None:
    with pytest.raises(BadInput, match=what) as caught:
        choose(source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[9].content }}",
        "{{ 1 / 0 }}",
        "{{ messages + 1 }}",
        "{{ messages.__class__.__mro__ }}",
        "{{ now() }}",
        "{{ raise_exception('two\nlines') }}",
        "{{ messages.append(1) }}",
        "{% include 'other' %}",
        "{{ '{' | format }}{{ '%d' % 'x' }}",
    ],
)
def test_any_error_is_one_line(source: str) -> None:
    with pytest.raises(BadInput, match=r"^the backbone's chat template (fails on|refuses) .*roles user") as caught:
        choose(source).render("a", None)
    assert "\n" not in str(caught.value)


def lost(source: str, prompt: Text, chosen: Text, rejected: Text) -> dict[str, bool]:
    inner = PairTokenizer(byte_tokenizer("llama", source), Tokenizing(max_length=900), segments=False)
    found = inner.encode([PreferencePair(prompt, chosen, rejected, origin=Origin("a", 1))])
    return {name: bool(flags[0]) for name, flags in found.lost.items()}


BARE = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{% endfor %}"
CALLS = BARE.replace("{% endfor %}", "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}{% endfor %}")


def test_what_a_template_leaves_out_is_known() -> None:
    talk, said = messages(TALK[:3], TOOLS), messages(TALK[3:])
    assert lost(BARE, talk, said, (Message("assistant", "No."),)) == {
        "tools": True, "tool_calls": True, "reasoning_content": True,
    }  # fmt: skip
    assert lost(CALLS, talk, (Message("assistant", "Yes."),), (Message("assistant", "No."),)) == {"tools": True}
    assert lost(WRITES_ALL.replace(" ~ loop }}", " }}"), talk, said, (Message("assistant", "No."),)) == {}
    assert lost("{% for m in messages if m.role != 'tool' %}{{ m.content }}{% endfor %}", *(
        messages(TALK[:1] + TALK[2:3]), (Message("assistant", "Yes."),), (Message("assistant", "No."),),
    )) == {"tool turns": True}  # fmt: skip
