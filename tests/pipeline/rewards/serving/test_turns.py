"""Parts of readings by their distinct tokens, the same for each."""

from __future__ import annotations

import concurrent.futures
from typing import Any, cast

import numpy as np
import pytest
import torch

from micropref.pipeline.rewards.scoring.scorer import Asked
from micropref.pipeline.rewards.scoring.texts import Chunk
from micropref.pipeline.rewards.serving.turns import FIRST_TOKENS, LEAST_TOKENS, TURN_S, Reading, Request, Turns
from micropref.pipeline.text.tokens import Tokens


def reading(trees: list[int], *texts: list[int], shares: bool = True, done: bool = False) -> Reading:
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()
    if done:
        future.cancel()
    chunk = Chunk([], [Tokens(np.array(ids, dtype=np.int32)) for ids in texts], trees)
    asked = cast("Asked", type("Made", (), {"chunk": chunk}))
    return Reading.of([Request([], cast("Any", future))], [], asked, 2, shares=shares)


def test_a_text_costs_what_it_does_not_share_with_the_one_before() -> None:
    texts = [1, 2, 3], [1, 2, 4, 5], [1, 2, 4], [1, 2, 3]
    assert reading([0, 0, 0, 1], *texts).costs == [3, 2, 0, 3]
    assert reading([0, 0, 0, 1], *texts, shares=False).costs == [3, 4, 3, 3]


def test_parts_are_of_about_as_many_tokens_and_cover_every_text_once() -> None:
    turns = Turns([reading([0] * 9, *([at] * 1000 for at in range(9))), reading([0], [1, 2, 3])])
    seen: list[list[int]] = [[], []]
    while turns.readings:
        turn = turns.next()
        assert turn.tokens <= FIRST_TOKENS + 2 * 1000
        for one, part in turn.parts:
            which = 0 if len(one.costs) == 9 else 1
            seen[which] += range(part.start, part.stop)
        assert len(turn.texts) == len(turn.trees)
        turn.put(torch.ones(len(turn.texts), 2))
        for done in turns.completed():
            assert done.vectors.eq(1).all()
    assert seen == [list(range(9)), [0]]


def test_prompts_of_two_readings_have_different_numbers() -> None:
    turn = Turns([reading([0, 1], [1], [2]), reading([0, 0], [1], [1, 2])]).next()
    assert turn.trees == [0, 1, 2, 2]


def test_a_turn_is_as_long_as_the_backbone_is_fast() -> None:
    turns = Turns([reading([0] * 99, *([at] * 1000 for at in range(99)))])
    turn = turns.next()
    turns.took(turn, turn.tokens / 20_000)
    assert turns.rate == pytest.approx(20_000)
    assert turns.next().tokens == pytest.approx(20_000 * TURN_S, abs=1000)
    turns.took(turns.next(), 1e6)
    turns.took(turns.next(), 1e6)
    for _ in range(20):
        turns.took(turns.next(), 1e6)
    assert turns.next().tokens == pytest.approx(LEAST_TOKENS, abs=1000)


def test_what_nobody_waits_for_is_dropped() -> None:
    turns = Turns([reading([0], [1], done=True), reading([0], [2])])
    assert [text.ids.tolist() for text in turns.next().texts] == [[2]]
    assert len(turns.readings) == 1
