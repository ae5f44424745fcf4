"""Which engine forwards: this process, several, or a Ray cluster."""

from __future__ import annotations

import torch

from micropref.cache.errors import BadInput
from micropref.pipeline.backbone.devices import choose_device
from micropref.pipeline.forwarding.engines.base import Engine
from micropref.pipeline.forwarding.engines.in_process import InProcess
from micropref.pipeline.forwarding.options import EmbedOptions, EngineOptions


def choose_engine(options: EngineOptions, embed: EmbedOptions) -> Engine:
    """Return the engine asked for: by default a process for each GPU, this one alone where there is at most one.

    Raises BadInput where Ray is asked for and not installed.
    """
    if options.engine == "ray":
        try:
            from micropref.pipeline.forwarding.engines.ray_cluster import RayEngine
        except ModuleNotFoundError:
            raise BadInput("engine is 'ray': Ray is not installed; run `pip install 'micropref[ray]'`") from None
        return RayEngine(options.workers, options.ray_address)
    workers = options.workers
    if workers is None:
        workers = torch.cuda.device_count() if choose_device(embed.device).type == "cuda" else 1
    if workers == 1:
        return InProcess()
    from micropref.pipeline.forwarding.engines.processes import ProcessEngine

    return ProcessEngine(workers)
