"""Texts to vectors by the pass that was checked on them.

n texts, D embedding width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from micropref.pipeline.backbone.architecture import length_limits
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.forwarding.choose_pass import choose_pass
from micropref.pipeline.forwarding.passes import Batch, PackedPass, Pass
from micropref.pipeline.options import PassName
from micropref.pipeline.progress import Announce
from micropref.pipeline.text.tokens import Tokens


class Forwarder:
    """Reads texts by one pass. Call it from one thread at a time: libraries of the CPU keep threads for each caller."""

    def __init__(self, backbone: Backbone, packing: PassName, tokens_per_batch: int | None, announce: Announce) -> None:
        """Take a loaded backbone, how texts are put together for it, and who is told of a pass that does not suit."""
        self.backbone = backbone
        self._packing, self._tokens_per_batch, self._announce = packing, tokens_per_batch, announce
        self._pass: Pass | None = None
        self._longest = 0

    def batches(self, texts: Sequence[Tokens], groups: Sequence[int]) -> Iterator[Batch]:
        """Yield batches that hold every text once; texts of one prompt group have equal `groups` and are neighbours.

        Raises BadInput where the pass that was asked for does not suit the backbone, Failure where memory lacks.
        """
        yield from self.choose(texts, groups).run(texts, groups)

    def vectors(self, texts: Sequence[Tokens], groups: Sequence[int]) -> torch.Tensor:
        """Return the vectors [n, D] of texts, float32 on the CPU. Raises like `batches`."""
        found = torch.empty(len(texts), self.backbone.width)
        if texts:
            for batch in self.batches(texts, groups):
                found[torch.as_tensor(batch.places)] = batch.vectors
        return found

    def choose(self, texts: Sequence[Tokens], groups: Sequence[int]) -> Pass:
        """Check the pass on the first texts, and again on the first beyond a limit that none reached before.

        A window or a rotary embedding that is not followed shows in such texts only.
        """
        longest = max(map(len, texts), default=0)
        before = self._pass
        if before is None or (isinstance(before, PackedPass) and self._beyond(longest)):
            budget = self._tokens_per_batch if before is None else before.tokens_per_batch
            before = choose_pass(self.backbone, self._packing, budget, texts, groups, self._announce)
        self._pass, self._longest = before, max(longest, self._longest)
        return before

    def _beyond(self, longest: int) -> bool:
        limits = length_limits(self.backbone.trunk.config)
        return any(self._longest <= limit < longest for limit in limits)
