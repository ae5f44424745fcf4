"""Where a backbone computes, and in which numbers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

import torch

from micropref.cache.errors import BadInput
from micropref.pipeline.options import DeviceName, EmbedDtype

_CPU_BFLOAT16 = ("amx_bf16", "avx512_bf16")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def choose_device(name: DeviceName) -> torch.device:
    """Return the device of a name; `auto` is cuda, else mps, else cpu.

    Raises BadInput where this machine, or this build of torch, has no such device.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, there in present.items() if there))
    if not present[name]:
        there = ", ".join(kind for kind, there in present.items() if there)
        raise BadInput(f"device {name}: torch {torch.__version__} sees no such device here; it sees {there}")
    return torch.device(name)


def choose_dtype(name: EmbedDtype, device: torch.device) -> torch.dtype:
    """Return the compute dtype of a name; `auto` is bfloat16 where the device multiplies in it, else float32."""
    if name == "auto":
        return torch.bfloat16 if _multiplies_bfloat16(device) else torch.float32
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


def device_name(device: torch.device) -> DeviceName:
    """Return the name of a device."""
    return cast("DeviceName", device.type)


def dtype_name(dtype: torch.dtype) -> EmbedDtype:
    """Return the name of a compute dtype."""
    return cast("EmbedDtype", str(dtype).removeprefix("torch."))


def usable_cores() -> int:
    """Return how many cores this process may keep busy: those it is bound to, and no more than its quota allows."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _QUOTA.read_text(encoding="ascii").split()
        return max(1, min(bound, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or `max`: no quota
        return bound


def lacks_memory(error: RuntimeError) -> bool:
    """Return whether an error of torch says that a tensor did not fit."""
    return any(sign in str(error) for sign in _OUT_OF_MEMORY)


def free_memory(device: torch.device) -> None:
    """Give back what torch holds of a device's memory without using it."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(bool(capabilities.get(name)) for name in _CPU_BFLOAT16)
    return False
