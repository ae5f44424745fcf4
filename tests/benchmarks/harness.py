"""Shared by the benchmarks: alternating rounds, the machine, bars, tables and JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

BUILD = Path(__file__).parents[2] / "build" / "bench"
PACKAGES = (
    "torch", "numpy", "pyarrow", "polars", "safetensors", "scikit-learn", "transformers", "sentence-transformers",
)  # fmt: skip
"""Whose versions are written down, of those that are there."""


@dataclass(frozen=True)
class Bar:
    """One figure that has to be reached."""

    figure: str
    value: float
    bar: str
    """The bound in words, `>= 25` or `<= 120`."""
    holds: bool


def at_least(figure: str, value: float, bound: float) -> Bar:
    """Return a bar that holds from `bound` on."""
    return Bar(figure, value, f">= {bound:g}", value >= bound)


def at_most(figure: str, value: float, bound: float) -> Bar:
    """Return a bar that holds up to `bound`."""
    return Bar(figure, value, f"<= {bound:g}", value <= bound)


def seconds(work: Callable[[], object]) -> float:
    """Return how long one call took."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def alternating(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every work in every round; each is called once before, unmeasured."""
    for work in works.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            times[name].append(seconds(work))
    return times


def median_ratio(numerator: list[float], denominator: list[float], factor: float = 1.0) -> float:
    """Return the median over rounds of numerator / denominator × factor: noise of the machine cancels in a round."""
    return factor * statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    capabilities = torch.cpu.get_capabilities()
    return {
        "system": platform.platform(),
        "cpu": capabilities.get("cpu_name"),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "bfloat16": [name for name in ("avx512_bf16", "amx_bf16") if capabilities.get(name)],
        "accelerator": accelerator,
        "load": os.getloadavg(),
        "python": platform.python_version(),
        **{name: found for name in PACKAGES if (found := _version(name))},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def report(path: Path, rows: list[dict[str, Any]], bars: list[Bar], **more: Any) -> None:
    """Print rows and bars and write both, with the machine and `more`, to a JSON file."""
    for row in rows:
        print(
            "  ".join(
                f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in row.items()
            )
        )
    for bar in bars:
        print(f"{'holds' if bar.holds else 'MISSED':6}  {bar.figure}: {bar.value:.4g} ({bar.bar})")
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"machine": machine(), **more, "rows": rows, "bars": [asdict(bar) for bar in bars]}
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    print(f"written to {path}")
