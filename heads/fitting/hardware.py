"""What the machine can do: the device and the dtype of the large products."""

from __future__ import annotations

import torch

from micropref.cache.errors import BadInput
from micropref.heads.choices import ComputeDtype, Solver


def resolve_device(name: str) -> torch.device:
    """Return the device of a name. Raises BadInput for one that is unknown or not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise BadInput(f"device is {name!r}, which this machine does not have: give auto or cpu") from error
    return device


def resolve_dtype(name: ComputeDtype, device: torch.device, solver: Solver) -> torch.dtype:
    """Return the compute dtype: as named, else bfloat16 only where products of it are faster than float32."""
    if name != "auto":
        return {"bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}[name]
    if solver == "lbfgs":
        return torch.float64
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        fast = any(capabilities.get(feature) for feature in ("avx512_bf16", "amx_bf16"))
    else:
        fast = False
    return torch.bfloat16 if fast else torch.float32
