"""The datum of the whole project: two responses to one prompt, one of them preferred.

A text is a string, or a conversation as a tuple of messages. The two never mix inside a pair: a prompt
that is a string has string responses, a prompt of messages has the assistant's messages that follow it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias

from micropref.cache.keys import canonical_json, finite, sha256_hex

HASH_LENGTH = 32
"""Hex digits kept of a content hash: 128 bits, the width of the store's binary keys."""

# Rows of one prompt lie near each other, so a window of recent texts serves nearly every repeat.
RECENT_TEXTS = 1 << 14


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    """system, developer, user, assistant or tool."""
    content: str
    """What was said; may be empty."""
    more: str = ""
    """What else the message carries, as JSON of an object in the source's order: `tool_calls`, `reasoning_content`, and
    in the first message of a prompt the `tools` on offer. Empty where there is nothing."""

    @property
    def parts(self) -> dict[str, Any]:
        """Return what the message carries besides its content, as a new object."""
        found: dict[str, Any] = json.loads(self.more) if self.more else {}
        return found


Text: TypeAlias = str | tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a row was read, so that any later complaint can name it."""

    path: str
    """The file, as it was opened."""
    line: int
    """1-based line of JSON Lines and CSV, 1-based row of Parquet, Arrow and other JSON files."""

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two responses to one prompt, the first of them preferred."""

    prompt: Text
    """What both responses answer."""
    chosen: Text
    """The preferred response, without the prompt."""
    rejected: Text
    """The other response, without the prompt."""
    attribute: str | None = None
    """The quality compared, such as helpfulness."""
    context: str | None = None
    """The sentence that says by which criterion the pair was labelled."""
    user: str | None = None
    """The annotator."""
    margin: float | None = None
    """By how much the source says chosen is better."""
    unanimous: bool = False
    """Every attribute of the source's ratings strictly prefers the same response."""
    origin: Origin = field(kw_only=True)
    """The row it was read from (the earlier one where two rated rows make a pair)."""


@dataclass(frozen=True, slots=True)
class Rating:
    """One response's rating on one attribute, as the source gives it."""

    prompt: Text
    """What the response answers."""
    response: Text
    """The rated response, without the prompt."""
    attribute: str
    """The quality rated."""
    rating: float
    """Higher is better; the scale is the source's."""
    origin: Origin
    """The row it was read from."""


@dataclass(frozen=True, slots=True)
class Reject:
    """One row, or one comparison of two rated rows, that became no pair."""

    origin: Origin
    """The row it was read from."""
    reason: str
    """Why, beginning with the class it is counted under."""

    @property
    def kind(self) -> str:
        """Return the class it is counted under."""
        return self.reason.partition(": ")[0]


def as_json(value: Any) -> str:
    """Return a value as JSON in its own order; what JSON does not know (dates, decimals) as its text, NaN as null."""
    return json.dumps(finite(value), ensure_ascii=False, default=str)


def plain(text: Text) -> Any:
    """Return a text as a JSON value: a string, or a list of {"content", "role"} objects with what else they carry."""
    if isinstance(text, str):
        return text
    return [{**message.parts, "content": message.content, "role": message.role} for message in text]


def canonical(text: Text) -> str:
    """Return the one JSON text of a text, the form that is hashed."""
    return canonical_json(plain(text))


def display(text: Text) -> str:
    """Return a text for reading: a string as it is, messages as paragraphs that begin with their role.

    What a message carries besides its content follows in lines of its own, the tools on offer in a paragraph before.
    """
    if isinstance(text, str):
        return text
    return "\n\n".join(paragraph for message in text for paragraph in _paragraphs(message))


def _paragraphs(message: Message) -> list[str]:
    parts = message.parts
    tools = parts.pop("tools", None)
    written = {name: value if isinstance(value, str) else as_json(value) for name, value in parts.items()}
    lines = [f"{message.role}: {message.content}", *(f"{name}: {value}" for name, value in written.items())]
    return [*([] if tools is None else [f"tools: {as_json(tools)}"]), "\n".join(lines)]


def is_empty(text: Text) -> bool:
    """Say whether a text holds nothing but white space, or messages that do and carry nothing else."""
    parts = (text,) if isinstance(text, str) else (message.content + message.more for message in text)
    return all(not part or part.isspace() for part in parts)


@lru_cache(maxsize=RECENT_TEXTS)
def prompt_id(text: Text) -> str:
    """Return the id of a prompt, 32 hex digits: equal texts have equal ids, in every source and split."""
    return sha256_hex(canonical(text))[:HASH_LENGTH]


@lru_cache(maxsize=RECENT_TEXTS)
def response_id(prompt: Text, response: Text) -> str:
    """Return the id of a response to a prompt, 32 hex digits."""
    return sha256_hex(canonical_json([prompt_id(prompt), plain(response)]))[:HASH_LENGTH]


def content_hash(pair: PreferencePair) -> str:
    """Return the hash of what a pair says, 32 hex digits; where it was read does not enter."""
    return sha256_hex(
        canonical_json(
            [
                plain(pair.prompt),
                plain(pair.chosen),
                plain(pair.rejected),
                pair.attribute,
                pair.context,
                pair.user,
                pair.margin,
            ]
        )
    )[:HASH_LENGTH]
