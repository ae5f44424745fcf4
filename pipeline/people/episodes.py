"""Groups with the choices each is learned from, and the pairs it is scored on.

G groups (people, attributes, contexts), n shots of each, N scored pairs, K heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl
import torch

from micropref.heads.adaptation.few_shot import Adapted, Shots
from micropref.heads.methods.base import Scores
from micropref.pipeline.options import GroupedBy
from micropref.pipeline.people.frozen_run import Frozen, ScoredPairs
from micropref.pipeline.people.shot_sampling import ShotSample


@dataclass(frozen=True)
class Episode:
    """A sample of shots as tensors: no scored pair shares a prompt with its group's shots."""

    names: list[str]
    """[G] groups."""
    shots: Shots
    """[G, n, K] in the order sampled."""
    scored: ScoredPairs
    """N pairs of these groups."""
    group: torch.Tensor
    """[N] place of each scored pair's group among the names."""

    def rescored(self, adapted: Adapted) -> Scores:
        """Return the scores of the scored pairs under each group's weights."""
        return adapted.scores(self.scored.scores, self.group)


def read_episode(frozen: Frozen, by: GroupedBy, table: pl.DataFrame, sample: ShotSample, *, responses: bool) -> Episode:
    """Read the vectors of the shots and of the scored rows of a table, each of one split, and score them.

    With `responses` shots have the rewards of single responses too. Raises BadInput where the heads give none.
    """
    names = list(dict.fromkeys(sample.group))
    shots, rest = table[sample.row], table.filter(pl.Series(sample.scored))
    learned = frozen.score(shots["split"][0], shots["pair_id"], responses=responses)
    scored = frozen.score(rest["split"][0], rest["pair_id"])
    group = rest[by].replace_strict(names, range(len(names)), return_dtype=pl.Int64).to_torch()
    shape = (len(names), -1, learned.scores.margins.shape[1])
    chosen = None if learned.chosen is None else learned.chosen.view(shape)
    few = Shots(learned.scores.margins.view(shape), chosen, learned.scores.log_weights.view(shape))
    return Episode(names, few, scored, group)
