"""Chatbot Arena: votes on two models' answers, 55k and 140k."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from micropref.pipeline.named.adapters.comparing import (
    NO_LABEL,
    TIE,
    comparison,
    labelled,
    listed,
    member,
    number,
    one_of,
)
from micropref.pipeline.named.adapters.facts import NamedDataset
from micropref.pipeline.sources.adapters import Adapter, Ordinary
from micropref.pipeline.sources.jsonl import strict_json
from micropref.pipeline.sources.rows import NoPreference, Row, RowError, describe

WINNERS: dict[str, bool | None] = {
    "model_a": False,
    "model_b": True,
    "tie": None,
    "both_bad": None,
    "tie (bothbad)": None,
}
"""Votes → whether the second answer won; None: neither."""
ONE_HOT = {"winner_model_a": False, "winner_model_b": True, "winner_tie": None}


def _as_json(row: Row) -> Iterator[Ordinary]:
    """Read a row of 55k, whose turns are lists in JSON texts and whose winner is one of three columns."""
    votes = [second for field, second in ONE_HOT.items() if number(row, field) == 1]
    if len(votes) != 1:
        raise NoPreference(NO_LABEL)
    prompts = _texts(row, "prompt")
    first, second = (_alternating(prompts, _texts(row, field)) for field in ("response_a", "response_b"))
    yield comparison(first, second, votes[0])


def _texts(row: Row, field: str) -> list[str]:
    """Return the turns of a JSON text; an answer that is null was empty."""
    value = row.values[field]
    try:
        turns = strict_json(value) if isinstance(value, str) else value
    except RowError as error:
        raise RowError(field, error.found, "a JSON list of texts") from None
    if not isinstance(turns, list) or not all(turn is None or isinstance(turn, str) for turn in turns):
        raise RowError(field, describe(turns), "a JSON list of texts")
    return ["" if turn is None else turn for turn in turns]


def _alternating(prompts: list[str], answers: list[str]) -> list[dict[str, str]]:
    if len(prompts) != len(answers):
        raise RowError("prompt", f"{len(prompts)} prompts and {len(answers)} answers", "an answer to each prompt")
    turns = zip_longest(prompts, answers)
    return [
        {"role": role, "content": text}
        for both in turns
        for role, text in zip(("user", "assistant"), both, strict=True)
    ]


def _as_messages(row: Row) -> Iterator[Ordinary]:
    """Read a row of 140k, whose turns are lists of parts."""
    winner = row.values["winner"]
    if winner is None:
        raise NoPreference(NO_LABEL)
    second_won = one_of("winner", winner, WINNERS)
    if second_won is None:
        raise NoPreference(TIE if winner == "tie" else "both bad")
    first, second = (_spoken(row, field) for field in ("conversation_a", "conversation_b"))
    yield comparison(first, second, second_won, **labelled(row, user="evaluation_session_id"))


def _spoken(row: Row, field: str) -> list[dict[str, Any]]:
    return [
        {"role": member(f"{field}[{at}]", turn, "role"), "content": _content(f"{field}[{at}].content", turn)}
        for at, turn in enumerate(listed(row, field))
    ]


def _content(field: str, turn: Any) -> str:
    content = turn.get("content")
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise RowError(field, describe(content), "a text or a list of parts")
    for part in content:
        if isinstance(part, dict) and (part.get("image") or part.get("type") == "image"):
            raise RowError(field, "an image", "texts: images cannot be read")
    return "".join(str(member(field, part, "text") or "") for part in content)


ARENA_55K = NamedDataset(
    "lmarena-ai/arena-human-preference-55k",
    licence="Apache-2.0",
    size="57,477 votes, train only",
    labels="by visitors of Chatbot Arena; ties are dropped",
    attributes="none",
    contexts="none",
    users="none",
    configs={
        "default": Adapter(
            "lmarena-ai/arena-human-preference-55k",
            _as_json,
            ("prompt", "response_a", "response_b", *ONE_HOT),
            "preference",
        )
    },
)
ARENA_140K = NamedDataset(
    "lmarena-ai/arena-human-preference-140k",
    licence="CC-BY-4.0",
    size="about 136,000 votes, train only",
    labels="by visitors of LMArena; tie and both_bad are dropped, votes on images refused",
    attributes="none",
    contexts="none",
    users="evaluation_session_id: one visit, so that a person who comes again is another user",
    configs={
        "default": Adapter(
            "lmarena-ai/arena-human-preference-140k",
            _as_messages,
            ("conversation_a", "conversation_b", "winner"),
            "preference",
        )
    },
)
