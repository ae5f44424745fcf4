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
from micropref.pipeline.people.frozen_run import Frozen, Judged
from micropref.pipeline.people.shot_sampling import Draw


@dataclass(frozen=True)
class Lesson:
    """A draw as tensors: no scored pair shares a prompt with its group's shots."""

    names: list[str]
    """[G] groups."""
    shots: Shots
    """[G, n, K] in the order drawn."""
    scored: Judged
    """N pairs of these groups."""
    group: torch.Tensor
    """[N] place of each scored pair's group among the names."""

    def rescored(self, adapted: Adapted) -> Scores:
        """Return what the scored pairs get with each group's weights."""
        return adapted.scores(self.scored.scores, self.group)


def read_lesson(frozen: Frozen, by: GroupedBy, table: pl.DataFrame, drawn: Draw, *, responses: bool) -> Lesson:
    """Read the vectors of drawn and scored rows of a table, each of one split, and let the heads judge them.

    With `responses` shots have the rewards of single responses too. Raises BadInput where the heads give none.
    """
    names = list(dict.fromkeys(drawn.group))
    shots, rest = table[drawn.row], table.filter(pl.Series(drawn.scored))
    learned = frozen.judge(shots["split"][0], shots["pair_id"], responses=responses)
    scored = frozen.judge(rest["split"][0], rest["pair_id"])
    group = rest[by].replace_strict(names, range(len(names)), return_dtype=pl.Int64).to_torch()
    shape = (len(names), -1, learned.scores.margins.shape[1])
    chosen = None if learned.chosen is None else learned.chosen.view(shape)
    few = Shots(learned.scores.margins.view(shape), chosen, learned.scores.log_weights.view(shape))
    return Lesson(names, few, scored, group)
