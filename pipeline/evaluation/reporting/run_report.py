"""All that a report tells of one run on one split."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl
import torch

from micropref.cache.choices import TEST, OldJoint, RouterInput
from micropref.cache.maintenance.description import RunDescription, describe
from micropref.cache.maintenance.uses import holds
from micropref.cache.runs.data import open_run_data
from micropref.cache.runs.histories import run_history
from micropref.cache.runs.names import find_run, holds_heads
from micropref.cache.runs.records import Run, readable_runs
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.groups import sides_of
from micropref.heads.evaluation.intervals import Sides, mean_intervals
from micropref.heads.evaluation.metrics import correct, nll
from micropref.heads.evaluation.profile import distinct
from micropref.heads.evaluation.scale import scaled_log_probability
from micropref.pipeline.evaluation.calibration import calibration_table
from micropref.pipeline.evaluation.claims import HeadCard, head_cards
from micropref.pipeline.evaluation.curve_tables import SweepTables, Variant, derived, sweep_tables
from micropref.pipeline.evaluation.reporting.data import data_sources
from micropref.pipeline.evaluation.reporting.pairs import ROOM, ShownPairs, choose_pairs, pair_figures
from micropref.pipeline.evaluation.rows import by_attribute
from micropref.pipeline.evaluation.scoring import as_scores, current_scores
from micropref.pipeline.evaluation.stored import StoredTables, stored_tables
from micropref.pipeline.training.method_runs import fitted_contexts, open_reading

MOST_CONTEXTS = 40
"""Wordings that have accuracies."""


@dataclass(frozen=True)
class Accuracy:
    """Of a run over all pairs of a split, with its 95 % interval."""

    value: float
    low: float
    high: float
    clusters: dict[str, int]
    """What intervals are over: users, prompts, wordings, and how many of each, of the attribute with the fewest."""
    nll: float
    """Of the same pairs, log-odds scaled, in nats per pair."""


@dataclass(frozen=True)
class RunReport:
    """A run on one split, as a report has it."""

    run: Run
    about: RunDescription
    method: str
    heads: int
    reads: RouterInput | OldJoint | None
    """What its router reads; None where it has none."""
    tables: StoredTables
    accuracy: Accuracy
    cards: tuple[HeadCard, ...]
    """What may be said of each head."""
    calibration: pl.DataFrame
    """Of all pairs together, with the columns of the view but for the attribute, which is NULL."""
    disagreement: pl.DataFrame
    """One row an attribute: attribute, n, entropy (mean of the router's, nats), spread (mean of the heads')."""
    contexts: pl.DataFrame
    """One row a wording: context, n, its mean weights weight_0, weight_1, ..., most frequent first; accuracy with low
    and high of the MOST_CONTEXTS most frequent."""
    pairs: ShownPairs
    data: pl.DataFrame
    """One row for each source of its data set: see `data_sources`."""
    sweep: SweepTables | None
    """The sweep it was chosen in, if it was."""
    history: pl.DataFrame | None
    """Its own fit by epoch, with the columns of the view; None where none was kept."""
    curves: dict[str, list[Variant]]
    """By role, what was made of its heads."""
    rights: Rights

    @property
    def id(self) -> str:
        """Return the run's id."""
        return self.run.id

    @property
    def title(self) -> str:
        """Return the run's first name, or its id."""
        return self.about.names[0] if self.about.names else self.run.id


@dataclass(frozen=True)
class Rights:
    """Whether a run gets each pair right, and what intervals of that are over."""

    pairs: pl.DataFrame
    """pair_id, attribute, right (½ for a tie)."""
    sides: Sides


@holds(run="run_id", data="data")
def gather_run(
    store: StoreFolder, run_id: str, data: str | None = None, split: str = TEST, *, room: int = ROOM
) -> RunReport:
    """Return what a report tells of a run, `room` characters of pairs; evaluates it where its tables are not of today.

    Raises BadInput as `evaluate` does.
    """
    run = find_run(store, run_id, holds_heads)
    tables = stored_tables(store, run.id, data, split)
    dataset = open_run_data(store, run, data)
    frame = current_scores(run, dataset, split)
    scores = as_scores(run, frame)
    reading = open_reading(store, run)
    sides = sides_of(frame, fitted_contexts(store, run) if reading.reads_contexts else None)
    scaled = scaled_log_probability(scores.log_odds(), run.scale)
    right = correct(scores.log_probability())
    mean = mean_intervals(right[:, None], sides, "share")
    frame = pair_figures(frame, scores, scaled.exp())
    return RunReport(
        run=run,
        about=describe(store, [run.id]).runs[0],
        method=run.record["method"],
        heads=scores.margins.shape[1],
        reads=reading.router_input if "router" in reading.needs and run.record["k"] > 1 else None,
        tables=tables,
        accuracy=Accuracy(
            mean.mean.item(), mean.low.item(), mean.high.item(), _fewest(frame, sides, mean.clusters), nll(scaled)
        ),
        cards=tuple(head_cards(tables.head_profile, tables.head_correlation, tables.head_accuracy)),
        calibration=calibration_table(_unnamed(frame), scaled, sides),
        disagreement=_disagreement(frame),
        contexts=_contexts(frame, right, sides),
        pairs=choose_pairs(dataset, split, frame, scores, room),
        data=data_sources(dataset),
        sweep=sweep_tables(store, run),
        history=pl.DataFrame(rows) if (rows := run_history(run.record)) else None,
        curves=_made_of(store, run),
        rights=Rights(frame.select("pair_id", "attribute").with_columns(right=right.numpy()), sides),
    )


def _fewest(frame: pl.DataFrame, sides: Sides, names: Iterable[str]) -> dict[str, int]:
    """Return how many clusters of each side the attribute has that has the fewest of it."""
    rows = [rows for _, rows in by_attribute(frame)]
    return {name: min(distinct(sides[name][own]) for own in rows) for name in names}


def _made_of(store: StoreFolder, run: Run) -> dict[str, list[Variant]]:
    """Return what was made of a run's heads, and first the run itself where `adapt` replayed or `route` made it."""
    runs = readable_runs(store)
    parent = next((one for one in runs if one.id == run.record.get("parent")), None)
    own = derived(store, parent, [run]) if parent else {}
    found = derived(store, run, runs)
    return {role: [*own.get(role, ()), *found.get(role, ())] for role in {**own, **found}}


def _unnamed(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(attribute=pl.lit(None, pl.String))


def _disagreement(frame: pl.DataFrame) -> pl.DataFrame:
    """Return by attribute how evenly the router spreads its weight, and how far heads' probabilities are apart."""
    means = frame.group_by("attribute").agg(pl.len().alias("n"), pl.col("entropy", "spread").mean())
    return means.sort("attribute", nulls_last=True)


def _contexts(frame: pl.DataFrame, right: torch.Tensor, sides: Sides) -> pl.DataFrame:
    """Return weights and accuracy of each wording of a context; without rows where pairs have none."""
    weights = [name for name in frame.columns if name.startswith("weight_")]
    means = frame.filter(pl.col("context").is_not_null()).group_by("context")
    found = means.agg(pl.len().alias("n"), *(pl.col(name).cast(pl.Float64).mean() for name in weights))
    found = found.sort("n", "context", descending=[True, False])
    rows = frame.select("context").with_row_index("row")
    frequent = rows.filter(pl.col("context").is_in(found["context"].head(MOST_CONTEXTS).implode()))
    accuracies = []
    for (context,), own in frequent.group_by("context"):
        places = own["row"].cast(pl.Int64).to_torch()
        # One wording is one cluster of its own: over prompts and people the interval is of this wording alone.
        shared = {name: ids[places] for name, ids in sides.items() if name != "wordings"}
        one = mean_intervals(right[places][:, None], shared, "share")
        accuracies.append((context, one.mean.item(), one.low.item(), one.high.item()))
    schema = {"context": pl.String, **dict.fromkeys(("accuracy", "low", "high"), pl.Float64)}
    table = pl.DataFrame(accuracies, schema=schema, orient="row")
    return found.join(table, on="context", how="left", maintain_order="left")
