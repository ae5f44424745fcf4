"""The whole pipeline on generated data with known groups: embed, train, evaluate, query."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
import torch

from micropref.cache.choices import TEST, TRAIN
from micropref.cache.datasets import open_dataset
from micropref.cache.runs.records import open_run, router_input
from micropref.cache.sql.query import render, run_query
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.groups import sides_of
from micropref.cache.vectors.opening import open_features
from micropref.cache.vectors.pair_features import load_pairs
from micropref.heads.evaluation.intervals import Intervals, fewest, mean_intervals
from micropref.heads.evaluation.metrics import correct
from micropref.heads.fitting.settings import FitPlan, FitProgress, FitSetting
from micropref.heads.mixture import Mixture
from micropref.pipeline.comparison.ceiling import ceiling
from micropref.pipeline.demo.generate import generate, write
from micropref.pipeline.embedding.embed import embed
from micropref.pipeline.evaluation.evaluate import evaluate
from micropref.pipeline.forwarding.options import EmbedOptions
from micropref.pipeline.progress import Announce
from micropref.pipeline.sources.ingest import SourceOptions
from micropref.pipeline.training.data import load_parts
from micropref.pipeline.training.method_runs import fitted_contexts
from micropref.pipeline.training.restarts import CONTEXT_LAM
from micropref.pipeline.training.train import TrainOptions, train

NAME = "demo"
HEADS = 5
"""Reward heads of the mixtures: the default, not the number of groups the data has."""
MODELS: dict[str, tuple[FitSetting, FitPlan, TrainOptions]] = {
    "single reward": (FitSetting("single", 1), FitPlan(solver="scikit-learn"), TrainOptions()),
    "static mixture": (FitSetting("static", HEADS), FitPlan(), TrainOptions()),
    "mixture, router reads prompt": (FitSetting("mixture", HEADS), FitPlan(), TrainOptions(router_input="prompt")),
    "mixture, router reads context": (
        FitSetting("mixture", HEADS, lam=CONTEXT_LAM),
        FitPlan(),
        TrainOptions(router_input="context"),
    ),
}
CEILING = "ceiling: one model per true group"
QUERIES = (
    "SELECT attribute, head, round(accuracy, 3) AS accuracy FROM head_accuracy "
    "WHERE run = '{run}' AND part = 'test' ORDER BY attribute, accuracy DESC",
    "SELECT attribute, arg_max(head, mean_weight) AS head, round(max(mean_weight), 3) AS weight FROM router_weights "
    "WHERE run = '{run}' GROUP BY attribute ORDER BY attribute",
    "SELECT context, count(*) AS pairs, round(avg((margin > 0)::INT), 3) AS head_0_agrees FROM scores "
    "JOIN pairs USING (data, split, pair_id) WHERE run = '{run}' AND head = 0 GROUP BY context ORDER BY 3 DESC LIMIT 8",
)


@dataclass(frozen=True)
class Demo:
    """The result of the demo."""

    rows: list[dict[str, object]]
    """One row a model: accuracy on held-out prompts, its 95 % interval, accuracy in each group."""
    clusters: dict[str, int]
    """Users, prompts and wordings of contexts that intervals are over; wordings for the model that reads contexts."""
    runs: dict[str, str]
    """Model -> run id."""
    queries: list[str]
    """Three queries to try on the run whose router reads the context."""
    answer: str
    """What the first of them returns."""


def run_demo(
    store: StoreFolder,
    announce: Announce,
    progress: Callable[[FitProgress], None] | None = None,
    backbone: str = EmbedOptions.backbone,
) -> Demo:
    """Generate, embed, train and evaluate; a second run finds everything done and takes seconds.

    `backbone`: what `embed` takes, such as `smollm2`. Raises BadInput where it cannot be loaded, `minilm` and
    `smollm2` where the packages that carry them are not installed.
    """
    files = write(generate(), source_folder(store))
    features = ""
    for path, split in zip(files, (TRAIN, TEST), strict=True):
        # What an earlier version generated would otherwise stay next to these rows.
        sources = SourceOptions(split=split, replace=True)
        report = embed(store, [path], NAME, sources, EmbedOptions(backbone), announce=announce)
        features = report.features
        announce(f"{split}: {report.pairs:,} pairs, {report.texts_embedded:,} of {report.texts:,} texts embedded now")
        if report.texts_embedded:
            announce(
                f"{report.tokens_forwarded:,} tokens forwarded ({report.tokens_unique:,} unique) "
                f"at {report.tokens_per_second:,.0f} tokens/s"
            )
    runs = {}
    for model, (setting, plan, options) in MODELS.items():
        trained = train(store, NAME, setting, plan, replace(options, features=features), progress)
        evaluate(store, trained.run)
        runs[model] = trained.run
        announce(f"{model}: run {trained.run}, validation NLL {trained.record['validation_nll']:.4f}")
    rows, clusters = _compare(store, runs)
    queries = [query.format(run=runs["mixture, router reads context"]) for query in QUERIES]
    return Demo(rows, clusters, runs, queries, render(run_query(store.root, queries[0]), "table", width=80))


def _compare(store: StoreFolder, runs: dict[str, str]) -> tuple[list[dict[str, object]], dict[str, int]]:
    """Return a row for each run and the label-trained ceiling, all on the same held-out pairs, and their clusters."""
    dataset = open_dataset(store, NAME)
    features = open_features(store, open_run(store, next(iter(runs.values()))).record["features"])
    rows = []
    for model, run_id in runs.items():
        run = open_run(store, run_id)
        reads = router_input(run.record)
        test = load_pairs(dataset, features, TEST, router_input=reads)
        mixture = Mixture.from_state(run.tensors())
        right = correct(mixture.log_probability(test.delta, test.router))
        rows.append(_row(model, test.table, right, fitted_contexts(store, run) if reads != "prompt" else None))
    test = load_pairs(dataset, features, TEST, router_input="prompt")
    predicted = ceiling(*load_parts(dataset, features, "prompt"), test.delta, test.table["attribute"])
    rows.append(_row(CEILING, test.table, predicted.right(), None))
    return [row for row, _ in rows], fewest([found for _, found in rows])


def _row(
    model: str, table: pl.DataFrame, right: torch.Tensor, known: pl.Series | None
) -> tuple[dict[str, object], Intervals]:
    found = mean_intervals(right[:, None], sides_of(table, known), "share")
    groups = table.select("attribute").with_columns(right=pl.Series(right.numpy()))
    means = groups.group_by("attribute").agg(pl.col("right").mean()).sort("attribute")
    row: dict[str, object] = {
        "held-out prompts": model,
        "accuracy": float(right.mean()),
        "low": float(found.low[0]),
        "high": float(found.high[0]),
        **dict(means.iter_rows()),
    }
    return row, found


def source_folder(store: StoreFolder) -> Path:
    """Return the folder of the generated rows, to look at or to embed with another backbone."""
    return store.root / "demo-source"
