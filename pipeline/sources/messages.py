"""Messages as people write them: role and content, or ShareGPT's from and value; text parts; calls of tools; reasoning.

What a chat template may render is kept, what cannot be read is refused by name, what no template reads is noted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from micropref.pipeline.sources.jsonl import strict_json
from micropref.pipeline.sources.pairs import Message, as_json
from micropref.pipeline.sources.rows import Row, RowError, describe, is_blank

ROLES = ("system", "developer", "user", "assistant", "tool")
OTHER_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function": "tool",
}
"""Names of roles in ShareGPT files and older interfaces → ours."""
ROLE_KEYS = ("role", "from")
CONTENT_KEYS = ("content", "value", "text", "parts")
REASONING = ("reasoning_content", "reasoning", "thinking")
"""Names under which files and chat templates know what an assistant thought before it spoke."""
LINKS = ("tool_call_id", "name")
"""Texts that say to which call or speaker a message belongs."""
IMAGES = (
    "image",
    "images",
    "image_url",
    "input_image",
    "video",
    "videos",
    "video_url",
    "audio",
    "audios",
    "input_audio",
)
"""Names of columns, fields and kinds of parts that show what is no text."""
TEXT_PARTS = ("text", "input_text", "output_text")
A_MESSAGE = 'a message {"role": ..., "content": ...}'
A_MESSAGE_CONTENT = "a text or a list of text parts"
A_TEXT_PART = 'a text part {"type": "text", "text": ...}'
NO_IMAGES = "texts only: leave out rows that show images, sound or video"
ARGUMENTS = ("arguments", "parameters", "args")
"""Names of a call's arguments, of which chat templates know the first."""
CALLS = 'a list of calls {"function": {"name": ..., "arguments": {...}}}'
TOOLS = "a list of objects, each a tool's schema"


def looks_like_message(item: Any) -> bool:
    """Say whether a value is an object with a role, under either of its names."""
    return isinstance(item, dict) and any(isinstance(item.get(key), str) for key in ROLE_KEYS)


def read_message(row: Row, item: Any, field: str) -> Message:
    """Return a message. Raises RowError naming the part of `field` that is not as expected."""
    if not isinstance(item, dict):
        raise RowError(field, describe(item), A_MESSAGE)
    if row.version < 2:
        return _first_reading(item, field)
    named = "from" if item.get("role") is None and "from" in item else "role"
    said = item.get(named)
    role = OTHER_ROLES.get(said, said) if isinstance(said, str) else said
    if role not in ROLES:
        raise RowError(f"{field}.{named}", describe(said), "one of " + ", ".join(ROLES))
    if shown := [name for name in IMAGES if item.get(name)]:
        raise RowError(f"{field}.{shown[0]}", f"{describe(item[shown[0]])} that shows an image", NO_IMAGES)
    key = next((key for key in CONTENT_KEYS if item.get(key) is not None), "content")
    more = _more(row, item, field, said)
    if said == "function_call":
        return Message(role, "", as_json({**more, "tool_calls": [_call(_parsed(item.get(key)), f"{field}.{key}")]}))
    content = _content(item.get(key), f"{field}.{key}", may_be_null=bool(more))
    ignored = set(item).difference(ROLE_KEYS, (key,), more, REASONING, (*LINKS, "tool_calls", "function_call", "tools"))
    for name in sorted(ignored):
        if item[name] not in (None, [], "", {}):
            row.noted[f"message fields {name!r} not read"] += 1
    return Message(role, content, as_json(more) if more else "")


def read_tools(value: Any, field: str) -> list[Any] | None:
    """Return the tools on offer, None where there are none: a list of schemas, or the JSON text of one.

    A text that is no JSON, or a list of anything else, is a column of another meaning. Raises RowError for JSON that is
    neither.
    """
    found = _parsed(value)
    if isinstance(found, dict) and found:
        found = [found]
    if not isinstance(found, list) or not found or (isinstance(value, str) and found is value):
        return None
    if not all(isinstance(tool, dict) for tool in found):
        if all(isinstance(tool, str) for tool in found):
            return None
        raise RowError(field, describe(value), TOOLS)
    return [without_nulls(tool) for tool in found]


def without_nulls(value: Any) -> Any:
    """Return a value without the fields that are null: Parquet has every field in every row."""
    if isinstance(value, dict):
        return {name: without_nulls(item) for name, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def _more(row: Row, item: Mapping[str, Any], field: str, said: object) -> dict[str, Any]:
    """Return what a template may render of a message besides its content."""
    more: dict[str, Any] = {}
    thought = next((item[name] for name in REASONING if isinstance(item.get(name), str) and item[name]), None)
    if thought is not None:
        more["reasoning_content"] = thought
    elif strange := next((name for name in REASONING if item.get(name)), None):
        row.noted[f"message fields {strange!r} not read"] += 1
    calls = _parsed(item.get("tool_calls"))
    if isinstance(calls, dict):
        calls = [calls]
    if calls is not None and not isinstance(calls, list) and not (isinstance(calls, str) and is_blank(calls)):
        raise RowError(f"{field}.tool_calls", describe(item["tool_calls"]), CALLS)
    if calls:
        more["tool_calls"] = [_call(call, f"{field}.tool_calls[{place}]") for place, call in enumerate(calls)]
    elif item.get("function_call") and said != "function_call":
        more["tool_calls"] = [_call(_parsed(item["function_call"]), f"{field}.function_call")]
    more.update({name: item[name] for name in LINKS if isinstance(item.get(name), str) and item[name]})
    tools = read_tools(item.get("tools"), f"{field}.tools")
    if tools is not None:
        more["tools"] = tools
    return more


def _call(call: Any, field: str) -> dict[str, Any]:
    """Return a call in the form that chat templates expect: nested, its arguments an object where they parse."""
    if not isinstance(call, dict):
        raise RowError(field, describe(call), CALLS)
    call = without_nulls(call)
    function = _parsed(call.get("function"))
    if isinstance(function, str):
        function = {"name": function, "arguments": call.pop("arguments", {})}
    elif not isinstance(function, dict):
        function = {name: call.pop(name) for name in ("name", *ARGUMENTS) if name in call}
    if not isinstance(function.get("name"), str):
        raise RowError(field, "a call without the name of its function", CALLS)
    given = next((name for name in ARGUMENTS if name in function), "arguments")
    function = {"arguments" if name == given else name: value for name, value in function.items()}
    function["arguments"] = _parsed(function.get("arguments", {}))
    return {**({} if "type" in call else {"type": "function"}), **call, "function": function}


def _parsed(value: Any) -> Any:
    """Return the object or list that a text is the JSON of, anything else as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith(("{", "[")):
        return value
    try:
        return strict_json(value.strip())
    except RowError:
        return value


def _content(content: Any, field: str, *, may_be_null: bool) -> str:
    if content is None and may_be_null:
        return ""
    if isinstance(content, dict):
        content = [content]
    if isinstance(content, list):
        return "".join(_text_part(part, f"{field}[{place}]") for place, part in enumerate(content))
    if not isinstance(content, str):
        raise RowError(field, describe(content), A_MESSAGE_CONTENT)
    return content


def _text_part(part: Any, field: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise RowError(field, describe(part), A_TEXT_PART)
    kind = part.get("type")
    if kind in IMAGES or any(part.get(name) for name in IMAGES):
        raise RowError(field, "an object that shows an image", NO_IMAGES)
    if kind is not None and kind not in TEXT_PARTS:
        raise RowError(field, f"an object of type {str(kind)[:40]!r}", A_TEXT_PART)
    text = part.get("text")
    if not isinstance(text, str):
        raise RowError(field, "an object without a text", A_TEXT_PART)
    return text


def _first_reading(item: Mapping[str, Any], field: str) -> Message:
    """Return role and text alone, as the first release did."""
    role, content = item.get("role"), item.get("content")
    if role not in ROLES:
        raise RowError(f"{field}.role", describe(role), "one of " + ", ".join(ROLES))
    if isinstance(content, list):
        for place, part in enumerate(content):
            if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise RowError(f"{field}.content[{place}]", describe(part), A_TEXT_PART)
        return Message(role, "".join(part["text"] for part in content))
    if not isinstance(content, str):
        raise RowError(f"{field}.content", describe(content), A_MESSAGE_CONTENT)
    return Message(role, content)
