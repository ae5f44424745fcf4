"""Minibatches from a stream: pairs of a window of blocks, shuffled, their differences taken as they are needed.

Letters: N pairs, B pairs of a minibatch, n pairs and u vectors of a window, D embedding width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from micropref.cache.errors import BadInput
from micropref.cache.vectors.pair_stream import PairStream, Window
from micropref.heads.fitting.minibatches import Batch, sharing_runs, shuffled_order
from micropref.heads.fitting.segments import ROUND, Segments

SERIAL = (1 << 15) - 1
"""Entries gathered, subtracted and converted at a time on the CPU: they stay in a core's cache on the way, and are too
few for torch to wake its other threads, which at this pace would wait for one another more than they work."""


class StreamedFeed:
    """Minibatches of pairs on disk. An epoch shuffles the blocks, and the pairs of each window of blocks."""

    def __init__(
        self,
        stream: PairStream,
        routed: bool,
        size: int,
        dtype: torch.dtype,
        device: torch.device,
        centre: torch.Tensor | None = None,
    ) -> None:
        """Prepare buffers of `size` rows; the router's input is read only when some setting is `routed`.

        Its `centre` [D'] is subtracted, and is what pairs without a context read.
        """
        self._centre = None if centre is None else centre.to(device, torch.float32)
        self.pairs = stream.pairs
        self.size = min(size, self.pairs)
        self.steps = self.pairs // self.size
        self._stream = stream
        self._routed = routed
        self._device = device
        self._shares = routed and stream.router_rows is not None
        self._delta = torch.empty(self.size, stream.width, dtype=dtype, device=device)
        most = self.size + ROUND if self._shares else self.size
        self._router = torch.empty(most, stream.router_width, dtype=dtype, device=device) if routed else None
        self._place: list[torch.Tensor] = []
        self._readers: list[torch.Tensor] = []
        self._tile = max(1, SERIAL // stream.width) if device.type == "cpu" else self.size
        stored = torch.from_numpy(np.empty(0, stream.located.features.dtype)).dtype
        tile = (self._tile, stream.width)
        self._first, self._second = (torch.empty(tile, dtype=stored, device=device) for _ in range(2))
        self._difference = torch.empty(tile, device=device)

    def shuffled(self, generator: torch.Generator) -> Iterator[Batch]:
        """Yield an epoch's minibatches; the pairs left over are those of the last window."""
        order = torch.randperm(self._stream.blocks, generator=generator).tolist()
        for batch in self._batches(order, generator):
            if len(batch.delta) == self.size:
                yield batch

    def in_order(self) -> Iterator[Batch]:
        """Yield all pairs, in the order of the stream."""
        return self._batches(range(self._stream.blocks), None)

    def whole(self) -> Batch:
        """Raise BadInput: the pairs are streamed because they do not fit."""
        raise BadInput(
            f"solver lbfgs reads all pairs at once, and these {self.pairs} do not fit in the memory that is allowed: "
            "raise `memory`, give `projection` 256, or use `solver` adamw"
        )

    def _batches(self, order: Iterable[int], generator: torch.Generator | None) -> Iterator[Batch]:
        """Yield all pairs of the blocks, shuffled inside their windows if there is a generator; the last may be few."""
        filled = 0
        self._place, self._readers = [], []
        for window in self._stream.windows(list(order), routed=self._routed):
            held = _Held(window, self._device)
            count = len(window.chosen)
            rows = torch.arange(count) if generator is None else self._shuffled(window, generator)
            for now in torch.split(rows, _pieces(count, self.size, filled)):
                self._fill(held, now.to(self._device), filled)
                filled += len(now)
                if filled == self.size:
                    yield self._batch(filled)
                    filled = 0
        if filled:
            yield self._batch(filled)

    def _shuffled(self, window: Window, generator: torch.Generator) -> torch.Tensor:
        """Return a window's pairs shuffled, those that share the router's input side by side."""
        shared = None if self._stream.router_rows is None else torch.from_numpy(window.shared)
        return shuffled_order(len(window.chosen), sharing_runs(shared, self.size), generator)

    def _fill(self, held: _Held, rows: torch.Tensor, start: int) -> None:
        """Write the pairs of these rows of a window into the buffers from `start` on."""
        for place, tile in self._tiles(rows, start):
            first, second, difference = (one[: len(tile)] for one in (self._first, self._second, self._difference))
            torch.index_select(held.vectors, 0, held.chosen[tile], out=first)
            torch.index_select(held.vectors, 0, held.rejected[tile], out=second)
            self._delta[place].copy_(difference.copy_(first).sub_(second))
        if self._router is None or not held.router:
            return
        if self._shares:
            start = sum(len(counts) for counts in self._readers)
            distinct, place_of, counts = torch.unique(held.shared[rows], return_inverse=True, return_counts=True)
            self._place.append(place_of + start)
            self._readers.append(counts)
            rows = torch.empty_like(distinct).scatter_(0, place_of, rows)  # one of the pairs that read each
        for place, tile in self._tiles(rows, start):
            self._router[place].copy_(self._router_inputs(held, tile))

    def _router_inputs(self, held: _Held, rows: torch.Tensor) -> torch.Tensor:
        """Return what the router reads of these rows of a window, centred, in memory that the next call uses again."""
        first, second, read = (one[: len(rows)] for one in (self._first, self._second, self._difference))
        torch.index_select(held.vectors, 0, held.router[0][rows], out=first)
        if len(held.router) == 1 and held.known is None and self._centre is None:
            return first
        read.copy_(first)
        if len(held.router) > 1:
            torch.index_select(held.vectors, 0, held.router[1][rows], out=second)
            read = self._stream.located.router.combined(read, second.float())
        if self._centre is not None:
            read = read.sub_(self._centre)
        if held.known is not None:
            read.masked_fill_(~held.known[rows][:, None], torch.nan if self._centre is None else 0)
        return read

    def _tiles(self, rows: torch.Tensor, start: int) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield rows a tile at a time, and where in a buffer, from `start` on, each tile goes."""
        for tile in torch.split(rows, self._tile):
            yield slice(start, start + len(tile)), tile
            start += len(tile)

    def _batch(self, count: int) -> Batch:
        """Return what was filled, and start a new batch."""
        if self._router is None or not self._shares:
            return Batch(self._delta[:count], None if self._router is None else self._router[:count])
        distinct = sum(len(counts) for counts in self._readers)
        readers = Segments.of_readers(torch.cat(self._place), torch.cat(self._readers))
        self._place, self._readers = [], []
        self._router[distinct : len(readers.sizes)] = 0
        return Batch(self._delta[:count], self._router[: len(readers.sizes)], readers)


class _Held:
    """A window as tensors on the compute device: `router` the rows of one vector, or of the two that are combined."""

    def __init__(self, window: Window, device: torch.device) -> None:
        self.vectors = torch.from_numpy(window.vectors).to(device)
        self.chosen, self.rejected = (torch.from_numpy(rows).to(device) for rows in (window.chosen, window.rejected))
        self.shared = torch.from_numpy(window.shared).to(device)
        self.router: list[torch.Tensor] = []
        self.known: torch.Tensor | None = None
        if window.router is not None:
            parts = [one for one in (window.router.first, window.router.second) if one is not None]
            self.router = [torch.from_numpy(one.clip(0)).to(device) for one in parts]
            if not window.router.known.all():
                self.known = torch.from_numpy(window.router.known).to(device)


def _pieces(count: int, size: int, filled: int) -> list[int]:
    """Return how many of `count` pairs complete the minibatch begun, fill each next one, and are left."""
    first = min(size - filled, count)
    full, left = divmod(count - first, size)
    return [first, *[size] * full, *([left] if left else [])]
