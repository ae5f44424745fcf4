"""Two runs that score the same texts: where one backbone made the features of both, it reads each text once."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from micropref.cache.store import StoreFolder
from micropref.pipeline.forwarding.forwarder import Forwarder
from micropref.pipeline.progress import Announce
from micropref.pipeline.rewards.scoring.backbone import load_backbone
from micropref.pipeline.rewards.scoring.options import BackboneOptions
from micropref.pipeline.rewards.scoring.scorer import ScoringEngine
from micropref.pipeline.rewards.scoring.taste import RewardHeads
from micropref.pipeline.text.tokens import Tokens


def engines_of(
    store: StoreFolder, first: str, second: str, options: BackboneOptions, announce: Announce
) -> tuple[ScoringEngine, ScoringEngine]:
    """Return engines of two runs. Raises BadInput where either cannot be used."""
    heads = [RewardHeads(store, run) for run in (first, second)]
    if heads[0].fitted.features.id != heads[1].fitted.features.id:
        one, other = (ScoringEngine.open(store, run, options, announce=announce) for run in (first, second))
        return one, other
    backbone, tokenizer = load_backbone(heads[0].fitted.features, options)
    forwarder = _Remembering(backbone, options.packing, options.tokens_per_batch, announce)
    one, other = (ScoringEngine(each, backbone, tokenizer, forwarder) for each in heads)
    return one, other


class _Remembering(Forwarder):
    """Knows the vectors of the texts that it was asked for last."""

    _known: dict[tuple[bytes, bytes], torch.Tensor] | None = None

    def vectors(self, texts: Sequence[Tokens], groups: Sequence[int]) -> tuple[torch.Tensor, int]:
        """Return vectors [n, D] like a forwarder, reading what was not among the texts before."""
        known = self._known or {}
        new = [at for at, text in enumerate(texts) if text.content not in known]
        found, forwarded = super().vectors([texts[at] for at in new], [groups[at] for at in new])
        read = dict(zip(new, found, strict=True))
        vectors = [read[at] if at in read else known[text.content] for at, text in enumerate(texts)]
        self._known = {text.content: vector for text, vector in zip(texts, vectors, strict=True)}
        return torch.stack(vectors) if vectors else found, forwarded
