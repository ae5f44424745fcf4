"""Rows in the schemas of real preference data, their texts invented, and what people and exports do to such rows."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

Row = dict[str, Any]

ASKED = {"role": "user", "content": "Which lake is deep?"}
GOOD = {"role": "assistant", "content": "Lake Como, with 400 m."}
POOR = {"role": "assistant", "content": "Lakes are wet."}
TALK = [ASKED, POOR, {"role": "user", "content": "No, which one?"}]
CALLS = [{"id": "c1", "type": "function", "function": {"name": "depth", "arguments": '{"lake": "Como"}'}}]
TOOLS = [{"type": "function", "function": {"name": "depth", "parameters": {"type": "object"}}}]
SCHEMAS: dict[str, tuple[Row, Row]] = {
    "trl": ({"prompt": "Which lake is deep?", "chosen": "Como.", "rejected": "Wet.", "margin": 1.5},) * 2,
    "trl conversational": ({"prompt": TALK, "chosen": [GOOD], "rejected": [POOR], "attribute": "depth"},) * 2,
    "preference_700K": ({"chosen": [*TALK, GOOD], "rejected": [*TALK, POOR]},) * 2,
    "UltraFeedback-binarized": (
        {
            "prompt": ASKED["content"], "prompt_id": "0f3a", "chosen": [ASKED, GOOD], "rejected": [ASKED, POOR],
            "messages": [ASKED, GOOD], "score_chosen": 8.5, "score_rejected": 3.0,
        },
    ) * 2,
    "HH-RLHF": (
        {
            "chosen": "\n\nHuman: Which lake?\n\nAssistant: Why?\n\nHuman: So.\n\nAssistant: Como.",
            "rejected": "\n\nHuman: Which lake?\n\nAssistant: Why?\n\nHuman: So.\n\nAssistant: Wet.",
        },
    ) * 2,
    "HelpSteer2": (
        {"prompt": "Which lake?", "response": "Como.", "helpfulness": 4, "correctness": 3, "verbosity": 1},
        {"prompt": "Which lake?", "response": "Wet.", "helpfulness": 1, "correctness": 0, "verbosity": 2},
    ),
    "HelpSteer2 preference": (
        {"prompt": "Which lake?", "response_1": "Wet.", "response_2": "Como.", "preference_strength": 2},
    ) * 2,
    "HelpSteer3": (
        {
            "domain": "general", "language": "english", "context": TALK, "response1": "Como.", "response2": "Wet.",
            "overall_preference": -2, "individual_preference": [{"score": -2, "reasoning": "deeper"}],
        },
    ) * 2,
    "RPR": (
        {
            "prompt": "Which lake?", "response_a": "Como.", "response_b": "Lake Como, at the foot of the Alps.",
            "criteria_x": "Be short.", "criteria_y": "Be vivid.", "category_x": "short", "category_y": "vivid",
            "scenario_x": "On a phone.", "profile_0": "A hiker.",
        },
    ) * 2,
    "RewardBench": ({"prompt": "Which lake?", "chosen": "Como.", "rejected": "Wet.", "subset": "hep", "id": 7},) * 2,
    "RewardBench 2": (
        {
            "id": "7", "prompt": "Which lake?", "chosen": ["Como.", "Garda."], "rejected": ["Wet.", "Dry.", "Blue."],
            "num_correct": 2, "subset": "Ties",
        },
    ) * 2,
    "ShareGPT": (
        {
            "conversations": [{"from": "human", "value": "Which lake?"}],
            "chosen": {"from": "gpt", "value": "Como."}, "rejected": {"from": "gpt", "value": "Wet."},
        },
    ) * 2,
    "tool calls": (
        {
            "tools": TOOLS, "prompt": [*TALK, {"role": "assistant", "content": None, "tool_calls": CALLS},
            {"role": "tool", "tool_call_id": "c1", "content": "400"}],
            "chosen": [GOOD | {"reasoning_content": "400 m."}], "rejected": [POOR | {"tool_calls": CALLS}],
        },
    ) * 2,
    "JSON text": ({"prompt": "Which lake?", "chosen": json.dumps([GOOD]), "rejected": json.dumps([POOR])},) * 2,
}  # fmt: skip
"""Name of a schema → two good rows."""
ODD = (
    "", " ", "\n\n", "\t", "<|end|>", "<|user|>", "</s>", "[SEP]", "{{ messages }}", "{% raw %}", "%s", "\x00",
    "\u2028", "é", "日本語", "🦆", "\u202e", "\uf8e0\ue000\ue001", "\uf8e1", "Human: ", "\n\nAssistant:",
    "[{'role': 'user'}]", "N/A", "nan", "word " * 900, "x" * 3000, "<image>", "]]>", "\\u0000", '"', "{", "[",
)  # fmt: skip
"""Pieces of text that go wrong somewhere."""


def texts(value: Any) -> list[tuple[Any, Any]]:
    """Return every (container, key) of a text inside a JSON value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [
        place
        for key, child in inside
        for place in ([(value, key)] if isinstance(child, str) else texts(child))
        if key not in ("role", "from", "type")
    ]


def messages(value: Any) -> list[Row]:
    """Return every message inside a JSON value."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    own = [value] if isinstance(value, dict) and ("role" in value or "from" in value) else []
    return own + [one for child in inside for one in messages(child)]


def put_odd_text(row: Row, dice: random.Random) -> None:
    for container, key in dice.sample(places := texts(row), min(len(places), dice.randint(1, 3))):
        text, piece = container[key], dice.choice(ODD)
        at = dice.randint(0, len(text))
        container[key] = dice.choice([text[:at] + piece + text[at:], piece + text, text + piece, piece])


def change_a_message(row: Row, dice: random.Random) -> None:
    found = messages(row)
    if not found:
        return put_odd_text(row, dice)
    one = dice.choice(found)
    content = one.get("content", one.get("value"))
    change: Row = dice.choice(
        [
            {"content": [{"type": "text", "text": content, "image": None}]},
            {"content": [str(content), {"type": "text", "text": "."}]},
            {"content": None, "tool_calls": CALLS},
            {"tool_calls": json.dumps(CALLS)},
            {"tool_calls": None, "reasoning_content": None},
            {"reasoning": dice.choice(ODD)},
            {"name": "ann", "id": 7, "timestamp": 1.5},
            {"function_call": {"name": "depth", "arguments": "{}"}},
            {"content": [{"type": "image_url", "image_url": {"url": "a.png"}}]},
            {"role": dice.choice(["system", "developer", "tool", "user", "assistant", "human", "gpt", "narrator"])},
        ]
    )
    one.update(change)
    return None


def write_as_json(row: Row, dice: random.Random) -> None:
    lists = [name for name, value in row.items() if isinstance(value, list | dict)]
    for name in lists if dice.random() < 0.7 else dice.sample(lists, min(1, len(lists))):
        row[name] = dice.choice([json.dumps, json.dumps, json.dumps, str])(row[name])


def add_columns(row: Row, dice: random.Random) -> None:
    more: Row = {
        "tools": dice.choice([TOOLS, json.dumps(TOOLS), [], None, "hammer"]),
        "images": dice.choice([[], None, ["a.png"]]), "user": dice.choice(["ann", 7, None]), "source": "web",
        "num_turns": 3, "meta": {"a": [1, None]}, "context": "Be kind.",
    }  # fmt: skip
    for name in dice.sample(list(more), dice.randint(1, 3)):
        row.setdefault(name, more[name])


def repeat_the_prompt(row: Row, dice: random.Random) -> None:
    asked = row.get("prompt")
    for side in ("chosen", "rejected"):
        if isinstance(asked, str) and isinstance(row.get(side), str):
            row[side] = asked + dice.choice([" ", "\n\n", ""]) + row[side]
        elif isinstance(asked, str) and isinstance(row.get(side), list):
            row["prompt"] = asked + dice.choice([" ", "\n", ""])
        elif isinstance(asked, list) and isinstance(row.get(side), list):
            row[side] = [*asked, *row[side]]


GENTLE: tuple[Callable[[Row, random.Random], None], ...] = (
    put_odd_text, put_odd_text, put_odd_text, change_a_message, change_a_message, write_as_json, add_columns,
    repeat_the_prompt,
)  # fmt: skip


def gently(row: Row, dice: random.Random) -> bytes:
    """Return a row as a line, changed in ways that mostly leave it a row."""
    changed: Row = json.loads(json.dumps(row))
    for _ in range(dice.randint(1, 2)):
        dice.choice(GENTLE)(changed, dice)
    return json.dumps(changed, ensure_ascii=dice.random() < 0.5).encode()
