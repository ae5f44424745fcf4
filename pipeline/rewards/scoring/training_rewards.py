"""Rewards in the form that trainers of policies call: a function of prompts and completions.

TRL calls `f(prompts, completions, completion_ids, **columns)`, sync or async, and takes a list of numbers or None; the
columns of the data set arrive as lists. n completions, K heads.
"""

from __future__ import annotations

import asyncio
import threading
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


class SharedScore:
    """Scores a batch once for several functions, which a trainer calls one after the other or at the same time."""

    def __init__(self, score: Score) -> None:
        self._score, self._lock = score, threading.Lock()
        self._batch: tuple[Sequence[Any], ...] = ()
        self._found: list[Rewarded] = []
        self._served: set[int] = set()

    def __call__(self, function: int, *batch: Sequence[Any]) -> list[Rewarded]:
        """Return what one of the functions is given for a batch; who asks again has it scored again."""
        with self._lock:
            if batch != self._batch or function in self._served:
                self._batch, self._found, self._served = batch, self._score(*batch), set()
            self._served.add(function)
            return self._found


@dataclass(frozen=True)
class Spread:
    """Where rewards lie."""

    mean: float = 0.0
    """What is taken from a reward."""
    deviation: float = 1.0
    """What it is divided by then."""


@dataclass(frozen=True)
class RewardFunction:
    """A reward function for TRL. Columns `context` and `user` of the data set say whose taste counts."""

    score: Score
    name: str
    """What the trainer's log calls it."""
    head: int | None = None
    """The head whose reward it is; None: the run's, heads weighed."""
    spread: Spread = Spread()
    """What rewards are standardized by."""
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
        value = (value - self.spread.mean) / self.spread.deviation
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


def spreads(store: StoreFolder, heads: RewardHeads) -> tuple[list[Spread], Spread]:
    """Return where each head's rewards lie [K], and where the run's do, over stored train responses.

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
    columns = torch.cat([rewards, (weights * rewards).sum(1, keepdim=True)], 1)
    if not bool((columns.std(0) > 0).all()):
        raise BadInput(f"run {heads.run.id}: a head gives all stored responses one reward, so there is no spread")
    *each, whole = map(Spread, columns.mean(0).tolist(), columns.std(0).tolist())
    return each, whole
