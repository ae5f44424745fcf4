from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest

from micropref.pipeline.sources.pairs import (
    Message,
    Origin,
    PreferencePair,
    Text,
    canonical,
    content_hash,
    display,
    prompt_id,
    response_id,
)

CONVERSATION = (Message("user", "Grüße, 世界"), Message("assistant", 'say "hi"\n'))
PAIR = PreferencePair("p", "c", "r", "style", "be brief", "ann", 1.5, origin=Origin("data.jsonl", 7))


def sha32(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def test_origin_reads_as_file_and_line() -> None:
    assert str(PAIR.origin) == "data.jsonl:7"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('a "b"\n世', '"a \\"b\\"\\n世"'),
        (CONVERSATION[:1], '[{"content":"Grüße, 世界","role":"user"}]'),
    ],
)
def test_canonical_is_sorted_json_without_spaces_or_escapes(text: Text, expected: str) -> None:
    assert canonical(text) == expected
    assert prompt_id(text) == sha32(expected)


def test_display_tags_messages_with_their_role() -> None:
    assert display("as it is") == "as it is"
    assert display(CONVERSATION) == 'user: Grüße, 世界\n\nassistant: say "hi"\n'


def test_a_text_and_a_message_of_it_are_different_prompts() -> None:
    assert prompt_id("hi") != prompt_id((Message("user", "hi"),))


def test_response_id_depends_on_both_texts() -> None:
    assert response_id("p", "r") == sha32(json.dumps([prompt_id("p"), "r"], separators=(",", ":")))
    assert len({response_id("p", "r"), response_id("q", "r"), response_id("p", "s"), response_id("r", "p")}) == 4


def test_content_hash_is_the_hash_of_what_the_pair_says() -> None:
    assert content_hash(PAIR) == sha32('["p","c","r","style","be brief","ann",1.5]')


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "P"},
        {"chosen": "C"},
        {"rejected": "R"},
        {"attribute": None},
        {"context": None},
        {"user": "bob"},
        {"margin": 2.0},
        {"chosen": "r", "rejected": "c"},
    ],
    ids=str,
)
def test_every_field_changes_the_content_hash(change: dict[str, Any]) -> None:
    assert content_hash(replace(PAIR, **change)) != content_hash(PAIR)


def test_where_a_pair_was_read_does_not_change_its_hash() -> None:
    elsewhere = replace(PAIR, origin=Origin("copy.jsonl", 1), unanimous=True)
    assert content_hash(elsewhere) == content_hash(PAIR)
