"""How fast a system reads a workload: alternating rounds, the rate of the matrix products, memory, and a profile."""

from __future__ import annotations

import statistics
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from embed_systems import System, needed
from embed_workloads import Workload
from torch import nn
from torch.profiler import ProfilerActivity, profile

from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.backbone.matmul import fast_products
from micropref.pipeline.forwarding.batching import good_batch


@dataclass(frozen=True)
class Row:
    """What one system did with one workload."""

    workload: str
    model: str
    dtype: str
    system: str
    threads: int
    pairs: int
    seconds: float
    cpu_seconds: float
    """Of all threads; on a CPU far from seconds x threads where other programs had the cores: measure again."""
    tokens_per_second: float
    """Of tokens that had to be read."""
    forwarded: int
    unique: int
    gemm_share: float
    """Matrix products that had to be done, by time, over the rate of the step's own shapes measured in this run."""
    peak_mib: float
    """Memory above what was held before."""
    round_seconds: tuple[float, ...]
    """Of each slice: those of two systems were read one after the other."""


def compare(
    whole: Workload, backbone: Backbone, model: str, systems: dict[str, System], slices: int, *, warm: bool = True
) -> list[Row]:
    """Let all systems read the same slices in turn, in alternating order; print and return a row for each."""
    rounds: dict[str, list[float]] = {name: [] for name in systems}
    busy, read, peaks = (dict.fromkeys(systems, 0.0) for _ in range(3))
    rates = []
    if warm:  # kernels are built, memory is taken
        first = next(whole.slices(slices * 8))
        for system in systems.values():
            system(first)
    for number, part in enumerate(whole.slices(slices)):
        rates.append(gemm_rate(backbone))
        for name in list(systems)[:: 1 if number % 2 else -1]:
            with _Peak(backbone.device) as peak:
                start, worked = time.perf_counter(), time.process_time()
                read[name] += systems[name](part)
                rounds[name].append(time.perf_counter() - start)
                busy[name] += time.process_time() - worked
            peaks[name] = max(peaks[name], peak.mib)
    unique = needed(backbone, whole)
    flops = 2.0 * sum(layer.weight.numel() for layer in _products(backbone)) * unique
    rate = statistics.median(rates)
    rows = []
    for name, took in rounds.items():
        row = Row(
            workload=whole.name,
            model=model,
            dtype=str(backbone.dtype).removeprefix("torch."),
            system=name,
            threads=torch.get_num_threads(),
            pairs=len(whole.pairs),
            seconds=sum(took),
            cpu_seconds=busy[name],
            tokens_per_second=unique / sum(took),
            forwarded=int(read[name]),
            unique=unique,
            gemm_share=flops / sum(took) / rate,
            peak_mib=peaks[name],
            round_seconds=tuple(took),
        )
        rows.append(row)
        print(
            f"{row.workload:16} {row.model:12} {row.dtype:9} {row.system:22} {row.pairs:4} pairs {row.seconds:7.1f} s "
            f"({row.cpu_seconds:.1f} of {row.threads} CPU) {row.tokens_per_second:9,.0f} tok/s  "
            f"read/unique {row.forwarded / row.unique:5.2f}  GEMM {row.gemm_share:4.0%}  {row.peak_mib:6.0f} MiB",
            flush=True,
        )
    return rows


def profiled(whole: Workload, system: System) -> dict[str, float]:
    """Return the share of CPU time of the ten costliest operations."""
    part = next(whole.slices(16))
    system(part)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        system(part)
    events = sorted(seen.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    return {event.key: round(event.self_cpu_time_total / total, 4) for event in events[:10]}


@torch.inference_mode()
def gemm_rate(backbone: Backbone) -> float:
    """Return FLOP/s of a layer's matrix products alone at the tokens of a pack: the best of six rounds.

    By the faster of the libraries that float32 products can be given to.
    """
    tokens = good_batch(backbone.device)
    layers = _products(backbone)[: len(_products(backbone)) // backbone.trunk.config.num_hidden_layers]
    inputs = {
        layer.in_features: torch.randn(tokens, layer.in_features, device=backbone.device).to(backbone.dtype)
        for layer in layers
    }

    def once() -> float:
        _synchronize(backbone.device)
        start = time.perf_counter()
        for layer in layers:
            layer(inputs[layer.in_features])
        _synchronize(backbone.device)
        return time.perf_counter() - start

    plain = min(once() for _ in range(3))
    with fast_products(torch.float32):
        best = min(plain, *(once() for _ in range(3)))
    return 2.0 * tokens * sum(layer.weight.numel() for layer in layers) / best


def _products(backbone: Backbone) -> list[nn.Linear]:
    named = backbone.trunk.named_modules()
    return [layer for name, layer in named if isinstance(layer, nn.Linear) and "pooler" not in name]


class _Peak:
    """Watches how far memory rises within a block, in MiB."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._over = threading.Event()
        self.mib = 0.0

    def __enter__(self) -> _Peak:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self._before = self._held()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self._device.type == "cuda":
            self.mib = (torch.cuda.max_memory_allocated() - self._before) / 2**20

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            self.mib = max(self.mib, (self._held() - self._before) / 2**20)

    def _held(self) -> float:
        if self._device.type == "cuda":
            return float(torch.cuda.memory_allocated())
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return float(pages * 4096)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
