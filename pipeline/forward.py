"""The forward pass: shards of texts through the backbone, in length-sorted batches, each stored when it is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cache.errors import Interrupted
from cache.vectors import Features
from pipeline.backbone import Backbone
from pipeline.batches import TOKENS_PER_BATCH, length_sorted_batches, require_finite
from pipeline.progress import progress_bar
from pipeline.text_plan import TextPlan
from pipeline.tokens import ROLES

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Forwarded:
    """What a pass did."""

    texts: int
    tokens: int
    """Tokens of those texts."""
    padded_tokens: int
    """The same with the padding the batches needed."""
    seconds: float
    delta_error: float | None
    """Median relative error of Δ by the storage dtype on the first shard; None where nothing was stored."""


def missing_texts(features: Features, plan: TextPlan) -> list[list[int]]:
    """Return, for each planned shard, its texts that have no vector yet, empty shards left out."""
    positions = features.locate(plan.key_series())
    wanted = ([text for text in shard if positions[text] < 0] for shard in plan.shards)
    return [texts for texts in wanted if texts]


def forward_shards(
    backbone: Backbone,
    features: Features,
    plan: TextPlan,
    shards: Sequence[Sequence[int]],
    tokens_per_batch: int | None = None,
) -> Forwarded:
    """Forward and store the texts of each shard. An interrupt loses the shard under way and nothing else.

    Raises Failure naming the row whose vector is not finite, or where the disk refuses, Interrupted on Ctrl-C.
    """
    start = time.monotonic()
    done: list[Sequence[int]] = []
    padded, error = 0, None
    total = sum(len(plan.tokens[text]) for shard in shards for text in shard)
    with progress_bar(total, "embedding", "tok") as advance:
        for number, shard in enumerate(shards):
            keys = [plan.keys[text] for text in shard]
            if features.has_shard(keys):  # another writer was faster
                continue
            try:
                vectors, size = _forward(backbone, plan, shard, tokens_per_batch or TOKENS_PER_BATCH, advance)
                features.write_shard(keys, vectors, {"padded_tokens": size})
            except KeyboardInterrupt:
                kept = f"{number} of {len(shards)} shards are stored"
                raise Interrupted(f"interrupted: {kept}; the same command again goes on from there") from None
            done.append(shard)
            padded += size
            if error is None:
                error = _delta_error(plan, shard, vectors, vectors.astype(features.dtype))
    tokens = sum(len(plan.tokens[text]) for shard in done for text in shard)
    return Forwarded(sum(map(len, done)), tokens, padded, time.monotonic() - start, error)


def _forward(
    backbone: Backbone, plan: TextPlan, shard: Sequence[int], tokens_per_batch: int, advance: Callable[[int], None]
) -> tuple[Vectors, int]:
    """Return the vectors [n, D] of a shard's texts, and how many tokens that took, padding included."""
    lengths = np.array([len(plan.tokens[text]) for text in shard])
    vectors = np.empty((len(shard), backbone.width), dtype=np.float32)
    padded = 0
    for batch in length_sorted_batches(lengths, tokens_per_batch):
        texts = [shard[at] for at in batch]
        vectors[batch] = backbone.embed([plan.tokens[text] for text in texts]).numpy()
        require_finite(vectors[batch], _Names(plan, texts))
        padded += int(lengths[batch].max()) * len(batch)
        advance(int(lengths[batch].sum()))
    return vectors, padded


@dataclass(frozen=True)
class _Names(Sequence[str]):
    """Names of texts, made only when one is asked for."""

    plan: TextPlan
    texts: Sequence[int]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, at: int) -> str:  # type: ignore[override]
        origin, role = self.plan.first_use[self.texts[at]]
        return f"{origin} ({role})"


def _delta_error(plan: TextPlan, shard: Sequence[int], exact: Vectors, stored: npt.NDArray[Any]) -> float | None:
    """Return the median over the shard's pairs of |Δ stored - Δ| / |Δ|."""
    place = np.full(len(plan.keys) + 1, -1)
    place[list(shard)] = np.arange(len(shard))
    chosen, rejected = place[plan.roles[ROLES.index("chosen")]], place[plan.roles[ROLES.index("rejected")]]
    both = (chosen >= 0) & (rejected >= 0) & (chosen != rejected)
    if not both.any():
        return None
    delta = exact[chosen[both]] - exact[rejected[both]]
    kept = stored[chosen[both]].astype(np.float32) - stored[rejected[both]].astype(np.float32)
    error = np.linalg.norm(kept - delta, axis=1) / np.maximum(np.linalg.norm(delta, axis=1), 1e-30)
    return float(np.median(error))
