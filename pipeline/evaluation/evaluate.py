"""How well a run predicts a split: accuracies of heads and of their mixture, with intervals, from kept scores.

n pairs of one attribute, K heads, C columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import polars as pl
import torch
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from micropref.cache.choices import TEST, TRAIN
from micropref.cache.errors import BadInput
from micropref.cache.maintenance.uses import holds
from micropref.cache.runs.data import open_run_data
from micropref.cache.runs.names import find_run, holds_heads
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.groups import sides_of
from micropref.heads.evaluation.intervals import Intervals, Sides, fewest, mean_intervals
from micropref.heads.evaluation.metrics import correct, nll
from micropref.heads.evaluation.scale import scaled_log_probability
from micropref.heads.methods.base import Scores
from micropref.pipeline.evaluation.calibration import calibration_table
from micropref.pipeline.evaluation.differences import differences_table
from micropref.pipeline.evaluation.head_profile import head_tables
from micropref.pipeline.evaluation.kept import keep_tables
from micropref.pipeline.evaluation.rows import place_of
from micropref.pipeline.evaluation.scoring import as_scores, current_scores, score_missing
from micropref.pipeline.evaluation.stored_features import feature_differences
from micropref.pipeline.evaluation.wordings import Wordings, compare_wordings
from micropref.pipeline.training.fitted_contexts import count_known
from micropref.pipeline.training.method_runs import FittedRun, fitted_contexts, open_fitted

_Group = tuple[dict[str, Any], torch.Tensor]
"""run, data, split, part and attribute of a group of pairs, and their rows [n]."""


@dataclass(frozen=True)
class Evaluation:
    """The result of `eval` for a run on one split; every table has the columns of the view of its name."""

    run: str
    data: str
    split: str
    pairs: int
    """Pairs of the split that have scores now."""
    scored: int
    """Pairs scored by this call, validation pairs for choosing heads included."""
    without_context: int
    """Pairs without a context, where the router reads contexts: they have weights of their own."""
    accuracy: float
    """Of the mixture, over all pairs of the split."""
    nll: float
    """Of the same, its log-odds multiplied by `scale`, in nats per pair."""
    scale: float
    """The run's, chosen on validation pairs."""
    lowest_accuracy: float
    """Of the mixture, on the attribute where it is lowest: that of the worst-off group."""
    clusters: dict[str, int]
    """Users, prompts and wordings that intervals are over, the fewest of any row; wordings of contexts that are
    new to a run that reads them."""
    head_accuracy: pl.DataFrame
    mixture_accuracy: pl.DataFrame
    best_head: pl.DataFrame
    router_weights: pl.DataFrame
    calibration: pl.DataFrame
    head_profile: pl.DataFrame
    head_correlation: pl.DataFrame
    mixture_vs_single: pl.DataFrame
    wordings: Wordings | None = None
    """Contexts seen in training and new ones, apart; None where the run reads no contexts or the pairs have none."""


@holds(run="run_id", data="data")
def evaluate(store: StoreFolder, run_id: str, data: str | None = None, split: str = TEST) -> Evaluation:
    """Evaluate a run on a split of a data set, by default its own.

    The best head of an attribute is chosen on the validation part of the train split where there is one, and once
    more on the evaluated pairs themselves, labelled `oracle`. Raises BadInput on an unknown run, data set or split, and
    on a split none of whose pairs fits the backbone.
    """
    run = find_run(store, run_id, holds_heads)
    fitted = open_fitted(store, run)
    dataset = open_run_data(store, run, data)
    dataset.of_split(split)
    scored, missing = score_missing(fitted, dataset, split, None)
    if split != TRAIN and TRAIN in dataset.splits():
        scored += score_missing(fitted, dataset, TRAIN, "validation")[0]
    frame = current_scores(run, dataset, split)
    if not frame.height:
        raise BadInput(
            f"data set {dataset.name!r}, split {split!r}: no pair fits the backbone's length, so there is nothing to "
            "evaluate; embed with a larger `max_length`"
        )
    validation = current_scores(run, dataset, TRAIN).filter(pl.col("part") == "validation")
    known = fitted_contexts(store, run)
    scores = as_scores(run, frame)
    sides = _sides(fitted, known, frame)
    right = correct(scores.log_probability())
    tables, clusters = _tables(frame, scores, right, sides)
    chosen_by = _on_validation(fitted, known, validation) if validation.height else None
    tables["best_head"] = _best_heads(tables["head_accuracy"].filter(pl.col("part") != "validation"), chosen_by)
    accuracy = float(right.mean())
    scaled = scaled_log_probability(scores.log_odds(), run.scale)
    tables |= {
        "calibration": calibration_table(frame, scaled, sides.model),
        **head_tables(frame, scores.margins, feature_differences(dataset, split), sides.heads),
        "mixture_vs_single": differences_table(store, run, dataset, split, frame),
    }
    keep_tables(run, dataset, split, tables, {"pairs": frame.height, "accuracy": accuracy})
    evaluated = tables["mixture_accuracy"].filter(pl.col("part") != "validation")
    lowest = float(evaluated["accuracy"].to_numpy().min())
    seen = None
    if fitted.reading.contexts:
        contexts_in = fitted.reading.router_features or fitted.features
        count = partial(count_known, run, contexts_in)
        seen = compare_wordings(frame, set(known), scores.log_probability(), count)
    return Evaluation(
        run=run.id,
        data=dataset.name,
        split=split,
        pairs=frame.height,
        scored=scored,
        without_context=missing,
        accuracy=accuracy,
        nll=nll(scaled),
        scale=run.scale,
        lowest_accuracy=lowest,
        clusters=clusters,
        wordings=seen,
        **tables,
    )


@dataclass(frozen=True)
class _Sides:
    """What intervals are over: users, prompts, and wordings that are new to what reads contexts."""

    heads: Sides
    """Of figures of single heads."""
    model: Sides
    """Of figures of the mixture."""


def _sides(fitted: FittedRun, known: pl.Series, frame: pl.DataFrame) -> _Sides:
    """Return what intervals of a split's scores are over; `known` are the contexts that the run was fitted on."""
    reading = fitted.reading
    heads = sides_of(frame, known if reading.heads_read_contexts else None)
    if reading.heads_read_contexts == reading.reads_contexts:
        return _Sides(heads, heads)
    return _Sides(heads, sides_of(frame, known if reading.reads_contexts else None))


def _tables(
    frame: pl.DataFrame, scores: Scores, right: torch.Tensor, sides: _Sides
) -> tuple[dict[str, pl.DataFrame], dict[str, int]]:
    """Return accuracies of heads and mixture and the router's weights, and the clusters that intervals are over.

    `right` [N]: whether the mixture gets each pair right.
    """
    groups = list(_groups(frame))
    by_head, counted = _accuracies(groups, correct(F.logsigmoid(scores.margins)), sides.heads, heads=True)
    of_all, more = _accuracies(groups, right[:, None], sides.model, heads=False)
    tables = {
        "head_accuracy": by_head,
        "mixture_accuracy": of_all,
        "router_weights": _router_weights(groups, scores),
    }
    return tables, fewest([*counted, *more])


def _on_validation(fitted: FittedRun, known: pl.Series, frame: pl.DataFrame) -> pl.DataFrame:
    """Return heads' accuracies on validation pairs, which the best ones are chosen by."""
    right = correct(F.logsigmoid(as_scores(fitted.run, frame).margins))
    return _accuracies(list(_groups(frame)), right, _sides(fitted, known, frame).heads, heads=True)[0]


def _groups(frame: pl.DataFrame) -> Iterator[_Group]:
    """Yield the place of each (part, attribute), attribute NULL being one of its own, and its rows, sorted by name."""
    rows = frame.select("part", "attribute").with_row_index("row").group_by("part", "attribute", maintain_order=True)
    for part, attribute, found in sorted(rows.all().iter_rows(), key=lambda one: (one[0], one[1] or "")):
        yield place_of(frame) | {"part": part, "attribute": attribute}, torch.tensor(found)


def _accuracies(
    groups: Sequence[_Group], right: torch.Tensor, sides: Sides, *, heads: bool
) -> tuple[pl.DataFrame, list[Intervals]]:
    """Return one row for each group and column of `right` [N, C], which are heads or the mixture; and the intervals."""
    count = right.shape[1]
    tables, intervals = [], []
    for place, rows in groups:
        found = mean_intervals(right[rows], {name: ids[rows] for name, ids in sides.items()}, "share")
        columns: dict[str, Any] = {name: [value] * count for name, value in place.items()}
        columns |= {"head": list(range(count))} if heads else {}
        columns |= {"n": [len(rows)] * count, "accuracy": found.mean.tolist()}
        columns |= {"low": found.low.tolist(), "high": found.high.tolist()}
        tables.append(_typed(columns))
        intervals.append(found)
    return pl.concat(tables), intervals


def _router_weights(groups: Sequence[_Group], scores: Scores) -> pl.DataFrame:
    tables = []
    for place, rows in groups:
        weights = scores.log_weights[rows].exp()
        count = weights.shape[1]
        columns: dict[str, Any] = {name: [value] * count for name, value in place.items()}
        columns |= {"head": list(range(count)), "mean_weight": weights.mean(0).tolist()}
        columns["mean_entropy"] = [float(torch.special.entr(weights).sum(1).mean())] * count
        tables.append(_typed(columns))
    return pl.concat(tables)


def _typed(columns: dict[str, Any]) -> pl.DataFrame:
    types = {"attribute": pl.String, "head": pl.Int32, "n": pl.Int64}
    return pl.DataFrame(columns, schema_overrides={name: types[name] for name in types if name in columns})


def _best_heads(heads: pl.DataFrame, validation: pl.DataFrame | None) -> pl.DataFrame:
    """Return, for each attribute, the accuracy of the head chosen on validation and of the oracle's choice."""
    choices: list[tuple[Literal["validation", "oracle"], pl.DataFrame]] = [("oracle", heads)]
    if validation is not None:
        choices.insert(0, ("validation", validation))
    rows = []
    for chosen_on, source in choices:
        best = source.sort(["accuracy", "head"], descending=[True, False]).unique(
            "attribute", keep="first", maintain_order=True
        )
        found = heads.join(best.select("attribute", "head"), on=["attribute", "head"], how="inner", nulls_equal=True)
        rows.append(found.with_columns(chosen_on=pl.lit(chosen_on)))
    columns = ["run", "data", "split", "attribute", "chosen_on", "head", "n", "accuracy", "low", "high"]
    return pl.concat(rows).sort(["attribute", "chosen_on"], descending=[False, True]).select(columns)
