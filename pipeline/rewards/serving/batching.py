"""Requests that wait while others are scored are scored together, their prompts side by side so that these are shared.

n groups of candidates.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from micropref.pipeline.rewards.scoring.candidates import Candidates, Rewarded
from micropref.pipeline.sources.pairs import canonical

BATCH_RESPONSES = 256
"""Responses that are scored together at most, once there is more than one request."""


class Busy(Exception):  # noqa: N818 - nothing is wrong with it
    """So many responses wait that a new request would wait too long: ask again in `seconds`."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"busy: ask again in {seconds} s")
        self.seconds = seconds


@dataclass(frozen=True)
class _Waiting:
    """One request."""

    candidates: list[Candidates]
    done: asyncio.Future[list[Rewarded]]

    @property
    def responses(self) -> int:
        return sum(len(one.responses) for one in self.candidates)


class Batcher:
    """Takes requests from one event loop, and scores them one batch after the other in a thread."""

    def __init__(
        self,
        score: Callable[[Sequence[Candidates]], list[Rewarded]],
        most_waiting: int,
        seconds: float,
        watch: Callable[[int], None],
    ) -> None:
        """Take what scores, how many responses may wait and for how long, and who is told of each batch's responses."""
        self._score, self._most, self._seconds, self._watch = score, most_waiting, seconds, watch
        self._queue: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._task: asyncio.Task[None] | None = None
        self.waiting = 0
        """Responses that wait or are being scored."""

    def start(self) -> None:
        """Begin to score what comes; called inside the event loop."""
        self._task = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """Finish what waits, then end."""
        while self._queue or self.waiting:
            await asyncio.sleep(0.01)
        if self._task is not None:
            self._task.cancel()
        self._thread.shutdown()

    async def score(self, candidates: list[Candidates]) -> list[Rewarded]:
        """Return the rewards of a request's groups. Raises Busy where too much waits, or it took too long."""
        item = _Waiting(candidates, asyncio.get_running_loop().create_future())
        # One request alone is always taken, however large it may be.
        if self.waiting and self.waiting + item.responses > self._most:
            raise Busy(1)
        self.waiting += item.responses
        self._queue.append(item)
        self._arrived.set()
        try:
            async with asyncio.timeout(self._seconds):
                return await item.done
        except TimeoutError:
            raise Busy(max(1, round(self._seconds / 10))) from None

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._queue:
                batch = self._next()
                if batch:
                    await self._run(loop, batch)

    def _next(self) -> list[_Waiting]:
        """Return the requests that are scored next; those that nobody waits for any more are left out."""
        batch: list[_Waiting] = []
        count = 0
        while self._queue and (not batch or count + self._queue[0].responses <= BATCH_RESPONSES):
            item = self._queue.popleft()
            if item.done.done():
                self.waiting -= item.responses
            else:
                batch.append(item)
                count += item.responses
        return batch

    async def _run(self, loop: asyncio.AbstractEventLoop, batch: list[_Waiting]) -> None:
        groups = [one for item in batch for one in item.candidates]
        order = sorted(range(len(groups)), key=lambda at: canonical(groups[at].prompt))
        self._watch(sum(item.responses for item in batch))
        try:
            found = await loop.run_in_executor(self._thread, self._score, [groups[at] for at in order])
        except Exception as error:  # noqa: BLE001 - every request of the batch has to be answered
            for item in batch:
                if not item.done.done():
                    item.done.set_exception(error)
        else:
            rewarded = dict(zip(order, found, strict=True))
            start = 0
            for item in batch:
                if not item.done.done():
                    item.done.set_result([rewarded[start + at] for at in range(len(item.candidates))])
                start += len(item.candidates)
        finally:
            self.waiting -= sum(item.responses for item in batch)
