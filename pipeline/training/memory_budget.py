"""How much memory a fit may take, and whether its pairs fit there or stay on disk.

Letters: N pairs, D embedding width, G settings fitted together, K heads, h hidden units, B pairs of a minibatch.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from micropref.cache.errors import BadInput
from micropref.cache.vectors.pair_features import LocatedPairs
from micropref.cache.vectors.pair_stream import BLOCK_BYTES, WINDOW_BYTES
from micropref.heads.fitting.fit import CHUNK_SETTINGS
from micropref.heads.fitting.settings import FitPlan, FitSetting

DEFAULT_SHARE = 0.6
"""Share of the machine's memory that is used by default."""
BASE = 700 * 10**6
"""The interpreter and its libraries, with their own buffers."""
PAIR_BYTES = 1000
"""A pair's row in the tables while they are read, joined and sorted."""
VECTOR_BYTES = 200
"""A stored vector's entry in the index of keys while it is made."""
COPIES = 8
"""Of the weights: master, gradient, two moments, the best ones, in the compute dtype, and temporary copies."""


def default_memory() -> int:
    """Return DEFAULT_SHARE of what the machine, or the container, has."""
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdecimal():
        sizes.append(int(text))
    return int(min(sizes) * DEFAULT_SHARE)


@dataclass(frozen=True)
class Budget:
    """The memory of the process, and what a fit takes of it besides its pairs."""

    limit: int | None
    """Bytes, as asked for; None: `default_memory`."""
    setting: FitSetting
    """The largest of those fitted together."""
    plan: FitPlan
    """How they are fitted."""
    components: int = 0
    """Width the pairs are projected to, in memory; 0: they are not."""

    def holds(self, located: LocatedPairs) -> bool:
        """Say whether all pairs fit in memory. Raises BadInput where they do not and not even a stream does.

        These are estimates from shapes alone, on the high side, so that the answer is the same at every run.
        """
        if self.fits(located):
            return True
        limit, pairs, width = self._limit, len(located), located.features.width
        needed = self._base(located) + 2 * (WINDOW_BYTES + 2 * BLOCK_BYTES)
        if needed > limit:
            given = "" if self.limit is not None else f" ({DEFAULT_SHARE:.0%} of the machine's)"
            raise BadInput(
                f"memory is {_size(limit)}{given}: {pairs} pairs of width {width} need {_size(needed)} even when they "
                f"are streamed; give `memory` {_size(needed)}, or a smaller "
                f"{'`batch`, `hidden` or `projection`' if self.components else '`batch` or `hidden`'}"
            )
        return False

    def fits(self, located: LocatedPairs) -> bool:
        """Say whether all pairs fit in memory, by the same estimates."""
        pairs, features = len(located), located.features
        mapped = min(len(features), 3 * pairs) * features.row_bytes
        copied = pairs * features.width * 8 if self.plan.solver == "scikit-learn" else 0
        return self._base(located) + _inputs(located.inputs, features.width) + mapped + copied <= self._limit

    @property
    def _limit(self) -> int:
        return default_memory() if self.limit is None else self.limit

    def _base(self, located: LocatedPairs) -> int:
        """Return the bytes of all but the pairs' vectors."""
        pairs, features = len(located), located.features
        base = BASE + pairs * PAIR_BYTES + len(features) * VECTOR_BYTES + self._working(features.width)
        return base + _inputs(located.inputs, self.components)

    def _working(self, width: int) -> int:
        """Return the bytes of weights, minibatches and activations of G settings."""
        k, hidden, batch = self.setting.k, self.setting.hidden, self.plan.batch
        weights = CHUNK_SETTINGS * (k + hidden) * width * 4 * COPIES
        activations = CHUNK_SETTINGS * (12 * k + 3 * hidden) * 4 * batch
        return weights + activations + 2 * batch * width * 8


def _inputs(rows: int, width: int) -> int:
    """Return the bytes of rows of either input in float32 and in a compute dtype of half the size."""
    return rows * width * 6


def _size(count: int) -> str:
    """Return bytes as the option takes them, rounded up."""
    return f"{-(-count // 10**8) / 10:g}GB" if count >= 10**9 else f"{-(-count // 10**6)}MB"
