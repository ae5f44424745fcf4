"""What the settings of a sweep are worth on the test split, which nothing is chosen by.

N test pairs, G settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch

from micropref.cache.choices import TEST
from micropref.cache.errors import BadInput
from micropref.cache.vectors.groups import distinct_contexts, sides_of
from micropref.cache.vectors.pair_features import LocatedPairs, locate_pairs
from micropref.heads.evaluation.intervals import limits, mean_intervals
from micropref.heads.evaluation.metrics import correct
from micropref.heads.fitting.no_context import with_no_context
from micropref.heads.mixture import Mixture, pair_log_probability
from micropref.pipeline.training.data import FitData

BLOCK = 1 << 14
"""Pairs whose vectors are in memory at a time: what a fit may take is planned without test pairs."""
UNKNOWN: dict[str, float | None] = dict.fromkeys(("test_accuracy", "test_low", "test_high"))


@dataclass(frozen=True)
class FreshPairs:
    """The test pairs of a data set as the settings of one fit read them."""

    data: FitData
    """What the settings are fitted and chosen on."""
    located: LocatedPairs | None
    """Where the test pairs lie; None: there is nothing to report."""
    unknown: str | None
    """Why there is nothing to report."""

    @property
    def digest(self) -> str | None:
        """Return what names the pairs: figures of other pairs are no part of the same table."""
        return None if self.located is None else self.data.dataset.digest(TEST)

    @torch.no_grad()
    def figures(self, mixtures: Sequence[Mixture]) -> list[dict[str, float | None]]:
        """Return test_accuracy of every mixture [G] over all pairs, with its 95 % interval, all None where unknown.

        The pairs are read once for all of them. As `eval` has it: users are not known, and intervals are over wordings
        too that were not fitted, where contexts are read.
        """
        if self.located is None:
            return [dict(UNKNOWN) for _ in mixtures]
        blocks = np.split(np.arange(len(self.located)), range(BLOCK, len(self.located), BLOCK))
        mixtures = self._reading_all(mixtures)
        right = torch.cat([_right(mixtures, self.located.take(rows)) for rows in blocks])
        found = mean_intervals(right, sides_of(self.located.table, self._fitted_contexts()), "share")
        columns = found.mean.tolist(), limits(found.low), limits(found.high)
        return [dict(zip(UNKNOWN, row, strict=True)) for row in zip(*columns, strict=True)]

    def _reading_all(self, mixtures: Sequence[Mixture]) -> Sequence[Mixture]:
        """Return the mixtures with weights for test pairs without a context, where only these lack one."""
        assert self.located is not None
        if self.data.router_input == "prompt" or self.located.context.all():
            return mixtures
        fitting, _ = self.data.sources()
        return [with_no_context(mixture, fitting) for mixture in mixtures]

    def _fitted_contexts(self) -> pl.Series | None:
        if (self.data.router_input, self.data.reward_input) == ("prompt", "plain"):
            return None
        return distinct_contexts(part.table["context"] for part in (self.data.fitting, self.data.validation))


def open_fresh(data: FitData) -> FreshPairs:
    """Locate the test pairs of the data that a fit reads; none where there are none, or they were not embedded so."""
    if TEST not in data.dataset.splits():
        return FreshPairs(data, None, f"data set {data.dataset.name!r} has no {TEST} split")
    try:
        located = locate_pairs(
            data.dataset,
            data.features,
            TEST,
            router_input=data.router_input,
            reward_input=data.reward_input,
            router_features=data.router_features,
        )
    except BadInput as error:
        return FreshPairs(data, None, str(error))
    if not len(located):
        return FreshPairs(data, None, f"data set {data.dataset.name!r}, split {TEST!r}: no pair fits the backbone")
    return FreshPairs(data, located, None)


def _right(mixtures: Sequence[Mixture], located: LocatedPairs) -> torch.Tensor:
    """Return which pairs [n, G] every mixture has right, by one product for all heads."""
    pairs = located.load()
    together = pairs.delta @ torch.cat([mixture.heads for mixture in mixtures]).T
    margins = torch.split(together, [mixture.k for mixture in mixtures], 1)
    columns = []
    for mixture, own in zip(mixtures, margins, strict=True):
        log_weights = mixture.log_weights(pairs.router_inputs, len(pairs), pairs.router_rows)
        columns.append(correct(pair_log_probability(own, log_weights)))
    return torch.stack(columns, 1)
