"""Engines: who forwards the shards of a plan, in this process, in several, or on a cluster.

An engine hires a crew. Its lanes are functions that take a shard and return when it is stored, each called by a thread
of its own that fetches the next shard when it is done with one; planning, forwarding and storing so go on beside each
other, and no more shards are in memory than there are lanes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Protocol

from micropref.cache.errors import Interrupted
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.backbone.devices import choose_device, choose_dtype, device_name, dtype_name
from micropref.pipeline.forwarding.options import EmbedOptions
from micropref.pipeline.forwarding.shards import Shard
from micropref.pipeline.forwarding.worker import Advance, Forwarded, Job, Stopped, Stored, summary
from micropref.pipeline.progress import Announce

Lane = Callable[[Shard, Advance], Stored]
LANES = 3
"""Of each worker: one shard is forwarded, one waits its turn, one is stored."""
WAIT_S = 0.2


class Crew(Protocol):
    """Workers at work."""

    @property
    def lanes(self) -> Sequence[Lane]:
        """Return what may be called at the same time."""

    def stop(self) -> None:
        """Make all lanes return soon; what is being forwarded is given up."""


class Engine(Protocol):
    """A place for workers."""

    @property
    def in_process(self) -> bool:
        """Return whether this process forwards, and so has to load the weights."""

    def resolve(self, options: EmbedOptions) -> EmbedOptions:
        """Return the options with the device and the dtype that `auto` comes to where the workers are."""

    def hire(self, job: Job, backbone: Backbone) -> AbstractContextManager[Crew]:
        """Start workers; `backbone` is what this process has loaded."""


def drive(crew: Crew, shards: Iterator[Shard], advance: Advance, announce: Announce) -> Forwarded:
    """Have all shards forwarded and stored. An error in any thread ends all of them, and is raised here.

    Raises Interrupted on Ctrl-C, which loses the shards under way and nothing else.
    """
    start = time.monotonic()
    source, done, notes = _Source(shards), list[Stored](), set[str]()
    ended: SimpleQueue[BaseException | None] = SimpleQueue()

    def keep(stored: Stored) -> None:
        done.append(stored)
        for note in set(stored.notes) - notes:  # each worker finds out for itself
            notes.add(note)
            announce(note)

    threads = [Thread(target=_work, args=(lane, source, advance, keep, ended)) for lane in crew.lanes]
    try:
        for thread in threads:
            thread.start()
        for _ in threads:
            if (error := _ending(ended)) is not None:
                raise error
    except BaseException as error:
        source.close()
        crew.stop()
        for thread in threads:
            thread.join()
        if not isinstance(error, KeyboardInterrupt):
            raise
        kept = "1 shard is stored" if len(done) == 1 else f"{len(done):,} shards are stored"
        raise Interrupted(f"interrupted: {kept}; the same command again goes on from there") from None
    return summary(done, time.monotonic() - start)


def _ending(ended: SimpleQueue[BaseException | None]) -> BaseException | None:
    """Wait for a thread to end and return its error."""
    while True:
        with suppress(Empty):  # a Ctrl-C that comes just before a wait begins is seen when it ends: no wait is long
            return ended.get(timeout=WAIT_S)


def _work(
    lane: Lane,
    source: _Source,
    advance: Advance,
    keep: Callable[[Stored], None],
    ended: SimpleQueue[BaseException | None],
) -> None:
    """Give a lane one shard after the other, and say how it ended."""
    error: BaseException | None = None
    try:
        while (shard := source.take()) is not None:
            keep(lane(shard, advance))
    except Stopped:  # whoever stopped it says why
        pass
    except BaseException as found:  # noqa: BLE001 - raised by the main thread
        error = found
    ended.put(error)


class _Source:
    """Shards that several threads fetch."""

    def __init__(self, shards: Iterator[Shard]) -> None:
        self._shards, self._lock, self._closed = shards, Lock(), False

    def take(self) -> Shard | None:
        with self._lock:
            return None if self._closed else next(self._shards, None)

    def close(self) -> None:
        self._closed = True


def resolved_here(options: EmbedOptions) -> EmbedOptions:
    """Return options with the device and the dtype that `auto` comes to on this machine."""
    device = choose_device(options.device)
    return replace(options, device=device_name(device), dtype=dtype_name(choose_dtype(options.dtype, device)))
