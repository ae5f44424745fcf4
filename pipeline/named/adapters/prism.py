"""PRISM: people of 75 countries choose among up to four models' answers, turn by turn."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from micropref.pipeline.named.adapters.comparing import comparison, listed, member
from micropref.pipeline.named.adapters.facts import NamedDataset
from micropref.pipeline.sources.adapters import Adapter, Ordinary
from micropref.pipeline.sources.json_files import json_records
from micropref.pipeline.sources.rows import NoPreference, Row, RowError, describe

SURVEY = "survey.jsonl"


def _turns(row: Row) -> Iterator[Ordinary]:
    user = row.values["user_id"]
    if not isinstance(user, str | int):
        raise RowError("user_id", describe(user), "an id")
    labels = {"user": user, "context": _wishes_of(row).get(user)}
    said: list[dict[str, str]] = []
    for asked, answers in _rounds(row):
        said.append({"role": "user", "content": asked})
        chosen = [text for text, is_chosen in answers if is_chosen]
        if len(chosen) != 1:
            yield NoPreference("no answer chosen" if not chosen else "several answers chosen")
            return  # what follows builds on an answer that nobody knows
        for text, is_chosen in answers:
            if not is_chosen:
                yield comparison(chosen[0], text, False, prompt=list(said), **labels)
        said.append({"role": "assistant", "content": chosen[0]})


def _rounds(row: Row) -> Iterator[tuple[str, list[tuple[str, bool]]]]:
    """Yield what a person said in each turn, and the answers with whether each was chosen."""
    by_turn: dict[float, tuple[list[str], list[tuple[str, bool]]]] = {}
    for at, one in enumerate(listed(row, "conversation_history")):
        field = f"conversation_history[{at}]"
        turn = member(field, one, "turn")
        if not isinstance(turn, int | float):
            raise RowError(f"{field}.turn", describe(turn), "a number")
        asked, answers = by_turn.setdefault(turn, ([], []))
        content = member(field, one, "content")
        if not isinstance(content, str):
            raise RowError(f"{field}.content", describe(content), "a text")
        if one.get("role") == "user":
            asked.append(content)
        else:
            answers.append((content, one.get("if_chosen") is True))
    for turn in sorted(by_turn):
        asked, answers = by_turn[turn]
        if len(asked) != 1 or not answers:
            found = f"turn {turn} with {len(asked)} questions and {len(answers)} answers"
            raise RowError("conversation_history", found, "one question and its answers in each turn")
        yield asked[0], answers


def _wishes_of(row: Row) -> dict[Any, str]:
    """Return each person's wish for a model, as the survey next to the conversations has it; none without one."""
    survey = Path(row.origin.path).with_name(SURVEY)
    return _wishes(survey, survey.stat().st_mtime_ns) if survey.is_file() else {}


@lru_cache(maxsize=1)
def _wishes(survey: Path, _changed: int) -> dict[Any, str]:
    rows = (fields for _, fields in json_records(survey) if isinstance(fields, dict))
    found = [(fields.get("user_id"), fields.get("system_string")) for fields in rows]
    return {
        user: wish for user, wish in found if isinstance(user, str | int) and isinstance(wish, str) and wish.strip()
    }


PRISM = NamedDataset(
    "HannahRoseKirk/prism-alignment",
    licence="CC-BY-4.0 (people's texts), CC-BY-NC-4.0 (models' answers)",
    size="8,011 conversations of 1,500 people, no test split: --split-by-prompt",
    labels="by people: the answer that was chosen against each of the others, turn by turn",
    attributes="none",
    contexts="system_string of the survey: what the person wants a model to be like (needs survey.jsonl next to it)",
    users="user_id",
    configs={
        "default": Adapter(
            "HannahRoseKirk/prism-alignment",
            _turns,
            ("user_id", "conversation_history"),
            "preference",
            files={"train": ("conversations.jsonl",)},
            beside=(SURVEY,),
        )
    },
)
