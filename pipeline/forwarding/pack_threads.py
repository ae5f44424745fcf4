"""Readers: threads that read packs side by side.

A CPU's cores do better with a pack each than together on one: they never wait for each other, and what a layer works on
stays in the core's own cache. A GPU reads one pack after the other, while the next is laid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import torch

from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.backbone.matmul import fast_products, keeps_float32
from micropref.pipeline.backbone.tree_attention import attending_to_trees

_MOST = 8
"""More would wait for each other in Python, and hold as many packs in memory."""
_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Readers:
    """A pool of threads."""

    pool: ThreadPoolExecutor
    most: int
    """Packs to submit at a time."""

    def submit(self, work: Callable[_P, _T], *args: _P.args, **options: _P.kwargs) -> Future[_T]:
        """Let one of the threads work."""
        return self.pool.submit(work, *args, **options)


@contextmanager
def readers(backbone: Backbone, packs: int) -> Iterator[Readers]:
    """Provide readers for so many packs, the backbone attending to trees.

    Raises NotFollowedError where its code cannot.
    """
    threads = torch.get_num_threads()
    count = min(_side_by_side(backbone.device, threads), max(1, packs))
    each = threads // count if backbone.device.type == "cpu" else threads
    # What is set for the whole process is set here, once, and not by readers in each other's way.
    with (
        attending_to_trees(backbone.trunk),
        fast_products(torch.float32),
        ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(each,)) as pool,
    ):
        try:
            yield Readers(pool, count)
        finally:
            torch.set_num_threads(threads)


def _side_by_side(device: torch.device, threads: int) -> int:
    if device.type != "cpu":
        return 2
    # Where products of bfloat16 numbers are rounded, one reader must not do so while another multiplies positions.
    return min(_MOST, threads) if keeps_float32() else 1
