"""Methods as runs: fitted and saved by `train`, opened again to score pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from micropref.cache.choices import TRAIN, RewardInput
from micropref.cache.datasets import open_dataset, read_table
from micropref.cache.errors import BadInput
from micropref.cache.keys import short_id
from micropref.cache.maintenance.uses import holds
from micropref.cache.runs.records import Run, open_run, save_run
from micropref.cache.runs.records import router_input as router_input_of
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.features import Features
from micropref.cache.vectors.groups import distinct_contexts
from micropref.cache.vectors.opening import open_features
from micropref.heads.methods.base import MethodOptions, Model
from micropref.heads.methods.registry import methods
from micropref.pipeline.options import WantedRouterInput
from micropref.pipeline.training.method_data import Reading, Units, open_method_data
from micropref.pipeline.training.results import figures_of, provenance


@dataclass(frozen=True)
class FittedRun:
    """A run that can score pairs."""

    run: Run
    features: Features
    """The vectors it was fitted on."""
    reading: Reading
    """How it reads pairs."""
    model: Model
    """The fitted method."""


@dataclass(frozen=True)
class TrainedMethod:
    """The result of `train` for a method with a fit of its own."""

    run: str
    """Id of the saved run, made of its options and data: the same fit again is the same run."""
    record: dict[str, Any]
    """run.json."""
    splits: list[str]
    """Splits that the data set has: what the run can be scored on."""


def open_fitted(store: StoreFolder, run: Run) -> FittedRun:
    """Open a run to score pairs with. Raises BadInput where it is of a kind unknown to this version."""
    record = run.record
    if "groups" in record:
        raise BadInput(
            f"run {run.id} holds the weights of {len(record['groups'])} groups over the heads of run "
            f"{record['parent']}, scored when they were learned; name {record['parent']} instead"
        )
    method = methods().get(record["method"])
    if method is None:
        raise BadInput(f"run {run.id} is of the unknown method {record['method']!r}: expected {', '.join(methods())}")
    return FittedRun(
        run, open_features(store, record["features"]), open_reading(store, run), method.restore(run.tensors())
    )


def open_reading(store: StoreFolder, run: Run) -> Reading:
    """Return how a run reads pairs."""
    record = run.record
    settings, units = record["settings"], record.get("units")
    named = None if units is None else Units(units["kind"], tuple(units["names"]))
    contexts_in = settings.get("router_features")
    router_features = None if contexts_in is None else open_features(store, contexts_in)
    needs = methods()[record["method"]].needs
    return Reading(router_input_of(record), settings["reward_input"], needs, named, router_features)


def fitted_contexts(store: StoreFolder, run: Run) -> pl.Series:
    """Return the distinct contexts that a run was fitted on; those of a data set that is gone are not known."""
    budget, name = run.budget(), run.record["data"]
    if budget is not None:
        before = fitted_contexts(store, open_run(store, run.record["parent"]))
        return distinct_contexts([before, read_table(budget, "budget", ["context"])["context"]])
    settings = run.record["settings"]
    if (settings["router_input"], settings["reward_input"]) == ("prompt", "plain") or name not in store.names(
        "datasets"
    ):
        return distinct_contexts([])
    dataset = open_dataset(store, name)
    parts = dataset.of_split(TRAIN) if TRAIN in dataset.splits() else []
    return distinct_contexts(read_table(one, "pairs", ["context"])["context"] for one in parts)


@holds(data="name")
def train_method(
    store: StoreFolder,
    name: str,
    method_name: str,
    options: MethodOptions,
    *,
    seed: int = 0,
    features: str | None = None,
    router_input: WantedRouterInput = "auto",
    reward_input: RewardInput = "plain",
) -> TrainedMethod:
    """Fit a method by its own recipe on a data set's train split, and save it as a run.

    Raises BadInput where the data set lacks what the method needs.
    """
    method = methods()[method_name]
    data = open_method_data(
        store, name, method.needs, features=features, router_input=router_input, reward_input=reward_input
    )
    settings = {option: getattr(options, option) for option in sorted(method.options)}
    settings |= {"seed": seed, "router_input": data.reading.router_input, "reward_input": reward_input}
    asked = {"parent": None, "settings": settings, **data.record()}
    run_id = f"{method_name}-{short_id(asked, 8)}"
    model = method.fit(data.training, options, [seed])[0]
    scores = model.scores(data.training.validation)
    outcome = {
        "method": method_name,
        "k": settings.get("k", scores.margins.shape[1]),
        "lam": settings.get("lam"),
        "seed": seed,
        "combine": scores.combine,
        "warnings": data.warnings(method_name),
        **figures_of(scores.log_odds(), scores.log_weights, data.training.validation.clusters),
    }
    run = save_run(store, run_id, asked | outcome | provenance(), model.state())
    return TrainedMethod(run.id, run.record, data.source.dataset.splits())
