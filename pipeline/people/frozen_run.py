"""A run's frozen heads on pairs of any data set: what adaptation learns from and is scored on, and what it saves.

N pairs, K heads, G groups.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import polars as pl
import torch

from micropref.cache.choices import TEST
from micropref.cache.datasets import Dataset
from micropref.cache.errors import BadInput
from micropref.cache.keys import short_id
from micropref.cache.runs.data import open_run_data
from micropref.cache.runs.names import find_run, holds_heads
from micropref.cache.runs.records import Run, save_run
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.pair_features import TABLE_COLUMNS, has_contexts, response_columns
from micropref.heads.methods.base import Scores
from micropref.pipeline.evaluation.scoring import unspent
from micropref.pipeline.options import GroupedBy
from micropref.pipeline.training.method_runs import FittedRun, open_fitted
from micropref.pipeline.training.results import provenance

State = dict[str, torch.Tensor]
"""Tensors by name, as a run saves them."""


@dataclass(frozen=True)
class ScoredPairs:
    """Pairs and their scores by the frozen heads, in the order asked for."""

    table: pl.DataFrame
    """One row a pair: TABLE_COLUMNS."""
    scores: Scores
    """Margins and the run's own weights [N, K], float64."""
    chosen: torch.Tensor | None
    """[N, K] rewards of the chosen responses, where asked for."""
    without_context: int
    """Pairs without a context, where the router reads contexts."""


@dataclass(frozen=True)
class Frozen:
    """A run whose heads are frozen, and the data set they score."""

    fitted: FittedRun
    dataset: Dataset

    @property
    def run(self) -> Run:
        """Return the run."""
        return self.fitted.run

    def pairs_of(self, split: str, by: GroupedBy) -> pl.DataFrame:
        """Return the embedded pairs of a split that the run may be scored on: TABLE_COLUMNS. No vector is read.

        Raises BadInput where no pair names a group, or none has what the run's router reads.
        """
        where = f"data set {self.dataset.name!r}, split {split!r}"
        reading, features = self.fitted.reading, self.fitted.features
        keys = response_columns(reading.reward_input)
        linked = self.dataset.linked_pairs(features.id, split, [*TABLE_COLUMNS, *keys])
        table = linked.filter(unspent(self.run)).select(TABLE_COLUMNS)
        if table[by].null_count() == table.height:
            raise BadInput(f"{where}: no pair has a {by}; embed rows that do, or choose another `by`")
        if reading.contexts and not has_contexts(self.dataset, features, split):
            raise BadInput(
                f"{where}: no pair has a context, which the router of run {self.run.id} reads; embed with "
                "`contexts`, or take a run trained with `router_input` prompt"
            )
        return table

    def shot_pool(self, split: str, by: GroupedBy) -> tuple[pl.DataFrame, pl.Series | None]:
        """Return the pairs that are scored, with those of the split that choices are sampled from, and which these are.

        None stands for all: they are sampled from the scored split itself.
        """
        scored = self.pairs_of(TEST, by)
        if split == TEST:
            return scored, None
        table = pl.concat([self.pairs_of(split, by), scored])
        return table, table["split"] == split

    def score(self, split: str, pair_ids: pl.Series, *, responses: bool = False) -> ScoredPairs:
        """Score pairs of a split, in the order of their ids; with `responses` also the chosen ones alone.

        Raises BadInput where responses are asked for and the run's heads give no reward to a single response.
        """
        reading = self.fitted.reading
        if responses:
            reading = replace(reading, needs=reading.needs | {"responses"})
        wanted = pl.col("pair_id").is_in(pair_ids.implode())
        loaded, pairs = reading.pairs(self.dataset, self.fitted.features, split, wanted)
        places = loaded.table.select("pair_id").with_row_index("row")
        order = pair_ids.to_frame("pair_id").join(places, on="pair_id", how="left", maintain_order="left")["row"]
        rows = order.cast(pl.Int64).to_torch()
        found = self.fitted.model.scores(pairs)
        scores = Scores(found.margins[rows].double(), found.log_weights[rows].double(), found.combine)
        chosen = None
        if responses:
            assert pairs.chosen is not None
            chosen = (pairs.chosen[rows] @ self._linear_heads().T).double()
        missing = loaded.without_context if reading.contexts else 0
        return ScoredPairs(loaded.table[order], scores, chosen, missing)

    def _linear_heads(self) -> torch.Tensor:
        """Return heads [K, D] whose reward of a response is their product with its vector."""
        heads = self.fitted.model.state().get("heads")
        if heads is None or heads.ndim != 2:
            raise BadInput(
                f"run {self.run.id} ({self.run.record['method']}): its heads give no reward to a response alone, which "
                "`method` drm needs; choose another `method`"
            )
        return heads

    def save(
        self,
        store: StoreFolder,
        method: str,
        settings: dict[str, Any],
        split: str,
        groups: list[str],
        state: State,
        scale: float = 1.0,
    ) -> Run:
        """Save what was learned of G named groups on a split as a run that refers to this one.

        Its scale is that of predictions with the learned weights.
        """
        identity = {
            "parent": self.run.id,
            "data": self.dataset.name,
            "data_split": split,
            "data_digest": self.dataset.digest(split),
            "features": self.fitted.features.id,
            "method": f"adapt-{method}",
            "settings": settings,
            "groups": groups,
            "k": self.run.record["k"],
            "seed": settings.get("seed"),
        }
        not_fitted = dict.fromkeys(("lam", "validation_nll", "validation_accuracy", "train_pairs"))
        return save_run(
            store,
            f"adapt-{method}-{short_id(identity, 8)}",
            identity | not_fitted | {"scale": scale} | provenance(),
            state,
        )


def _has_several_heads(run: Run) -> bool:
    return holds_heads(run) and run.record["k"] > 1


def open_frozen(store: StoreFolder, run_id: str, data: str | None) -> Frozen:
    """Open a run on a data set, by default its own. Raises BadInput where it has no heads to weigh.

    A run with per-user weights treats every user as new: their weights come from their shots alone.
    """
    run = find_run(store, run_id, _has_several_heads)
    fitted = open_fitted(store, run)
    fitted = replace(fitted, reading=replace(fitted.reading, units=None))
    if run.record["k"] == 1:
        raise BadInput(
            f"run {run.id} has one head, so there is nothing to weigh; take a run of several heads, such as one of "
            "method mixture or maxmin with `k` 2 or more"
        )
    return Frozen(fitted, open_run_data(store, run, data))
