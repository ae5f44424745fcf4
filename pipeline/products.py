"""Matrix products of float32 numbers on a CPU by the faster of its two libraries, where it loses nothing.

torch gives them to MKL unless it is allowed to round the operands to bfloat16: then oneDNN gets them. Without tiles of
bfloat16 in the CPU (AMX) oneDNN does not round them and, on some CPUs, is more than twice as fast.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch


@contextmanager
def fast_products(rounded: torch.dtype) -> Iterator[None]:
    """Give float32 products to oneDNN within the block, if `rounded`, a dtype that all operands fit into, allows it.

    bfloat16 does: rounding changes nothing then. float32 does where oneDNN is seen not to round, for any operands.
    """
    backend: Any = torch.backends.mkldnn  # its types leave out what is set on it when torch is imported
    matmul = backend.matmul
    before = matmul.fp32_precision
    if rounded is torch.bfloat16 or (rounded is torch.float32 and keeps_float32()):
        matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


@cache
def keeps_float32() -> bool:
    """Return whether float32 products stay exact where torch allows rounding."""
    generator = torch.Generator().manual_seed(0)
    left, right = torch.rand((2, 256, 256), generator=generator)
    exact = left.double() @ right.double()
    with fast_products(torch.bfloat16):
        error = ((left @ right).double() - exact).abs().max() / exact.max()
    return bool(error < 1e-6)
