"""`rewardbench` on a machine without CUDA: it sends what it tokenizes to the device "cuda", here to the CPU."""

from __future__ import annotations

from typing import Any

from rewardbench.rewardbench import main
from transformers import BatchEncoding

move = BatchEncoding.to


def to_cpu(self: BatchEncoding, device: Any, **options: Any) -> BatchEncoding:
    """Move a batch where its caller asks, unless that is the GPU."""
    return move(self, "cpu" if device == "cuda" else device, **options)


BatchEncoding.to = to_cpu
main()
