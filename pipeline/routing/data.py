"""What a run is routed by: a budget of pairs with contexts, and the pairs that are scored with and without it.

M pairs of the largest budget, N scored pairs, K heads, D embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import polars as pl
import torch

from micropref.cache.choices import TEST, TRAIN, OldJoint, RewardInput, RouterInput
from micropref.cache.datasets import Dataset
from micropref.cache.errors import BadInput
from micropref.cache.runs.data import open_run_data
from micropref.cache.runs.names import find_run, holds_heads
from micropref.cache.runs.records import ROUTER_READING, Run
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.features import Features
from micropref.cache.vectors.groups import clusters_of, prompt_clusters
from micropref.cache.vectors.pair_features import TABLE_COLUMNS, PairFeatures
from micropref.cache.vectors.router_inputs import contexts_to_read
from micropref.heads.adaptation.hedge import head_losses
from micropref.heads.adaptation.routing_budget import Budget
from micropref.heads.methods.bradley_terry import MixtureModel
from micropref.heads.mixture import Mixture
from micropref.pipeline.evaluation.scoring import unspent
from micropref.pipeline.options import RoutedBy
from micropref.pipeline.people.shot_sampling import sample_shots
from micropref.pipeline.training.method_data import Reading
from micropref.pipeline.training.method_runs import FittedRun, open_fitted


@dataclass(frozen=True)
class RouteData:
    """A run's frozen heads on a budget and on scored pairs, none of which has a prompt of the budget."""

    fitted: FittedRun
    """The run that is routed."""
    mixture: Mixture
    """Its heads and weights."""
    dataset: Dataset
    reward_input: RewardInput
    """Behind which prompt the responses were embedded."""
    split: str
    """Split the budget is sampled from."""
    by: RoutedBy
    """What has a budget of its own: every attribute, or every context where no pair has an attribute."""
    sample: pl.DataFrame
    """One row a pair of the budget [M]: TABLE_COLUMNS and its `rank` in its group, from 0."""
    budget: Budget
    """The same pairs as the router learns from them."""
    reads: RouterInput | OldJoint
    """What the re-fitted router reads."""
    scored: PairFeatures
    """The scored pairs, as it reads them."""
    stage1: torch.Tensor
    """log P(chosen ≻ rejected) [N] of the run as it is."""

    def first(self, size: int) -> Budget:
        """Return the first `size` pairs of every group: smaller budgets are parts of larger ones."""
        return self.budget.take(self.sample["rank"].to_torch() < size)

    def record(self) -> dict[str, Any]:
        """Return what run.json says of the data."""
        return {
            "data": self.dataset.name,
            "data_split": self.split,
            "data_digest": self.dataset.digest(self.split),
            "features": self.fitted.features.id,
            "train_pairs": self.sample.height,
            **({} if self.reads == "context+prompt or prompt" else {"router_reading": ROUTER_READING}),
        }


def open_route_data(
    store: StoreFolder, run_id: str, data: str | None, size: int, seed: int, reward_input: RewardInput | None
) -> RouteData:
    """Sample `size` pairs of every group with contexts, and load them and what is scored.

    The budget comes from the pairs of the train split that are there to fit, and from the test split where that is
    all there is. Raises BadInput where the run cannot be routed, or the data set has too few pairs with contexts.
    """
    fitted, mixture = _routable(store, run_id)
    dataset = open_run_data(store, fitted.run, data)
    _check_features(fitted, dataset)
    dataset.of_split(TEST)
    split = TRAIN if TRAIN in dataset.splits() else TEST
    responses = reward_input or fitted.reading.reward_input
    by, sample = _sample(fitted, dataset, split, size, seed)
    fresh = unspent(fitted.run) & ~pl.col("prompt_id").is_in(sample["prompt_id"].unique().implode())
    reads = replace(fitted.reading, reward_input=responses)
    routed = read_by_router(reads, dataset, fitted.features, split)
    scored = replace(reads, router_input=routed).locate(dataset, fitted.features, TEST, fresh).load()
    if not len(scored):
        raise BadInput(f"data set {dataset.name!r}: every {TEST} prompt is in the budget, so no pair is left to score")
    before = fitted.reading.locate(dataset, fitted.features, TEST, fresh).load()
    return RouteData(
        fitted=fitted,
        mixture=mixture,
        dataset=dataset,
        reward_input=responses,
        split=split,
        by=by,
        sample=sample,
        budget=read_budget(mixture, reads, fitted.features, dataset, sample, by, routed),
        reads=routed,
        scored=scored,
        stage1=mixture.log_probability(before.delta, before.router),
    )


def _has_router(run: Run) -> bool:
    return holds_heads(run) and run.record["k"] > 1 and run.record["method"] in ("mixture", "static", "ensemble")


def _routable(store: StoreFolder, run_id: str) -> tuple[FittedRun, Mixture]:
    run = find_run(store, run_id, _has_router)
    fitted = open_fitted(store, run)
    model = fitted.model
    if not isinstance(model, MixtureModel) or model.combine != "probability":
        raise BadInput(
            f"run {run.id} is of method {run.record['method']}, which has no mixture of reward heads to route; "
            "route a run of method mixture, static or ensemble"
        )
    if model.mixture.k == 1:
        raise BadInput(f"run {run.id} has one head, so there is nothing to route; route a run with `k` 2 or more")
    return fitted, model.mixture


def _check_features(fitted: FittedRun, dataset: Dataset) -> None:
    there = dataset.linked_features()
    if fitted.features.id not in there:
        raise BadInput(
            f"run {fitted.run.id} reads features {fitted.features.id}, data set {dataset.name!r} is embedded with "
            f"{', '.join(there) or 'none'}: embed it with the run's backbone and settings"
        )


def _sample(fitted: FittedRun, dataset: Dataset, split: str, size: int, seed: int) -> tuple[RoutedBy, pl.DataFrame]:
    """Return what has a budget of its own, and the pairs of the largest one."""
    where = f"data set {dataset.name!r}, split {split!r}"
    pairs = dataset.linked_pairs(fitted.features.id, split, [*TABLE_COLUMNS, "prompt_key", "context_key"])
    pool = pairs.filter(pl.col("part") != "validation")
    by: RoutedBy = "attribute" if pool["attribute"].null_count() < pool.height else "context"
    with_context = pool.filter(pl.col("context_key").is_not_null()).select(TABLE_COLUMNS)
    bare = sorted(set(pool[by].drop_nulls()) - set(with_context[by].drop_nulls()))
    if bare or with_context.is_empty():
        named = f"no pair of {', '.join(bare)}" if bare else "no pair"
        raise BadInput(f"{where}: {named} has a context to route by; embed with `contexts`")
    chosen = sample_shots(with_context, by, size, seed, shared=True)
    if chosen.left_out:
        named = ", ".join(f"{name} {count}" for name, count in sorted(chosen.left_out.items()))
        raise BadInput(
            f"budget is {size}: {where} has too few pairs with contexts to sample from and one of another "
            f"prompt ({named}); give a smaller one"
        )
    return by, with_context[chosen.row].with_columns(rank=pl.Series(chosen.rank))


def read_by_router(reading: Reading, dataset: Dataset, features: Features, split: str) -> RouterInput | OldJoint:
    """Return what a re-fitted router reads: what the run's own does, where that reads contexts."""
    return reading.router_input if reading.contexts else contexts_to_read(dataset, features, split)


def read_budget(
    mixture: Mixture,
    reads: Reading,
    features: Features,
    dataset: Dataset,
    sample: pl.DataFrame,
    by: RoutedBy,
    routed: RouterInput | OldJoint,
) -> Budget:
    """Return the sampled pairs, all of one split, in their order, as a router learns from them that reads `routed`.

    `reads` says what the mixture's own router, if any, reads of them, and behind which prompt responses were embedded.
    """
    split, only = sample["split"][0], pl.col("pair_id").is_in(sample["pair_id"].implode())
    wanted: set[RouterInput | OldJoint] = {routed, "prompt", reads.router_input}
    found = {
        one: replace(reads, router_input=one, router_features=None if one == "prompt" else reads.router_features)
        .locate(dataset, features, split, only)
        .load()
        for one in wanted
    }
    place = {pair_id: row for row, pair_id in enumerate(found[routed].table["pair_id"])}
    rows = torch.tensor([place[pair_id] for pair_id in sample["pair_id"]])
    return Budget(
        losses=head_losses(mixture.margins(found[routed].delta[rows])),
        router=found[routed].router[rows],
        alone=_of_prompts(found["prompt"].router[rows], routed, found[routed].router.shape[1]),
        stage1=mixture.log_weights(found[reads.router_input].router[rows], len(rows)),
        group=clusters_of(sample[by]),
        prompt=prompt_clusters(sample),
        wording=clusters_of(sample["context"]),
    )


def _of_prompts(prompts: torch.Tensor, routed: RouterInput | OldJoint, width: int) -> torch.Tensor:
    """Return how a router's inputs [N, D'] vary with their prompts [N, D] alone, 0 where they do not."""
    if routed in ("context", "difference"):
        return prompts.new_zeros(len(prompts), width)
    return torch.nn.functional.pad(prompts, (width - prompts.shape[1], 0))
