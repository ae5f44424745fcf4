"""The forward pass: shards of texts through the backbone by the pass chosen, each stored while the next is read."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from cache.errors import Interrupted
from cache.vectors import Features
from pipeline.batches import require_finite
from pipeline.passes import Pass
from pipeline.prefix_tree import distinct_prefixes
from pipeline.progress import progress_bar
from pipeline.text_plan import TextPlan
from pipeline.tokens import ROLES

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Forwarded:
    """What forwarding did."""

    pass_name: str
    """Which pass it took."""
    texts: int
    tokens: int
    """Tokens that had to be read for those texts: distinct prefixes for causal backbones, all of them for encoders."""
    forwarded_tokens: int
    """Tokens that were read."""
    seconds: float
    delta_error: float | None
    """Median relative error of Δ by the storage dtype on the first shard; None where nothing was stored."""


def missing_texts(features: Features, plan: TextPlan) -> list[list[int]]:
    """Return, for each planned shard, its texts that have no vector yet, empty shards left out."""
    positions = features.locate(plan.key_series())
    wanted = ([text for text in shard if positions[text] < 0] for shard in plan.shards)
    return [texts for texts in wanted if texts]


def needed_tokens(plan: TextPlan, texts: Sequence[int], *, causal: bool) -> int:
    """Return how many tokens a backbone has to read to know all of some texts."""
    tokens = [plan.tokens[text] for text in texts]
    if causal:
        return distinct_prefixes([one.ids for one in tokens], [plan.groups[text] for text in texts])
    return sum(map(len, tokens))


def forward_shards(chosen: Pass, features: Features, plan: TextPlan, shards: Sequence[Sequence[int]]) -> Forwarded:
    """Forward and store the texts of each shard. An interrupt loses the shard under way and nothing else.

    Raises Failure naming the row whose vector is not finite, or where the disk refuses, Interrupted on Ctrl-C.
    """
    start = time.monotonic()
    done: list[Sequence[int]] = []
    forwarded, error = 0, None
    total = sum(len(plan.tokens[text]) for shard in shards for text in shard)
    with progress_bar(total, "embedding", "tok") as advance, _Writer(features) as writer:
        for number, shard in enumerate(shards):
            keys = [plan.keys[text] for text in shard]
            if features.has_shard(keys):  # another writer was faster
                continue
            try:
                vectors, size = _forward(chosen, plan, shard, features, advance)
                writer.write(keys, vectors, {"forwarded_tokens": size})
            except KeyboardInterrupt:
                writer.wait()
                kept = f"{number} of {len(shards)} shards are stored"
                raise Interrupted(f"interrupted: {kept}; the same command again goes on from there") from None
            done.append(shard)
            forwarded += size
            if error is None:
                error = _delta_error(plan, shard, vectors, vectors.astype(features.dtype))
    tokens = sum(needed_tokens(plan, shard, causal=chosen.backbone.causal) for shard in done)
    return Forwarded(chosen.name, sum(map(len, done)), tokens, forwarded, time.monotonic() - start, error)


def _forward(
    chosen: Pass, plan: TextPlan, shard: Sequence[int], features: Features, advance: Callable[[int], None]
) -> tuple[Vectors, int]:
    """Return the vectors [n, D] of a shard's texts, and how many tokens were read for them."""
    tokens = [plan.tokens[text] for text in shard]
    vectors = np.empty((len(shard), features.width), dtype=np.float32)
    forwarded = 0
    for batch in chosen.run(tokens, [plan.groups[text] for text in shard]):
        vectors[batch.places] = batch.vectors.numpy()
        with np.errstate(over="ignore"):  # what the storage dtype cannot hold becomes infinite, and is told by its row
            stored = vectors[batch.places].astype(features.dtype, copy=False)
        require_finite(stored, _Names(plan, [shard[at] for at in batch.places]))
        forwarded += batch.forwarded
        advance(sum(len(tokens[at]) for at in batch.places))
    return vectors, forwarded


class _Writer:
    """Writes one shard while the next is forwarded; an error shows at the next shard, or at the end."""

    def __init__(self, features: Features) -> None:
        self._features = features
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._pending: Future[Any] | None = None

    def write(self, keys: list[bytes], vectors: Vectors, record: dict[str, Any]) -> None:
        self.wait()
        self._pending = self._thread.submit(self._features.write_shard, keys, vectors, record)

    def wait(self) -> None:
        if self._pending is not None:
            self._pending.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown()
        if kind is None:
            self.wait()


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
