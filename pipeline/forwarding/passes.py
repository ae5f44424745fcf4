"""Passes: ways to forward many texts. All give the same vectors, they differ in the tokens they read.

`tree` reads every distinct prefix of a prompt group once (causal backbones), `packed` every token of every text once,
`padded` length-sorted batches with their padding, by the model's own attention.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import chain
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from micropref.cache.errors import Failure
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.backbone.devices import free_memory, lacks_memory
from micropref.pipeline.backbone.packing import cut_packs, pack
from micropref.pipeline.forwarding.batching import TOKENS_PER_BATCH, good_batch, length_sorted_batches
from micropref.pipeline.forwarding.pack_threads import readers
from micropref.pipeline.text.tokens import Tokens

_Read = tuple[Tensor | None, int]
Mates = Literal["any length", "same length", "none"]
"""Texts that share a padded batch: whichever, those without padding between them, or each by itself."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Texts that were forwarded together."""

    places: Sequence[int]
    """[B] which of the texts given."""
    vectors: Tensor
    """[B, D] float32 on the CPU."""
    forwarded: int
    """Tokens that the backbone read for them, padding included."""


class Pass(Protocol):
    """A way to forward texts."""

    @property
    def name(self) -> str:
        """Return its name in the option `pass`."""

    @property
    def backbone(self) -> Backbone:
        """Return what reads the texts."""

    def run(self, texts: Sequence[Tokens], groups: Sequence[int]) -> Iterator[Batch]:
        """Yield batches that hold every text once; texts of one prompt group have equal `groups` and are neighbours.

        Raises Failure where not even one text fits into memory.
        """


@dataclass(frozen=True)
class PaddedPass:
    """Length-sorted batches, padded to their longest text; any architecture."""

    backbone: Backbone
    tokens_per_batch: int | None = None
    """Most tokens of a batch, padding included; None: what is good for the device."""
    mates: Mates = "any length"
    """Which texts may be read together."""
    name: str = "padded"

    def run(self, texts: Sequence[Tokens], groups: Sequence[int]) -> Iterator[Batch]:  # noqa: ARG002 - any order will do
        """Yield the longest texts first."""
        lengths = np.array([len(text) for text in texts], dtype=np.int64)
        for batch in self._batches(lengths):
            vectors = self.backbone.embed([texts[at] for at in batch])
            yield Batch(batch.tolist(), vectors, int(lengths[batch].max()) * len(batch))

    def _batches(self, lengths: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
        """Yield the texts of each batch; those that would change each other's positions are in batches of their own."""
        budget = 1 if self.mates == "none" else self.tokens_per_batch or good_batch(self.backbone.device)
        together = [np.array(places) for places in self.backbone.groups(lengths.tolist())]
        if self.mates == "same length":
            together = [np.flatnonzero(lengths == length) for length in np.unique(lengths)[::-1]]
        for places in sorted(together, key=lambda places: -int(lengths[places].max())):
            for batch in length_sorted_batches(lengths[places], budget):
                yield places[batch]


@dataclass
class PackedPass:
    """Packs without padding; on lack of memory it goes on with half as many tokens in each."""

    backbone: Backbone
    share: bool
    """Whether texts of a group share what they begin with: causal backbones only."""
    tokens_per_batch: int | None = None
    """Most tokens of a pack; None: what is good for the device, in a prompt group up to TOKENS_PER_BATCH."""

    @property
    def name(self) -> str:
        """Return its name in the option `pass`."""
        return "tree" if self.share else "packed"

    def run(self, texts: Sequence[Tokens], groups: Sequence[int]) -> Iterator[Batch]:
        """Yield trees in the order given, or without sharing the longest texts first."""
        order = range(len(texts)) if self.share else np.argsort([-len(text) for text in texts], kind="stable").tolist()
        trees = groups if self.share else range(len(texts))
        waiting = self._cut(order, texts, trees)
        with readers(self.backbone, len(waiting)) as pool:
            under_way: deque[tuple[list[int], Future[_Read]]] = deque()
            while waiting or under_way:
                while waiting and len(under_way) < pool.most:
                    places = waiting.popleft()
                    some = [texts[at] for at in places], [trees[at] for at in places]
                    under_way.append((places, pool.submit(self._read, *some)))
                places, future = under_way.popleft()
                vectors, tokens = future.result()
                if vectors is not None:
                    yield Batch(places, vectors, tokens)
                    continue
                free_memory(self.backbone.device)
                if len(places) == 1:
                    raise Failure(
                        f"out of memory on {self.backbone.device.type} for one text of {tokens} tokens: "
                        "lower the max length, or use a smaller backbone"
                    )
                self.tokens_per_batch = min(self.tokens_per_batch or tokens, tokens // 2)
                waiting = self._cut([*places, *chain.from_iterable(waiting)], texts, trees)

    def _read(self, texts: Sequence[Tokens], trees: Sequence[int]) -> _Read:
        """Return the vectors of texts, None where memory lacks, and how many tokens were read."""
        packed = pack(texts, trees)
        try:
            return self.backbone.embed_packed(packed), packed.tokens
        except RuntimeError as error:
            if not lacks_memory(error):
                raise
        # Out of the handler, whose traceback holds the tensors that did not fit.
        return None, packed.tokens

    def _cut(self, order: Sequence[int], texts: Sequence[Tokens], trees: Sequence[int]) -> deque[list[int]]:
        aim = self.tokens_per_batch or good_batch(self.backbone.device)
        most = self.tokens_per_batch or TOKENS_PER_BATCH
        packs = cut_packs([texts[at] for at in order], [trees[at] for at in order], aim, most)
        return deque([order[at] for at in places] for places in packs)
