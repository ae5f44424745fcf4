"""Who is scored with whom and when, with an engine whose every pass the test lets go on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import pytest
import torch

from micropref.cache.errors import Failure
from micropref.pipeline.rewards.scoring.candidates import Candidates, Rewarded
from micropref.pipeline.rewards.scoring.scorer import ScoringEngine
from micropref.pipeline.rewards.scoring.texts import Chunk
from micropref.pipeline.rewards.serving.batching import Batcher, Busy
from micropref.pipeline.sources.pairs import Text
from micropref.pipeline.text.tokens import Tokens


class Engine:
    """Rewards a text by its number; a text of the prompt "bad" cannot be forwarded, one of "worse" not tokenized."""

    class backbone:
        width, causal = 1, True

    def __init__(self) -> None:
        self.thread = ThreadPoolExecutor(1)
        self.go = threading.Semaphore(0)
        self.begun = threading.Semaphore(0)
        self.passes: list[list[int]] = []
        self.prompts: list[list[Text]] = []

    def read(self, candidates: list[Candidates]) -> Any:
        self.prompts.append([one.prompt for one in candidates])
        if any(one.prompt == "worse" for one in candidates):
            raise ValueError("worse")
        chunk = Chunk()
        for one in candidates:
            for response in one.responses:
                first = -1 if one.prompt == "bad" else int(str(response))
                chunk.texts.append(Tokens(np.array([first, *range(500)], dtype=np.int32)))
                chunk.trees.append(0)
        return type("Made", (), {"chunk": chunk, "candidates": candidates})

    def forward(self, texts: Sequence[Tokens], _: Sequence[int]) -> Future[torch.Tensor]:
        return self.thread.submit(self._vectors, [int(text.ids[0]) for text in texts])

    def _vectors(self, numbers: list[int]) -> torch.Tensor:
        self.passes.append(numbers)
        self.begun.release()
        assert self.go.acquire(timeout=10)
        if -1 in numbers:
            raise ValueError("bad")
        return torch.tensor(numbers)[:, None].float()

    def rewarded(self, asked: Any, vectors: torch.Tensor) -> Iterator[Rewarded]:
        rows = iter(vectors[:, 0].tolist())
        for one in asked.candidates:
            rewards = tuple(next(rows) for _ in one.responses)
            yield Rewarded(rewards, (None,) * len(rewards), None, (None,) * len(rewards), (False,) * len(rewards))


def asks(*numbers: int, prompt: str = "p") -> list[Candidates]:
    return [Candidates(prompt, tuple(map(str, numbers)))]


def run(test: Callable[[Engine, Batcher], Awaitable[None]], most: int = 2048, seconds: float = 10) -> None:
    async def whole() -> None:
        engine = Engine()
        batcher = Batcher(cast("ScoringEngine", engine), most, seconds)
        batcher.start()
        try:
            await asyncio.wait_for(test(engine, batcher), 20)
        finally:
            engine.go.release(1000)
            await batcher.stop()
            engine.thread.shutdown()

    asyncio.run(whole())


async def first_under_way(engine: Engine, batcher: Batcher) -> asyncio.Task[list[Rewarded]]:
    """Return a request whose pass has begun."""
    task = asyncio.create_task(batcher.score(asks(0)))
    await asyncio.to_thread(engine.begun.acquire)
    return task


async def waiting(batcher: Batcher, *requests: list[Candidates]) -> list[asyncio.Task[list[Rewarded]]]:
    tasks = [asyncio.create_task(batcher.score(one)) for one in requests]
    await asyncio.sleep(0.01)
    return tasks


def test_requests_that_wait_are_scored_together_those_of_a_prompt_side_by_side() -> None:
    async def test(engine: Engine, batcher: Batcher) -> None:
        first = await first_under_way(engine, batcher)
        rest = await waiting(batcher, asks(1, 2, prompt="b"), asks(3, prompt="a"), asks(4, prompt="b"))
        engine.go.release(9)
        found = [task.result() for task in [first, *rest] if await asyncio.wait([task])]
        assert [[one.rewards for one in groups] for groups in found] == [[(0,)], [(1, 2)], [(3,)], [(4,)]]
        assert engine.prompts == [["p"], ["a", "b", "b"]]
        assert engine.passes == [[0], [3, 1, 2, 4]]

    run(test)


def test_a_large_request_does_not_hold_up_a_small_one() -> None:
    async def test(engine: Engine, batcher: Batcher) -> None:
        large = asyncio.create_task(batcher.score(asks(*range(1, 301))))
        await asyncio.to_thread(engine.begun.acquire)
        (small,) = await waiting(batcher, asks(1000))
        engine.go.release(2)
        assert (await small)[0].rewards == (1000,)
        assert not large.done()
        assert 1000 in engine.passes[1]
        engine.go.release(1000)
        assert (await large)[0].rewards == tuple(range(1, 301))
        assert [number for numbers in engine.passes for number in numbers if number < 1000] == list(range(1, 301))

    run(test)


def test_a_full_queue_answers_at_once() -> None:
    async def test(engine: Engine, batcher: Batcher) -> None:
        first = await first_under_way(engine, batcher)
        (second,) = await waiting(batcher, asks(1, 2, 3))
        with pytest.raises(Busy) as busy:
            await asyncio.wait_for(batcher.score(asks(4)), 0.1)
        assert busy.value.seconds >= 1
        engine.go.release(9)
        await first
        await second
        assert batcher.waiting == 0
        assert (await batcher.score(asks(*range(50))))[0].rewards[-1] == 49  # alone it is taken

    run(test, most=4)


def test_who_has_gone_costs_no_pass() -> None:
    async def test(engine: Engine, batcher: Batcher) -> None:
        first = await first_under_way(engine, batcher)
        gone, stays = await waiting(batcher, asks(1), asks(2))
        gone.cancel()
        await asyncio.wait([gone])
        assert batcher.waiting == 2
        engine.go.release(9)
        await asyncio.gather(first, stays)
        assert engine.passes == [[0], [2]]

    run(test)


def test_a_large_request_that_nobody_waits_for_is_not_read_on() -> None:
    async def test(engine: Engine, batcher: Batcher) -> None:
        large = asyncio.create_task(batcher.score(asks(*range(1, 301))))
        await asyncio.to_thread(engine.begun.acquire)
        large.cancel()
        await asyncio.wait([large])
        engine.go.release(1)
        (small,) = await waiting(batcher, asks(1000))
        engine.go.release(1)
        await small
        assert engine.passes[1:] == [[1000]]

    run(test)


def test_too_long_a_wait_ends() -> None:
    async def test(engine: Engine, batcher: Batcher) -> None:
        await first_under_way(engine, batcher)
        with pytest.raises(Busy):
            await batcher.score(asks(1))
        assert "taken more than 0.2 s" in str(batcher.trouble)
        engine.go.release(9)

    run(test, seconds=0.2)


@pytest.mark.parametrize("prompt", ["bad", "worse"])
def test_a_request_at_fault_harms_no_other(prompt: str) -> None:
    async def test(engine: Engine, batcher: Batcher) -> None:
        first = await first_under_way(engine, batcher)
        tasks = await waiting(batcher, asks(1), asks(2, prompt=prompt), asks(3))
        engine.go.release(99)
        await first
        await asyncio.wait(tasks)
        assert [tasks[at].result()[0].rewards for at in (0, 2)] == [(1,), (3,)]
        with pytest.raises(ValueError, match=prompt):
            tasks[1].result()
        assert batcher.waiting == 0
        assert batcher.trouble is None

    run(test)


def test_when_scoring_has_ended_everybody_is_told() -> None:
    async def test(engine: Engine, batcher: Batcher) -> None:
        first = await first_under_way(engine, batcher)
        (second,) = await waiting(batcher, asks(1))
        assert batcher._task is not None
        batcher._task.cancel()
        for task in (first, second):
            with pytest.raises(Failure, match="start the server again"):
                await task
        with pytest.raises(Failure, match="start the server again"):
            await batcher.score(asks(2))
        assert "start the server again" in str(batcher.trouble)

    run(test)
