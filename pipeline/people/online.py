"""Each group's choices replayed one after another: predicted, then learned from; regret next to its bound.

G groups (people, attributes, contexts), T rounds of one of them, N pairs, K heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import polars as pl
import torch

from micropref.cache.choices import TEST
from micropref.cache.commits import commit, write_table
from micropref.cache.errors import BadInput
from micropref.cache.maintenance.uses import holds
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.groups import sides_of
from micropref.heads.adaptation.online import Forecaster, Replay, replay, unlearned
from micropref.heads.evaluation.intervals import RULE, Intervals, Sides, mean_intervals
from micropref.heads.evaluation.metrics import correct
from micropref.pipeline.options import GroupedBy
from micropref.pipeline.people.frozen_run import open_frozen

ROUTER = "router"
"""The run's own weights, which learn nothing: what a forecaster has to beat."""
KEPT: Forecaster = "log-loss"
"""The forecaster whose last weights are saved: Bayes' rule."""


@dataclass(frozen=True)
class Online:
    """The result of `adapt --online`."""

    run: str
    """Id of the saved run, which has every group's weights after its last round."""
    parent: str
    """The run whose heads they weigh."""
    data: str
    split: str
    by: GroupedBy
    groups: int
    pairs: int
    """Rounds of all groups together."""
    without_context: int
    """Pairs without a context, where the router reads contexts."""
    resampled: str
    """What intervals are over: users where named, and prompts."""
    clusters: dict[str, int]
    """How many there are of each."""
    switches: int
    """Changes of a group's taste that fixed-share is made for."""
    forecasters: pl.DataFrame
    """One row for each forecaster: accuracy over all rounds with its 95 % interval, and over those whose prompt the
    group had not met; NLL; sums of losses, regrets and bounds."""
    regret: pl.DataFrame
    """One row for each group and forecaster, as the view of its name has it."""


@holds(run="run_id", data="data")
def adapt_online(store: StoreFolder, run_id: str, data: str | None, by: GroupedBy, switches: int = 1) -> Online:
    """Replay every group's test pairs in the order of their source; save what was learned at the end.

    `switches` is how many changes of a group's taste the fixed-share forecaster is made for. Every forecaster starts
    from uniform weights, which its bound presumes. Nothing is learned from a pair before it is predicted, so all pairs
    are scored. Raises BadInput where no pair names a group.
    """
    if switches < 1:
        raise BadInput(f"switches is {switches}: expected at least 1")
    frozen = open_frozen(store, run_id, data)
    table = frozen.pairs_of(TEST, by).drop_nulls(by)
    scored = frozen.score(TEST, table["pair_id"])
    names = table[by].unique().sort().to_list()
    group = table[by].replace_strict(names, range(len(names)), return_dtype=pl.Int64).to_torch()
    margins, own = scored.scores.margins, scored.scores.log_weights
    rounds = [(group == number).nonzero()[:, 0] for number in range(len(names))]
    replays = {name: [replay(margins[rows], name, switches) for rows in rounds] for name in get_args(Forecaster)}
    replays = {ROUTER: [unlearned(margins[rows], own[rows]) for rows in rounds], **replays}
    weights = torch.stack([one.final for one in replays[KEPT]]).exp().float()
    settings = {"by": by, "forecaster": KEPT, "routed": False, "combine": "probability", "switches": switches}
    run = frozen.save(store, "online", settings, TEST, names, {"weights": weights})
    place = {"run": run.id, "data": frozen.dataset.name, "grouped_by": by}
    rows = [
        {**place, "group_name": name, "forecaster": forecaster, **_figures(one)}
        for forecaster, many in replays.items()
        for name, one in zip(names, many, strict=True)
    ]
    regret = pl.DataFrame(rows, schema_overrides={"best_head": pl.Int32, "bound": pl.Float64})
    folder = run.eval_folder(frozen.dataset.name)
    by_round = regret_by_round(replays).with_columns(pl.lit(value).alias(name) for name, value in place.items())
    tables = {"regret": regret, "regret_by_round": by_round}
    files = {role: write_table(folder, f"online-{TEST}", role, one.to_arrow()) for role, one in tables.items()}
    commit(folder, f"online-{TEST}", files, {"split": TEST, "intervals": RULE})
    order = torch.cat(rounds)
    sides = {name: ids[order] for name, ids in sides_of(scored.table).items()}
    met_first = scored.table.select(pl.struct(by, "prompt_id").is_first_distinct()).to_series().to_torch()[order]
    forecasters, found = _summary(replays, regret, sides, met_first)
    return Online(
        run=run.id,
        parent=frozen.run.id,
        data=frozen.dataset.name,
        split=TEST,
        by=by,
        groups=len(names),
        pairs=table.height,
        without_context=scored.without_context,
        resampled=" × ".join(found.clusters),
        clusters=found.clusters,
        switches=switches,
        forecasters=forecasters,
        regret=regret,
    )


def regret_by_round(replays: Mapping[str, Sequence[Replay]]) -> pl.DataFrame:
    """Return each forecaster's mean regret and bound after every round, over the groups that had so many.

    forecaster, round (from 1), groups, regret, its standard error over groups regret_se (null for one), bound.
    """
    rows = [
        pl.DataFrame(
            {
                "forecaster": forecaster,
                "round": range(1, len(one.losses) + 1),
                "regret": one.regrets.tolist(),
                "bound": None if one.bounds is None else one.bounds.tolist(),
            },
            {"forecaster": pl.String, "round": pl.Int64, "regret": pl.Float64, "bound": pl.Float64},
        )
        for forecaster, many in replays.items()
        for one in many
    ]
    error = pl.col("regret").std() / pl.len().sqrt()
    figures = pl.len().cast(pl.Int64).alias("groups"), pl.col("regret").mean(), error.alias("regret_se")
    return (
        pl.concat(rows)
        .group_by("forecaster", "round", maintain_order=True)
        .agg(*figures, pl.col("bound").mean())
        .sort("forecaster", "round")
    )


def _figures(one: Replay) -> dict[str, Any]:
    """Return what the view `regret` says of one group under one forecaster."""
    return {
        "rounds": len(one.losses),
        "accuracy": float(correct(one.log_probability).mean()),
        "nll": -float(one.log_probability.mean()),
        "loss": float(one.losses.sum()),
        "best_head": one.best_head,
        "best_head_loss": one.best_loss,
        "regret": one.regret,
        "switches": one.switches,
        "bound": one.bound,
    }


def _summary(
    replays: dict[str, list[Replay]], regret: pl.DataFrame, sides: Sides, met_first: torch.Tensor
) -> tuple[pl.DataFrame, Intervals]:
    """Return a row for each forecaster over all groups, and the intervals in it.

    `sides` [N] are those of the rounds, group after group. `met_first` [N] are rounds whose prompt is new to their
    group: elsewhere a choice may have been given away by an earlier one between the same responses.
    """
    right = torch.stack([torch.cat([correct(one.log_probability) for one in many]) for many in replays.values()], 1)
    found = mean_intervals(right, sides, "share")
    accuracy = {"accuracy": found.mean.tolist(), "low": found.low.tolist(), "high": found.high.tolist()}
    accuracy["new_prompt_accuracy"] = right[met_first].mean(0).tolist()
    sums = regret.group_by("forecaster", maintain_order=True).agg(
        nll=(pl.col("nll") * pl.col("rounds")).sum() / pl.col("rounds").sum(),
        loss=pl.col("loss").sum(),
        best_head_loss=pl.col("best_head_loss").sum(),
        regret=pl.col("regret").sum(),
        bound=pl.when(pl.col("bound").is_not_null().all()).then(pl.col("bound").sum()),
    )
    return sums.select("forecaster").hstack(pl.DataFrame(accuracy)).hstack(sums.drop("forecaster")), found
