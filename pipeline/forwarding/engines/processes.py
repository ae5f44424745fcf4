"""Several processes of one machine: a worker each, on a GPU of its own where there are GPUs."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from threading import Thread

import torch

from micropref.cache.errors import Failure, MicroprefError
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.backbone.devices import usable_cores
from micropref.pipeline.forwarding.engines.base import SLOTS, Slot, WorkerPool, resolved_here
from micropref.pipeline.forwarding.options import EmbedOptions
from micropref.pipeline.forwarding.shards import Shard
from micropref.pipeline.forwarding.worker import Advance, Job, Stopped, Stored, Worker

_PATIENCE = 30
"""Seconds a worker has to exit by itself."""


@dataclass(frozen=True)
class ProcessEngine:
    """Worker processes on this machine."""

    workers: int
    in_process: bool = False

    def resolve(self, options: EmbedOptions) -> EmbedOptions:
        """Return the options with the device and the dtype named."""
        return resolved_here(options)

    @contextmanager
    def start(self, job: Job, backbone: Backbone) -> Iterator[WorkerPool]:  # noqa: ARG002 - each worker loads its own
        """Yield processes that share the cores of this one."""
        job = replace(job, threads=max(1, usable_cores() // self.workers))
        gpus = _gpus() if job.options.device == "cuda" else [None]
        members = [_start(job, number, gpus[number % len(gpus)]) for number in range(self.workers)]
        try:
            yield _Processes(members)
        finally:
            for member in members:
                member.end()


@dataclass(frozen=True)
class _Member:
    """One worker process, and a connection for each of its slots."""

    number: int
    process: SpawnProcess
    connections: list[Connection]

    def slot(self, connection: Connection) -> Slot:
        def run(shard: Shard, advance: Advance) -> Stored:
            try:
                connection.send(shard)
                while isinstance(answer := connection.recv(), int):
                    advance(answer)
            except (EOFError, OSError):
                raise self._died() from None
            if isinstance(answer, BaseException):
                raise answer
            assert isinstance(answer, Stored)
            return answer

        return run

    def _died(self) -> Failure:
        self.process.join(_PATIENCE)
        return Failure(
            f"worker process {self.number} ended with exit code {self.process.exitcode}; "
            "stored shards are kept, the same command again goes on from there"
        )

    def end(self) -> None:
        for connection in self.connections:
            connection.close()
        self.process.join(_PATIENCE)
        self.process.kill()
        self.process.join()


@dataclass(frozen=True)
class _Processes:
    members: list[_Member]

    @property
    def slots(self) -> Sequence[Slot]:
        return [member.slot(connection) for member in self.members for connection in member.connections]

    def stop(self) -> None:
        for member in self.members:
            member.process.terminate()


def _gpus() -> Sequence[str | None]:
    """Return the GPUs this process sees, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(gpu) for gpu in range(torch.cuda.device_count())]


def _start(job: Job, number: int, gpu: str | None) -> _Member:
    context = multiprocessing.get_context("spawn")  # CUDA does not outlive a fork
    pipes = [context.Pipe() for _ in range(SLOTS)]
    process = context.Process(target=serve, args=(job, gpu, [theirs for _, theirs in pipes]), daemon=True)
    process.start()
    for _, theirs in pipes:
        theirs.close()  # so that its end shows here when the process is gone
    return _Member(number, process, [ours for ours, _ in pipes])


def serve(job: Job, gpu: str | None, connections: list[Connection]) -> None:
    """Run a worker process: store the shards that arrive until the connections close."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes: the main process stops the workers
    if gpu is not None:  # before anything here has looked at the GPUs
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    worker = Worker(job)
    signal.signal(signal.SIGTERM, lambda *_: worker.stop())
    threads = [Thread(target=_serve_connection, args=(worker, connection)) for connection in connections]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    worker.close()


def _serve_connection(worker: Worker, connection: Connection) -> None:
    """Answer each shard with the tokens read so far, then with the result or the error."""
    with connection:
        try:
            while True:
                shard = connection.recv()
                try:
                    connection.send(worker.run(shard, connection.send))
                except Exception as error:  # noqa: BLE001 - raised again by the process of the command
                    if not isinstance(error, (MicroprefError, Stopped)):
                        error.add_note(f"in a worker process:\n{traceback.format_exc()}")
                    connection.send(error)
        except (EOFError, OSError):
            return  # the main process is gone
