"""The texts of a row in the forms that files have, brought to the two that are read: a string, or a list of messages.

Messages as JSON text in a cell, one message alone, a conversation under another name than `prompt`, lists of answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from micropref.pipeline.sources.jsonl import strict_json
from micropref.pipeline.sources.messages import IMAGES, NO_IMAGES, OTHER_ROLES, looks_like_message, read_tools
from micropref.pipeline.sources.rows import Row, RowError, describe, is_blank

CONVERSATIONS = ("conversations", "conversation", "context", "history", "messages", "dialogue", "dialog")
"""Columns that may hold the prompt as messages where no column is the prompt by its name."""
_JSON = re.compile(r"\s*[\[{\"]")
_MESSAGES_IN_JSON = re.compile(r'\s*\[?\s*\{\s*"(?:role|from|content|value)"\s*:')
_MESSAGES_IN_PYTHON = re.compile(r"\s*(?:array\(|\()?\s*\[?\s*\{\s*'(?:role|from|content|value)'\s*:")
_SHOWS_IMAGE = re.compile(r"<image>|<\|image(?:_pad)?\|>|<video>|<audio>")
NO_ANSWER = {"role": "assistant", "content": ""}
"""An empty answer as a message."""
NO_TOOLS = ("", "[]", "{}", "null")
"""Texts that say there are no tools."""
JSON_TEXT = "messages as JSON text: write the column with json.dumps, or keep the rows as JSON Lines"
MOST_PAIRS_OF_A_ROW = 100_000
"""Pairs that the lists of one row may make."""


def known_form(row: Row, sides: Sequence[str]) -> Row:
    """Return a row whose prompt and responses, the fields `sides`, are strings or lists, as far as they are texts.

    Raises RowError for messages as Python writes them.
    """
    if row.version < 2:
        return row
    values = dict(row.values)
    parsed = {side: conversation(values.get(side)) for side in sides}
    texts = {side: values[side] for side in sides if isinstance(values.get(side), str)}
    empty = {side for side in sides if _is_empty(row, side)}
    if len(empty) < len(sides) and all(parsed[side] is not None for side in sides if side not in empty):
        values.update({side: [NO_ANSWER] if side in empty else parsed[side] for side in sides})
    elif texts:
        _refuse_half_parsed(row, texts, parsed)
    asked = values.get("prompt")
    found = conversation(asked)
    if found is not None:
        values["prompt"] = found
    elif isinstance(asked, str) and _MESSAGES_IN_PYTHON.match(asked) and asked.rstrip()[-1] in "])}":
        raise RowError("prompt", "messages as Python writes a list", JSON_TEXT)
    return replace(row, values=values)


def _is_empty(row: Row, side: str) -> bool:
    """Say whether a response is an empty text, which fits texts and messages alike; CSV has it as null."""
    value = row.values.get(side)
    return (value is None and row.textual and side in row.values) or (isinstance(value, str) and is_blank(value))


def conversation(value: Any) -> list[Any] | None:
    """Return the list of messages that a value stands for: one message, a list, an object that holds one, JSON text.

    None: it stands for none.
    """
    if isinstance(value, str):
        if not _JSON.match(value):
            return None
        try:
            value = strict_json(value.strip())
            if isinstance(value, str) and _JSON.match(value):
                value = strict_json(value.strip())
        except RowError:
            return None
    if isinstance(value, dict):
        if looks_like_message(value):
            return [value]
        value = next((value[name] for name in ("messages", *CONVERSATIONS) if name in value), None)
    return value if isinstance(value, list) and value and all(map(looks_like_message, value)) else None


def answers(row: Row, sides: Sequence[str]) -> Iterator[Row]:
    """Yield a row for each choice of one answer of every side; only the row itself where no side is a list of texts."""
    lists = [row.values.get(side) for side in sides]
    if row.version < 2 or not all(map(_is_list_of_answers, lists)):
        _refuse_half_lists(dict(zip(sides, lists, strict=True)))
        yield row
        return
    count = 1
    for one in lists:
        count *= len(one or ())
    if count > MOST_PAIRS_OF_A_ROW:
        raise RowError(sides[-1], f"lists that make {count:,} pairs", f"at most {MOST_PAIRS_OF_A_ROW:,} of one row")
    row.noted["rows with lists of answers, every one compared"] += 1
    for chosen in product(*[one or () for one in lists]):
        yield replace(row, values={**row.values, **dict(zip(sides, chosen, strict=True))})


def begins_with_prompt(side: Any) -> bool:
    """Say whether a response is a whole conversation, which its prompt begins."""
    first = (conversation(side) or [None])[0]
    role = (first.get("role") or first.get("from")) if isinstance(first, dict) else None
    return isinstance(role, str) and OTHER_ROLES.get(role, role) != "assistant"


def tools(row: Row) -> list[Any] | None:
    """Return the tools that a row offers, None where it offers none; what is no list of schemas is noted.

    Raises RowError.
    """
    if row.version < 2:
        return None
    given = row.values.get("tools")
    found = read_tools(given, "tools")
    if found is None and given not in (None, [], {}) and not (isinstance(given, str) and given.strip() in NO_TOOLS):
        row.noted["values of 'tools' that are no schemas, not read"] += 1
    return found


def _is_list_of_answers(value: Any) -> bool:
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(item, str) for item in value) or all(
        isinstance(item, list) and item and all(map(looks_like_message, item)) for item in value
    )


def _refuse_half_lists(sides: Mapping[str, Any]) -> None:
    """Raise RowError for a list of texts with something else in it, or on one side alone."""
    for side, value in sides.items():
        if not isinstance(value, list) or not any(isinstance(item, str) for item in value):
            continue
        for place, item in enumerate(value):
            if not isinstance(item, str):
                raise RowError(f"{side}[{place}]", f"{describe(item)} in a list of texts", "texts alone")
        raise RowError(
            side, f"a list of {len(value)} texts on this side alone", "lists of texts on both sides, or none"
        )


def _refuse_half_parsed(row: Row, texts: Mapping[str, str], parsed: Mapping[str, list[Any] | None]) -> None:
    """Raise RowError where the responses are messages that cannot be read, or only one of them is messages."""
    if all(map(_MESSAGES_IN_PYTHON.match, texts.values())) and len(texts) == len(parsed):
        raise RowError(next(iter(texts)), "messages as Python writes a list", JSON_TEXT)
    read = [side for side, found in parsed.items() if found is not None]
    for side, text in texts.items():
        if parsed[side] is None and (read or _MESSAGES_IN_JSON.match(text)):
            if all(map(_MESSAGES_IN_JSON.match, texts.values())):
                raise RowError(side, f"messages in broken JSON, {describe(text)}", JSON_TEXT)
            if read and any(not isinstance(row.values.get(one), str) for one in read):
                continue  # a text next to messages: the reader names it
            row.noted["responses that are messages in JSON beside plain texts, read as text"] += 1
            return


def refuse_images(row: Row, columns: Iterable[str]) -> None:
    """Raise RowError where a row has images and one of the texts in these columns shows them."""
    images = [name for name in IMAGES if row.values.get(name) not in (None, [], "", {})]
    if row.version >= 2 and images and any(_shows_image(row.values.get(name)) for name in columns):
        found = f"{describe(row.values[images[0]])} of images that the messages show"
        raise RowError(images[0], found, NO_IMAGES)


def _shows_image(value: Any) -> bool:
    if isinstance(value, str):
        return _SHOWS_IMAGE.search(value) is not None
    if isinstance(value, list | dict):
        return any(_shows_image(item) for item in (value.values() if isinstance(value, dict) else value))
    return False
