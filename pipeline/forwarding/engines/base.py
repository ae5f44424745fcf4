"""Engines: what forwards the shards of a plan, in this process, in several, or on a cluster.

An engine starts a worker pool. The pool's slots are functions that take a shard and return when it is stored. Each is
called by a thread of its own, which fetches the next shard when one is done. So planning, forwarding and storing run at
the same time, and no more shards are in memory than there are slots.
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

Slot = Callable[[Shard, Advance], Stored]
SLOTS = 3
"""Of each worker: one shard is forwarded, one waits its turn, one is stored."""
WAIT_S = 0.2


class WorkerPool(Protocol):
    """Started workers."""

    @property
    def slots(self) -> Sequence[Slot]:
        """Return the functions that may be called at the same time."""

    def stop(self) -> None:
        """Make all slots return soon; shards under way are dropped."""


class Engine(Protocol):
    """Where workers run."""

    @property
    def in_process(self) -> bool:
        """Return whether this process forwards, and so has to load the weights."""

    def resolve(self, options: EmbedOptions) -> EmbedOptions:
        """Return the options with the device and the dtype that `auto` comes to where the workers are."""

    def start(self, job: Job, backbone: Backbone) -> AbstractContextManager[WorkerPool]:
        """Start workers; `backbone` is what this process has loaded."""


def drive(pool: WorkerPool, shards: Iterator[Shard], advance: Advance, announce: Announce) -> Forwarded:
    """Forward and store all shards. An error in any thread ends all of them, and is raised here.

    Raises Interrupted on Ctrl-C, which loses the shards under way and nothing else.
    """
    start = time.monotonic()
    source, done, notes = _Source(shards), list[Stored](), set[str]()
    ended: SimpleQueue[BaseException | None] = SimpleQueue()

    def keep(stored: Stored) -> None:
        done.append(stored)
        for note in set(stored.notes) - notes:  # workers repeat each other's notes
            notes.add(note)
            announce(note)

    threads = [Thread(target=_work, args=(slot, source, advance, keep, ended)) for slot in pool.slots]
    try:
        for thread in threads:
            thread.start()
        for _ in threads:
            if (error := _ending(ended)) is not None:
                raise error
    except BaseException as error:
        source.close()
        pool.stop()
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
    slot: Slot,
    source: _Source,
    advance: Advance,
    keep: Callable[[Stored], None],
    ended: SimpleQueue[BaseException | None],
) -> None:
    """Run one shard after the other in a slot, then put its error, or None, into `ended`."""
    error: BaseException | None = None
    try:
        while (shard := source.take()) is not None:
            keep(slot(shard, advance))
    except Stopped:  # the thread that stopped it reports the error
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
