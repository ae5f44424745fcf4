"""Matrix products of float32 numbers on a CPU by the faster of its two libraries, where it loses nothing.

torch gives them to MKL unless it is allowed to round the operands to bfloat16: then oneDNN gets them. Without tiles of
bfloat16 in the CPU (AMX) oneDNN does not round them and, on some CPUs, is more than twice as fast.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import Any

import torch


class _Allowed:
    """Who is inside a block now: the setting is one for the whole process, and readers are threads."""

    lock = Lock()
    blocks = 0
    before = ""


@contextmanager
def fast_products(rounded: torch.dtype) -> Iterator[None]:
    """Give float32 products to oneDNN within the block, if `rounded`, a dtype that all operands fit into, allows it.

    bfloat16 does: rounding changes nothing then. float32 does where oneDNN is seen not to round, for any operands.
    Blocks of several threads may overlap in any order; the last to end puts the setting back.
    """
    if not (rounded is torch.bfloat16 or (rounded is torch.float32 and keeps_float32())):
        yield
        return
    backend: Any = torch.backends.mkldnn  # its types leave out what is set on it when torch is imported
    with _Allowed.lock:
        if _Allowed.blocks == 0:
            _Allowed.before = backend.matmul.fp32_precision
            backend.matmul.fp32_precision = "bf16"
        _Allowed.blocks += 1
    try:
        yield
    finally:
        with _Allowed.lock:
            _Allowed.blocks -= 1
            if _Allowed.blocks == 0:
                backend.matmul.fp32_precision = _Allowed.before


@cache
def keeps_float32() -> bool:
    """Return whether float32 products stay exact where torch allows rounding."""
    generator = torch.Generator().manual_seed(0)
    left, right = torch.rand((2, 256, 256), generator=generator)
    exact = left.double() @ right.double()
    with fast_products(torch.bfloat16):
        error = ((left @ right).double() - exact).abs().max() / exact.max()
    return bool(error < 1e-6)
