"""Workers: one backbone on one device, which turns shards into stored vectors.

Letters: n texts of a shard, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from micropref.cache.errors import Failure
from micropref.cache.vectors.features import Features
from micropref.cache.vectors.storage_error import delta_error
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.forwarding.batching import not_finite, require_finite
from micropref.pipeline.forwarding.forwarder import Forwarder
from micropref.pipeline.forwarding.options import EmbedOptions
from micropref.pipeline.forwarding.passes import Pass
from micropref.pipeline.forwarding.shards import Demand, Shard
from micropref.pipeline.options import OnBad

Vectors = npt.NDArray[np.float32]
Advance = Callable[[int], None]
"""Counts tokens that have been read, what texts share once; over a shard they add up to its demand."""


class Stopped(Exception):  # noqa: N818 - nothing is wrong with it
    """The worker was asked to stop before a shard was read."""


@dataclass(frozen=True)
class Job:
    """What every worker needs to know."""

    folder: Path
    """Of the features."""
    settings: dict[str, Any]
    """Of the features: all that changes a vector."""
    options: EmbedOptions
    """Device and dtype are named, not `auto`."""
    on_bad: OnBad = "stop"
    """Whether a vector that is not finite ends the work, or its text is left without one."""
    threads: int = 1
    """Threads of a worker's products on a CPU; an engine says how many."""


@dataclass(frozen=True)
class Stored:
    """The result of a shard."""

    number: int
    """Number of the shard."""
    demand: Demand = field(default_factory=Demand)
    """What it asked of the backbone; nothing where another writer was faster."""
    forwarded_tokens: int = 0
    """Tokens read, padding included."""
    pass_name: str | None = None
    """Pass that read them."""
    delta_error: float | None = None
    """Median relative error of Δ by the storage dtype; None where no pair has both its responses here."""
    notes: tuple[str, ...] = ()
    """What the user should know."""
    bad: dict[bytes, str] = field(default_factory=dict)
    """Texts without a vector, because it is not finite -> what was found."""


class Worker:
    """Takes shards from several threads: while one is forwarded, another is stored and a third waits its turn."""

    def __init__(self, job: Job, backbone: Backbone | None = None) -> None:
        """Take a loaded backbone, or load it before the first shard."""
        self._job = job
        self._features = Features(job.folder, job.settings)
        self._backbone = backbone
        # Libraries of the CPU keep threads of their own for every thread that calls them, so that one does it all.
        self._device = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(job.threads,))
        self._disk = Lock()
        self._stopped = Event()
        self._forwarder: Forwarder | None = None
        self._notes: list[str] = []

    def run(self, shard: Shard, advance: Advance) -> Stored:
        """Forward a shard and store it, whole or not at all.

        Texts whose vectors are not finite are left out where the job says so. Else raises Failure naming the first
        one's row, as where the disk refuses; Stopped once the worker was asked to stop, or any shard before failed.
        """
        if self._features.has_shard(shard.keys):  # another writer was faster
            return Stored(shard.number)
        try:
            vectors, forwarded, chosen, bad = self._device.submit(self._forward, shard, advance).result()
            whole = shard.without(bad)
            if whole is not None:
                vectors = vectors[[at for at, key in enumerate(shard.keys) if key not in bad]] if bad else vectors
                with self._disk:
                    self._features.write_shard(whole.keys, vectors, {"forwarded_tokens": forwarded})
        except BaseException:
            self.stop()
            raise
        notes, self._notes = self._notes, []
        return Stored(
            shard.number,
            shard.demand,
            forwarded,
            chosen.name,
            None if whole is None else delta_error(vectors, vectors.astype(self._features.dtype), whole.sides),
            tuple(notes),
            bad,
        )

    def stop(self) -> None:
        """Stop forwarding after the current batch; shards being stored are finished."""
        self._stopped.set()

    def close(self) -> None:
        """End the worker's thread."""
        self._device.shutdown()

    def _forward(self, shard: Shard, advance: Advance) -> tuple[Vectors, int, Pass, dict[bytes, str]]:
        """Return the vectors [n, D] of a shard's texts, the tokens read for them, by which pass, and which are bad."""
        chosen = self._choose_pass(shard)
        vectors = np.empty((len(shard), self._features.width), dtype=np.float32)
        forwarded = read = counted = 0
        bad: dict[bytes, str] = {}
        try:
            for batch in chosen.run(shard.tokens, shard.groups):
                vectors[batch.places] = batch.vectors.numpy()
                for at in not_finite(self._stored(vectors[batch.places])):
                    place = int(batch.places[at])
                    (alone,) = chosen.run([shard.tokens[place]], [0])  # NaN spreads to a batch's other texts
                    vectors[place] = alone.vectors.numpy()[0]
                    if what := not_finite(self._stored(vectors[[place]])):
                        bad[shard.keys[place]] = what[0]
                if bad and self._job.on_bad == "stop":
                    require_finite(self._stored(vectors[batch.places]), [shard.names[at] for at in batch.places])
                forwarded += batch.forwarded
                read += sum(len(shard.tokens[at]) for at in batch.places)
                done = shard.demand.tokens * read // shard.size  # what texts share is read once: each has its part
                advance(done - counted)
                counted = done
                if self._stopped.is_set():
                    raise Stopped
        except BaseException:
            self.stop()  # here, before this thread takes the next shard
            raise
        return vectors, forwarded, chosen, bad

    def _stored(self, vectors: Vectors) -> npt.NDArray[np.floating]:
        """Return vectors as they are stored: a value too large for the dtype becomes infinite."""
        with np.errstate(over="ignore"):
            return vectors.astype(self._features.dtype, copy=False)

    def _choose_pass(self, shard: Shard) -> Pass:
        """Return the pass for a shard's texts, checked where such texts come for the first time."""
        if self._stopped.is_set():
            raise Stopped
        if self._forwarder is None:
            options = self._job.options
            self._forwarder = Forwarder(
                self._backbone or load_for(self._job),
                options.packing,
                options.tokens_per_batch,
                lambda line: self._notes.append(line),
            )
        return self._forwarder.choose(shard.tokens, shard.groups)


def load_for(job: Job) -> Backbone:
    """Load a job's backbone on the machine of a worker. Raises Failure where it is not the one of the features."""
    backbone = job.options.load()
    found = backbone.settings()
    differs = [name for name, value in found.items() if job.settings[name] != value]
    if differs:
        raise Failure(
            f"backbone {job.options.backbone}: a worker found another {differs[0]} than the command was started with "
            f"({found[differs[0]]}, not {job.settings[differs[0]]}): give all machines the same files and packages"
        )
    return backbone


@dataclass(frozen=True)
class Forwarded:
    """The totals of all workers."""

    demand: Demand
    forwarded_tokens: int
    pass_names: tuple[str, ...]
    seconds: float
    """From the first shard to the last, the planning and storing between them included."""
    delta_error: float | None
    """Of the first shard that has pairs."""
    bad: dict[bytes, str] = field(default_factory=dict)
    """Texts without a vector, because it is not finite -> what was found."""

    def __add__(self, again: Forwarded) -> Forwarded:
        names = tuple(sorted({*self.pass_names, *again.pass_names}))
        error = again.delta_error if self.delta_error is None else self.delta_error
        tokens, seconds = self.forwarded_tokens + again.forwarded_tokens, self.seconds + again.seconds
        return Forwarded(self.demand + again.demand, tokens, names, seconds, error, self.bad | again.bad)


def summary(done: Sequence[Stored], seconds: float) -> Forwarded:
    """Return the totals of shards, stored in any order."""
    in_order = sorted(done, key=lambda stored: stored.number)
    return Forwarded(
        sum((stored.demand for stored in in_order), Demand()),
        sum(stored.forwarded_tokens for stored in in_order),
        tuple(sorted({stored.pass_name for stored in in_order if stored.pass_name})),
        seconds,
        next((stored.delta_error for stored in in_order if stored.delta_error is not None), None),
        {key: what for stored in in_order for key, what in stored.bad.items()},
    )
