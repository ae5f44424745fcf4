"""Requests that wait while others are scored are scored together, those of one prompt side by side.

n texts, D embedding width.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from micropref.cache.errors import Failure
from micropref.pipeline.rewards.scoring.candidates import Candidates, Rewarded
from micropref.pipeline.rewards.scoring.scorer import ScoringEngine
from micropref.pipeline.rewards.serving.turns import Reading, Request, Turn, Turns
from micropref.pipeline.sources.pairs import canonical

BATCH_RESPONSES = 256
"""Responses of the requests that are tokenized together; one that has more is tokenized by itself."""
LINGER = 0.1
"""Part of the last turn's time that those it answered have to ask again, before others are scored without them."""

ENDED = "nothing is scored any more, because of an error of the program: start the server again"

_T = TypeVar("_T")


class Busy(Exception):  # noqa: N818 - nothing is wrong with it
    """So many responses wait that a new request would wait too long: ask again in `seconds`."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"busy: ask again in {seconds} s")
        self.seconds = seconds


class Batcher:
    """Takes requests from one event loop, and scores them in turns in a thread."""

    def __init__(
        self, engine: ScoringEngine, most_waiting: int, seconds: float, watch: Callable[[int], None] = lambda _: None
    ) -> None:
        """Take what scores, how many responses may wait and for how long, and who is told of each turn's texts."""
        self._engine, self._most, self._seconds, self._watch = engine, most_waiting, seconds, watch
        self._queue: deque[Request] = deque()
        self._turns = Turns()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._task: asyncio.Task[None] | None = None
        self._began: float | None = None
        self._last_s, self._last_answered = 0.0, 1
        self._open: set[Request] = set()
        self.waiting = 0
        """Responses that wait or are being scored."""

    def start(self) -> None:
        """Begin to score what comes; called inside the event loop."""
        self._task = asyncio.create_task(self._work())
        self._task.add_done_callback(self._ended)

    async def stop(self) -> None:
        """Finish what waits, then end."""
        while self.waiting and self._task is not None and not self._task.done():
            await asyncio.sleep(0.01)
        if self._task is not None:
            self._task.cancel()
        self._thread.shutdown()

    @property
    def trouble(self) -> str | None:
        """Say why nothing is scored any more; None: all is well."""
        if self._task is None or self._task.done():
            return ENDED
        if self._began is not None and time.monotonic() - self._began > self._seconds:
            return f"one turn of scoring has taken more than {self._seconds:g} s"
        return None

    async def score(self, candidates: list[Candidates]) -> list[Rewarded]:
        """Return the rewards of a request's groups. Raises Busy where too much waits, or it took too long.

        Whoever waits no longer, because the client has gone, costs no forward pass that has not begun.
        """
        request = Request(candidates, asyncio.get_running_loop().create_future())
        # One request alone is always taken, however large it may be.
        if self._task is None or self._task.done():
            raise Failure(ENDED)
        if self.waiting and self.waiting + request.responses > self._most:
            raise Busy(max(1, round(self._last_s)))
        self._open.add(request)
        self.waiting += request.responses
        request.done.add_done_callback(lambda _: self._leave(request))
        self._queue.append(request)
        self._arrived.set()
        try:
            async with asyncio.timeout(self._seconds):
                return await request.done
        except TimeoutError:
            raise Busy(max(1, round(self._seconds / 10))) from None

    def _leave(self, request: Request) -> None:
        self._open.discard(request)
        self.waiting -= request.responses

    def _ended(self, _: asyncio.Task[None]) -> None:
        """Answer whoever waits once nothing is scored any more."""
        for request in list(self._open):
            _fail(request, Failure(ENDED))

    async def _work(self) -> None:
        while True:
            if not self._turns.readings:
                await self._arrived.wait()
                await self._linger()
            self._arrived.clear()
            self._began = time.monotonic()
            if requests := self._next():
                await self._read(requests)
            await self._forward(self._turns.next())
            self._last_s = time.monotonic() - self._began
            self._began = None

    async def _linger(self) -> None:
        """Wait a little for as many requests as were answered last: their clients may be about to ask again."""
        until = time.monotonic() + LINGER * self._last_s
        while len(self._queue) < self._last_answered and time.monotonic() < until:
            await asyncio.sleep(0.001)

    def _next(self) -> list[Request]:
        """Return the requests that are tokenized next; those that nobody waits for any more are left out."""
        found: list[Request] = []
        count = 0
        while self._queue and (not found or count + self._queue[0].responses <= BATCH_RESPONSES):
            request = self._queue.popleft()
            if not request.done.done():
                found.append(request)
                count += request.responses
        return found

    async def _read(self, requests: list[Request]) -> None:
        """Tokenize requests; where several raise an error each is tried alone, so that one at fault harms no other."""
        groups = [one for request in requests for one in request.candidates]
        order = sorted(range(len(groups)), key=lambda at: canonical(groups[at].prompt))
        try:
            asked = await self._in_thread(self._engine.read, [groups[at] for at in order])
        except Exception as error:  # noqa: BLE001 - every request has to be answered
            if len(requests) == 1:
                _fail(requests[0], error)
                return
            for request in requests:
                await self._read([request])
        else:
            backbone = self._engine.backbone
            reading = Reading.of(requests, order, asked, backbone.width, shares=backbone.causal)
            self._turns.readings.append(reading)

    async def _forward(self, turn: Turn) -> None:
        """Forward the texts of a turn, and answer the requests that lack none any more."""
        if turn.parts:
            texts = turn.texts
            self._watch(len(texts))
            start = time.monotonic()
            try:
                vectors = await asyncio.wrap_future(self._engine.forward(texts, turn.trees))
            except Exception as error:  # noqa: BLE001 - every request has to be answered
                await self._apart(error)
                return
            turn.put(vectors)
            self._turns.took(turn, time.monotonic() - start)
        self._last_answered = 0
        for reading in self._turns.completed():
            self._last_answered += len(reading.requests)
            try:
                reading.answer(await self._in_thread(self._rewarded, reading))
            except Exception as error:  # noqa: BLE001 - every request has to be answered
                for request in reading.requests:
                    _fail(request, error)

    async def _apart(self, error: Exception) -> None:
        """Score the requests of a turn that failed one by one: only the one at fault gets the error."""
        requests = [one for reading in self._turns.readings for one in reading.requests if not one.done.done()]
        self._turns.readings = []
        if len(requests) == 1:
            _fail(requests[0], error)
            return
        for request in requests:
            await self._read([request])
            while self._turns.readings:
                await self._forward(self._turns.next())

    def _rewarded(self, reading: Reading) -> list[Rewarded]:
        return list(self._engine.rewarded(reading.asked, reading.vectors))

    async def _in_thread(self, work: Callable[..., _T], *args: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)


def _fail(request: Request, error: Exception) -> None:
    if not request.done.done():
        request.done.set_exception(error)
