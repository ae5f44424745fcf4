"""Workers of a Ray cluster: actors that Ray places and restarts, and whose lost shards it retries."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from micropref.cache.errors import BadInput, Failure, MicroprefError
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.forwarding.engines.base import SLOTS, Slot, WorkerPool, resolved_here
from micropref.pipeline.forwarding.options import EmbedOptions
from micropref.pipeline.forwarding.shards import Shard
from micropref.pipeline.forwarding.worker import Advance, Job, Stopped, Stored, Worker

_RESTARTS = 3
"""How often Ray starts a killed actor again, and how often it retries a shard whose actor was killed."""


@dataclass(frozen=True)
class RayEngine:
    """Actors on a cluster."""

    workers: int | None
    """None: one for each GPU of the cluster, or one for each machine."""
    address: str | None
    """None: the cluster that Ray finds by itself, else one on this machine alone."""
    in_process: bool = False

    def __post_init__(self) -> None:
        if ray.is_initialized():
            return
        try:
            if self.address is not None and ":" in self.address:
                _check_listening(self.address)
            ray.init(address=self.address, log_to_driver=False)
        except (OSError, ValueError, RuntimeError, RayError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise BadInput(
                f"ray_address is {self.address!r}: Ray does not connect ({reason}): give the address of a running head"
            ) from None

    def resolve(self, options: EmbedOptions) -> EmbedOptions:
        """Return the options with the device and the dtype named by a task that runs where a worker would."""
        needs, _ = self._places(options)
        resolved: EmbedOptions = _answer(ray.remote(resolved_here).options(**needs).remote(options))
        return resolved

    @contextmanager
    def start(self, job: Job, backbone: Backbone) -> Iterator[WorkerPool]:  # noqa: ARG002 - each worker loads its own
        """Yield actors, each with a GPU or its share of the cores, and disconnect at the end."""
        needs, workers = self._places(job.options)
        folder = Path(job.options.backbone)
        options = replace(job.options, backbone=str(folder.absolute())) if folder.is_dir() else job.options
        there = replace(job, folder=job.folder.absolute(), options=options, threads=needs["num_cpus"])
        kind = ray.remote(Actor).options(
            max_concurrency=SLOTS, max_restarts=_RESTARTS, max_task_retries=_RESTARTS, **needs
        )
        pool = _Actors([kind.remote(there) for _ in range(workers)])
        try:
            yield pool
        finally:
            pool.stop()
            ray.shutdown()

    def _places(self, options: EmbedOptions) -> tuple[dict[str, int], int]:
        """Return what a worker needs, and how many there are."""
        cluster: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        gpus = int(cluster.get("GPU", 0)) if options.device in ("auto", "cuda") else 0
        workers = self.workers or gpus or sum(node["Alive"] for node in ray.nodes())  # type: ignore[no-untyped-call]
        cores = 1 if gpus else max(1, int(cluster["CPU"]) // workers)
        return {"num_cpus": cores, "num_gpus": int(gpus > 0)}, workers


def _check_listening(address: str) -> None:
    """Raise OSError or ValueError where nothing listens: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    socket.create_connection((host, int(port)), timeout=10).close()


class Actor:
    """A worker, as Ray runs it."""

    def __init__(self, job: Job) -> None:
        self._worker = Worker(job)

    def run(self, shard: Shard) -> Stored:
        """Forward a shard and store it; a shard that was stored before the last actor died is stored already."""
        return self._worker.run(shard, lambda _: None)


@dataclass(frozen=True)
class _Actors:
    actors: list[Any]

    @property
    def slots(self) -> Sequence[Slot]:
        return [_slot(actor) for actor in self.actors for _ in range(SLOTS)]

    def stop(self) -> None:
        for actor in self.actors:
            ray.kill(actor)


def _slot(actor: Any) -> Slot:
    def run(shard: Shard, advance: Advance) -> Stored:
        stored: Stored = _answer(actor.run.remote(shard))
        advance(shard.demand.tokens)
        return stored

    return run


def _answer(reference: Any) -> Any:
    """Wait for what was asked for. Raises what went wrong there, Failure where the actor is gone for good."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, (MicroprefError, Stopped)):
            raise error.cause from None
        raise
    except RayActorError as error:
        reason = str(error).strip().partition("\n")[0]
        raise Failure(
            f"a Ray worker died {_RESTARTS + 1} times or lost its machine ({reason}); "
            "stored shards are kept, the same command again goes on from there"
        ) from None
