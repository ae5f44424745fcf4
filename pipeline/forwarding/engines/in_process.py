"""The engine of the command's own process: one worker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.backbone.devices import usable_cores
from micropref.pipeline.forwarding.engines.base import SLOTS, Slot, WorkerPool, resolved_here
from micropref.pipeline.forwarding.options import EmbedOptions
from micropref.pipeline.forwarding.worker import Job, Worker


@dataclass(frozen=True)
class InProcess:
    """The process of the command itself."""

    in_process: bool = True

    def resolve(self, options: EmbedOptions) -> EmbedOptions:
        """Return the options with the device and the dtype named."""
        return resolved_here(options)

    @contextmanager
    def start(self, job: Job, backbone: Backbone) -> Iterator[WorkerPool]:
        """Yield the one worker."""
        worker = Worker(replace(job, threads=min(torch.get_num_threads(), usable_cores())), backbone)
        try:
            yield _OneWorker(worker)
        finally:
            worker.close()


@dataclass(frozen=True)
class _OneWorker:
    worker: Worker

    @property
    def slots(self) -> Sequence[Slot]:
        return [self.worker.run] * SLOTS

    def stop(self) -> None:
        self.worker.stop()
