"""Texts to vectors by the pass that was checked on them.

n texts, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from micropref.pipeline.backbone.architecture import length_limits
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.forwarding.choose_pass import choose_mates, choose_pass
from micropref.pipeline.forwarding.passes import PackedPass, PaddedPass, Pass
from micropref.pipeline.options import PassName
from micropref.pipeline.progress import Announce
from micropref.pipeline.text.tokens import Tokens


class Forwarder:
    """Reads texts by one pass. Call it from one thread at a time: libraries of the CPU keep threads for each caller."""

    def __init__(self, backbone: Backbone, packing: PassName, tokens_per_batch: int | None, announce: Announce) -> None:
        """Take a loaded backbone, how texts are put together for it, and who is told of a pass that does not suit."""
        self.backbone = backbone
        self._packing, self._tokens_per_batch, self._announce = packing, tokens_per_batch, announce
        self.chosen: Pass | None = None
        """How texts are put together, once some were read."""
        self._longest = self._checked = 0

    def vectors(self, texts: Sequence[Tokens], groups: Sequence[int]) -> tuple[torch.Tensor, int]:
        """Return the vectors [n, D] of texts, float32 on the CPU, and how many tokens were read for them.

        Texts of one prompt group have equal `groups` and are neighbours. Vectors that are not finite are those of texts
        read alone. Raises BadInput where the pass asked for does not suit the backbone, Failure where memory lacks.
        """
        found, forwarded = torch.empty(len(texts), self.backbone.width), 0
        if not texts:
            return found, forwarded
        chosen = self.choose(texts, groups)
        for batch in chosen.run(texts, groups):
            found[torch.as_tensor(batch.places)] = batch.vectors
            forwarded += batch.forwarded
        for place in torch.nonzero(~found.isfinite().all(1)).flatten().tolist():
            (alone,) = chosen.run([texts[place]], [0])  # NaN spreads to a batch's other texts
            found[place] = alone.vectors[0]
            forwarded += alone.forwarded
        return found, forwarded

    def choose(self, texts: Sequence[Tokens], groups: Sequence[int]) -> Pass:
        """Check the pass on the first texts, and again on the first beyond a limit that none reached before.

        A window or a rotary embedding that is not followed shows in such texts only. Padded batches are checked again
        where texts are twice as long as any before: what padding changes may begin at some length.
        """
        lengths = set(map(len, texts))
        longest = max(lengths, default=0)
        checked = longest if len(lengths) > 1 else 0  # texts of one length say nothing of padding
        before = self.chosen
        if isinstance(before, PaddedPass) and longest >= 2 * self._checked:
            before = choose_mates(before, texts, self._announce)
            self._checked = checked
        elif before is None or (isinstance(before, PackedPass) and self._beyond(longest)):
            budget = self._tokens_per_batch if before is None else before.tokens_per_batch
            before = choose_pass(self.backbone, self._packing, budget, texts, groups, self._announce)
            self._checked = checked
        self.chosen, self._longest = before, max(longest, self._longest)
        return before

    def _beyond(self, longest: int) -> bool:
        limits = length_limits(self.backbone.trunk.config)
        return any(self._longest <= limit < longest for limit in limits)
