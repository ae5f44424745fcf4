"""Rows whose values are of other kinds than the data sets have: each is read, left out or set aside, and counted."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from micropref.cache.errors import BadInput
from micropref.pipeline.named.registry import named_datasets
from micropref.pipeline.sources.locations import Given, locate
from micropref.pipeline.sources.reader import read_source

TALK = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
OTHER = [TALK[0], {"role": "assistant", "content": "b"}]
JUDGED = {f"{aspect}_pref": "A-is-clearly-better" for aspect in ("overall", "helpful", "truthful", "harmless")}
ROWS: dict[str, list[dict[str, Any]]] = {
    "helpfulness": [
        {"prompt": "p", "response": response, "helpfulness": 1, "correctness": at, "coherence": 3, "complexity": 4 - at,
         "verbosity": 2} for at, response in enumerate("ab")
    ],
    "preference_strength": [{"prompt": "p", "response_1": "a", "response_2": "b", "preference_strength": 1}],
    "overall_preference": [{"context": TALK[:1], "response1": "a", "response2": "b", "overall_preference": -1}],
    "criteria_x": [{"prompt": "p", "response_a": "a", "response_b": "b", "criteria_x": "x", "criteria_y": "y",
                    "category_x": "X", "category_y": "Y"}],
    "completions": [{"instruction": "p", "completions": [
        {"response": word, "annotations": {"honesty": {"Rating": str(at)}}} for at, word in enumerate("ab")]}],
    "score_chosen": [{"prompt": "q", "chosen": TALK, "rejected": OTHER, "score_chosen": 2.0, "score_rejected": 1.0}],
    "better_response_id": [{"prompt": "p", "response_0": "a", "response_1": "b", "better_response_id": 0,
                            "safer_response_id": 1}],
    "history": [{"history": "p", "human_ref_A": "a", "human_ref_B": "b", "labels": 1, "domain": "d"}],
    "completion_a": [{"text": "p", "completion_a": "a", "completion_b": "b",
                      "normal_worker_annotations": [{"evaluator": "e", **JUDGED}], "expert_worker_annotations": []}],
    "conversation_history": [{"user_id": "u", "conversation_history": [
        {"turn": 0, "role": "user", "content": "q"},
        {"turn": 0, "role": "model", "content": "a", "if_chosen": True},
        {"turn": 0, "role": "model", "content": "b", "if_chosen": False}]}],
    "annotator_id": [{"annotator_id": 1, "first_turn_prompt": "q", "first_turn_preferred_response": "response_a",
                      **{f"first_turn_response_{letter}": letter for letter in "abcd"}}],
    "winner_model_a": [{"prompt": '["q"]', "response_a": '["a"]', "response_b": '["b"]', "winner_model_a": 1,
                        "winner_model_b": 0, "winner_tie": 0}],
    "winner": [{"conversation_a": TALK, "conversation_b": OTHER, "winner": "model_a", "evaluation_session_id": "s"}],
    "question": [{"question": "p", "chosen": "a", "rejected": "b"}],
    "subset": [{"prompt": "p", "chosen": "a", "rejected": "b", "subset": "s"}],
    "rejected": [{"chosen": TALK, "rejected": OTHER, "source": "s"}],
}  # fmt: skip
"""A column that only some data sets have → good rows of these."""
BY_NAME: dict[str, list[dict[str, Any]]] = {
    "allenai/reward-bench-2": [{"prompt": "p", "chosen": ["a"], "rejected": ["b", "c"], "subset": "s"}],
    "THU-KEG/RM-Bench": [{"prompt": "p", "chosen": ["a", "b", "c"], "rejected": ["d", "e", "f"], "domain": "chat"}],
    "Anthropic/hh-rlhf": [{"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}],
}
BAD = (None, "", " ", "text", 0, -1, 1.5, True, [], {}, ["a"], [None], {"a": 1}, [[]], [{"role": "user"}])
TRIES = 25


def good_rows(name: str, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    if name in BY_NAME:
        return BY_NAME[name]
    if "response_8" in columns:
        scores = {column: 0.5 for column in columns if column.startswith("response_1_")}
        row = {"prompt": "p", **{f"response_{at}": f"r{at}" for at in range(1, 9)}, **scores}
        return [{**row, **{key.replace("_1_", "_2_"): 0.25 for key in scores}}]
    return next(rows for column, rows in ROWS.items() if column in columns)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def mutated(rows: list[dict[str, Any]], draw: random.Random) -> list[dict[str, Any]]:
    found: Any = copy.deepcopy(rows)
    *way, last = draw.choice(list(places(found)))
    inner = found
    for key in way:
        inner = inner[key]
    if draw.random() < 0.2 and isinstance(inner, dict):
        del inner[last]
    else:
        inner[last] = copy.deepcopy(draw.choice(BAD))
    return [row for row in found if isinstance(row, dict)]


@pytest.mark.parametrize("name", [one.name for one in named_datasets().values()])
def test_rows_of_other_kinds_are_counted(tmp_path: Path, name: str) -> None:
    draw = random.Random(name)
    accepted, refused = 0, []
    for adapter in named_datasets()[name.lower()].configs.values():
        good = good_rows(name, adapter.columns)
        for _ in range(TRIES):
            rows = [*good, *mutated(good, draw)]
            file = tmp_path / "rows.jsonl"
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
            (located, *_) = locate(Given(file, adapter=adapter))
            try:
                source = read_source(located, on_bad="skip")
            except BadInput as error:
                refused.append(str(error))
                continue
            accepted += 1
            assert source.rows == len(rows)
            seen = {one.origin.line for one in (*source.pairs, *source.ratings, *source.rejects)}
            assert seen == set(range(1, len(rows) + 1))  # every row is a pair, a rating, a drop or a reject
            assert sum(source.dropped.values()) == len(source.rejects)
    assert accepted > TRIES / 3
    assert not any("\n" in line for line in refused)
