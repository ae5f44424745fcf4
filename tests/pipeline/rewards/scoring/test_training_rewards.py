"""Reward functions for trainers give what the scorer does, by the columns of the data set."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import micropref
from micropref.cache.errors import BadInput

PROMPTS = [[{"role": "user", "content": f"What is thing {number}?"}] for number in range(3)]
COMPLETIONS = [[{"role": "assistant", "content": text}] for text in ("Gladly!", "See manual, page 3.", "x" * 900)]
COLUMNS: dict[str, Any] = {"context": ["Prefer the dry answer.", None, None], "user": [None, "ann", None]}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory, tiny_backbone: Callable[..., Path]) -> micropref.Store:
    from tests.conftest import preference_rows

    store = micropref.Store(tmp_path_factory.mktemp("trainers") / "store")
    backbone = tiny_backbone("llama", chat=True)
    store.embed(preference_rows(), "mine", backbone=backbone, split_by_prompt=0.3, device="cpu", dtype="float32")
    store.train("mine", k=2, restarts=1, epochs=3, run_name="pair")
    return store


@pytest.fixture(scope="module")
def scorer(opened: micropref.Store) -> Iterator[Any]:
    made = opened.run("pair").scorer(device="cpu")
    made.learn("ann", "What is thing 1?", chosen="Thing 1: see manual.", rejected="Gladly, friend!")
    yield made
    made.close()


def expected(scorer: Any) -> list[Any]:
    """Return what the scorer gives for each completion by its columns."""
    return [
        scorer.score(prompt, completion, context=context, user=user)
        for prompt, completion, context, user in zip(PROMPTS, COMPLETIONS, *COLUMNS.values(), strict=True)
    ]


def test_a_function_reads_the_columns_of_the_data_set(scorer: Any) -> None:
    ours = [one.rewards[0] for one in expected(scorer)]
    function = scorer.trl()
    asked = {"prompts": PROMPTS, "completions": COMPLETIONS, "completion_ids": [[1], [2], [3]], "trainer_state": None}
    found = function(**asked, **COLUMNS, log_metric=print, topic=["a", "b", "c"])
    assert found[:2] == pytest.approx(ours[:2], abs=1e-5)
    assert found[2] is ours[2] is None  # too long
    assert found[0] != pytest.approx(function(**asked)[0], abs=1e-4)
    assert asyncio.run(scorer.trl(asynchronous=True)(**asked, **COLUMNS))[:2] == pytest.approx(ours[:2], abs=1e-5)
    assert function.__name__ == scorer.trl(asynchronous=True).__name__
    texts = [prompt[0]["content"] for prompt in PROMPTS]
    replies = [completion[0]["content"] for completion in COMPLETIONS]
    assert function(prompts=texts, completions=replies, **COLUMNS)[:2] == pytest.approx(ours[:2], abs=1e-5)


def test_heads_apart_are_standardized_and_forwarded_once(scorer: Any, opened: micropref.Store) -> None:
    rows = opened.sql("SELECT prompt, chosen, rejected FROM pairs WHERE split = 'train'").iter_rows()
    stored = [scorer.score(prompt, each).heads[0] for prompt, *both in rows for each in both]
    rewards = torch.tensor(stored, dtype=torch.float64)
    ours = torch.tensor([one.heads[0] for one in expected(scorer)[:2]], dtype=torch.float64)
    standard = (ours - rewards.mean(0)) / rewards.std(0)
    functions = scorer.trl(heads="separate", scale="std")
    assert [one.__name__ for one in functions] == ["head_0", "head_1"]
    before = scorer._engine.forwarded_tokens
    found = [one(prompts=PROMPTS, completions=COMPLETIONS, **COLUMNS) for one in functions]
    once = scorer._engine.forwarded_tokens - before
    assert torch.tensor([one[:2] for one in found]).T.tolist() == pytest.approx(standard.numpy(), abs=1e-4)
    again = functions[0](prompts=PROMPTS, completions=COMPLETIONS, **COLUMNS)
    assert (again, scorer._engine.forwarded_tokens - before) == (found[0], 2 * once)
    clipped = scorer.trl(heads="separate", scale="std", clip=0.1)[0](prompts=PROMPTS, completions=COMPLETIONS)
    assert clipped[:2] == pytest.approx(standard[:, 0].clamp(-0.1, 0.1).tolist(), abs=1e-4)


def test_heads_apart_at_the_same_time(scorer: Any) -> None:
    functions = scorer.trl(heads="separate", asynchronous=True)
    plain = [one(prompts=PROMPTS, completions=COMPLETIONS) for one in scorer.trl(heads="separate")]

    async def gather() -> list[Any]:
        return list(await asyncio.gather(*(one(prompts=PROMPTS, completions=COMPLETIONS) for one in functions)))

    assert asyncio.run(gather()) == plain


def test_a_clip_that_clips_everything_is_refused(scorer: Any) -> None:
    with pytest.raises(BadInput, match="clip is 0"):
        scorer.trl(clip=0)


def test_a_person_whom_the_run_does_not_know_has_no_reward(scorer: Any) -> None:
    """One such row of a data set stops no training."""
    found = scorer.trl()(prompts=PROMPTS[:2], completions=COMPLETIONS[:2], user=["zed", "ann"])
    assert found[0] is None
    assert found[1] == pytest.approx(scorer.score(PROMPTS[1], COMPLETIONS[1], user="ann").rewards[0], abs=1e-5)
