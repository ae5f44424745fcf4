"""Rewards in the form that trainers of policies call: a function of prompts and completions.

TRL calls `f(prompts, completions, completion_ids, **columns)`, sync or async, and takes a list of numbers or None; the
columns of the data set arrive as lists. n completions, K heads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import torch

from micropref.cache.choices import TRAIN
from micropref.cache.errors import BadInput
from micropref.cache.runs.data import open_run_data
from micropref.cache.store import StoreFolder
from micropref.pipeline.rewards.scoring.candidates import Rewarded
from micropref.pipeline.rewards.scoring.taste import RewardHeads

SPREAD_PAIRS = 5000
"""Stored pairs at most whose rewards' spread is what rewards are divided by."""
Score = Callable[[Sequence[Any], Sequence[Any], Sequence[str | None], Sequence[str | None]], list[Rewarded]]
"""Rewards of completions [n], each behind its prompt [n], for contexts [n] and users [n]."""


@dataclass(frozen=True)
class RewardFunction:
    """A reward function for TRL. Columns `context` and `user` of the data set say whose taste counts."""

    score: Score
    name: str
    """What the trainer's log calls it."""
    head: int | None = None
    """The head whose reward it is; None: the run's, heads weighed."""
    divisor: float = 1.0
    """What rewards are divided by."""
    clip: float | None = None
    """Largest size of what it returns; None: any."""

    @property
    def __name__(self) -> str:
        """Return the name that trainers log."""
        return self.name

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        *,
        context: Sequence[str | None] | None = None,
        user: Sequence[str | None] | None = None,
        **_columns: Any,
    ) -> list[float | None]:
        """Return a reward for each completion; None where it cannot be scored, which trainers leave out."""
        nobody = [None] * len(prompts)
        found = self.score(prompts, completions, context or nobody, user or nobody)
        return [self._reward(one) for one in found]

    def _reward(self, one: Rewarded) -> float | None:
        heads = one.heads[0]
        value = one.rewards[0] if self.head is None or heads is None else heads[self.head]
        if value is None:
            return None
        value /= self.divisor
        return value if self.clip is None else max(-self.clip, min(self.clip, value))


@dataclass(frozen=True)
class AsyncRewardFunction:
    """The same as a coroutine function: the trainer goes on while it is computed."""

    inner: RewardFunction

    @property
    def __name__(self) -> str:
        """Return the name that trainers log."""
        return self.inner.name

    async def __call__(self, *args: Any, **columns: Any) -> list[float | None]:
        """Return what `RewardFunction` does."""
        return await asyncio.to_thread(self.inner, *args, **columns)


def spreads(store: StoreFolder, heads: RewardHeads) -> tuple[list[float], float]:
    """Return the standard deviation of each head's rewards [K], and of the run's, over stored train responses.

    Raises BadInput where the run's data set is gone.
    """
    dataset = open_run_data(store, heads.run)
    split = TRAIN if TRAIN in dataset.splits() else dataset.splits()[0]
    reading = replace(heads.fitted.reading, needs=heads.fitted.reading.needs | {"responses"}, units=None)
    located = reading.locate(dataset, heads.fitted.features, split, pl.lit(True))
    step = max(1, len(located) // SPREAD_PAIRS)
    _, pairs = reading.read(located.take(np.arange(0, len(located), step)))
    rewards = torch.cat([part.double() @ heads.heads.T for part in pairs.responses()])
    weights = heads.fitted.model.scores(pairs).log_weights.double().exp().repeat(2, 1)
    each, whole = rewards.std(0), (weights * rewards).sum(1).std()
    if not bool((each > 0).all()) or not float(whole) > 0:
        raise BadInput(f"run {heads.run.id}: a head gives all stored responses one reward, so there is no spread")
    return each.tolist(), float(whole)
