"""Weights over a run's frozen heads for each person, from a few of that person's choices, and how much they help.

G groups (people, attributes, contexts), n shots, N scored pairs, K heads, C numbers of shots.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch

from micropref.cache.choices import TEST
from micropref.cache.commits import commit, write_table
from micropref.cache.errors import BadInput
from micropref.cache.maintenance.uses import holds
from micropref.cache.runs.records import Run
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.groups import sides_of
from micropref.heads.adaptation.few_shot import GRIDS, adapt_groups
from micropref.heads.choices import AdaptMethod
from micropref.heads.evaluation.intervals import RULE, Intervals, Scale, Sides, limits, mean_intervals
from micropref.heads.evaluation.metrics import correct
from micropref.heads.evaluation.scale import scaled_log_probability
from micropref.heads.methods.base import Scores
from micropref.pipeline.options import GroupedBy, ShotsFrom
from micropref.pipeline.people.episodes import read_episode
from micropref.pipeline.people.frozen_run import Frozen, ScoredPairs, open_frozen
from micropref.pipeline.people.person_files import check_new, write_people
from micropref.pipeline.people.shot_sampling import ShotSample, sample_shots
from micropref.pipeline.people.strength import choose_scales, choose_strength


@dataclass(frozen=True)
class AdaptOptions:
    """Options of `adapt`."""

    by: GroupedBy
    """What a group is: the pairs of one user, attribute or context."""
    shots: tuple[int, ...] = (16,)
    """Numbers of shots; a single one also stands for 0 and the powers of two below it."""
    method: AdaptMethod = "hedge"
    tau: float | None = None
    """Temperature of `hedge`, 1 by default: Bayes' rule."""
    shots_from: ShotsFrom = TEST
    """Split the shots are sampled from; pairs of the test split are scored either way."""
    seed: int = 0
    """Of the sampling of shots."""

    def __post_init__(self) -> None:
        if not self.shots or min(self.shots) < 0 or max(self.shots) < 1:
            listed = ",".join(map(str, self.shots))
            raise BadInput(f"shots is {listed!r}: expected a number such as 16, or numbers such as 1,2,4,8,16")
        if self.seed < 0:
            raise BadInput(f"seed is {self.seed}: expected at least 0")
        if self.tau is not None and self.method != "hedge":
            raise BadInput(f"tau is {self.tau}: method {self.method} has no temperature, only hedge has")
        if self.tau is not None and not 0 < self.tau < math.inf:
            raise BadInput(f"tau is {self.tau}: expected a number above 0")

    @property
    def counts(self) -> tuple[int, ...]:
        """Return the numbers of shots, 0 first: every curve begins at the cold start."""
        asked = list(self.shots)
        if len(asked) == 1:
            asked += [2**power for power in range(asked[0].bit_length()) if 2**power < asked[0]]
        return tuple(sorted({0, *asked}))


@dataclass(frozen=True)
class Adaptation:
    """The result of `adapt`."""

    run: str
    """Id of the saved run, which has the weights learned from the most shots."""
    parent: str
    """The run whose heads they weigh."""
    data: str
    split: str
    by: GroupedBy
    method: AdaptMethod
    shots_from: ShotsFrom
    scales: list[float]
    """What log-odds are multiplied by for NLL and calibration, for each number of shots, chosen on validation pairs."""
    strength: float
    """τ of hedge, β of tempered, s² of shrunk (both chosen on validation pairs); 1 for the others."""
    groups: int
    """Groups with enough pairs."""
    left_out: int
    """Groups with fewer pairs than shots, or none left to score."""
    pairs: int
    """Pairs scored, the same for every number of shots and every method."""
    without_context: int
    """Of these, pairs without a context, where the router reads contexts."""
    resampled: str
    """What intervals are over: users where named, and prompts."""
    clusters: dict[str, int]
    """How many there are of each."""
    adaptation: pl.DataFrame
    """One row for each number of shots, as the view of its name has it."""
    people: str | None
    """Folder with a file for each group, where asked for."""


@holds(run="run_id", data="data")
def adapt(
    store: StoreFolder, run_id: str, data: str | None, options: AdaptOptions, people: Path | None = None
) -> Adaptation:
    """Learn and save a weight vector for every group of a data set, by default the run's own; as files in `people` too.

    No pair is scored whose prompt is among its group's shots. Shots of a smaller number are the first of a larger
    one, and what remains after the largest number is scored for all. Raises BadInput where no group has enough, or
    `people` is there already.
    """
    counts = options.counts
    if people is not None:
        check_new(people)
    frozen = open_frozen(store, run_id, data)
    table, sample = _sample(frozen, options, counts[-1])
    episode = read_episode(frozen, options.by, table, sample, responses=options.method == "drm")
    strength = options.tau or 1.0
    if options.method in GRIDS:
        strength = choose_strength(frozen, options.by, options.method, counts[1:], options.seed)
    adapted = [adapt_groups(options.method, episode.shots.first(count), strength) for count in counts[1:]]
    by_count = [episode.scored.scores, *(episode.rescored(one) for one in adapted)]
    sides = sides_of(episode.scored.table)
    scales = choose_scales(frozen, options.by, options.method, strength, counts[1:], options.seed)
    learned = {"strength": strength, "routed": adapted[-1].routed, "combine": by_count[-1].combine}
    settings = asdict(options) | {"shots": ",".join(map(str, options.shots))} | learned
    run = frozen.save(
        store, options.method, settings, options.shots_from, episode.names, adapted[-1].state(), scales[-1]
    )
    place = {
        "run": run.id,
        "parent": frozen.run.id,
        "data": frozen.dataset.name,
        "split": TEST,
        "grouped_by": options.by,
        "method": options.method,
        "groups": len(episode.names),
        "n": episode.scored.table.height,
    }
    curve, found = _curve(counts, by_count, scales, sides)
    curve = curve.with_columns(pl.lit(value).alias(name) for name, value in place.items())
    _keep(run, episode.scored, by_count[-1], curve)
    if people is not None:
        write_people(people, run, table[sample.row])
    return Adaptation(
        run=run.id,
        parent=frozen.run.id,
        data=frozen.dataset.name,
        split=TEST,
        by=options.by,
        method=options.method,
        shots_from=options.shots_from,
        scales=scales,
        strength=strength,
        groups=len(episode.names),
        left_out=len(sample.left_out),
        pairs=episode.scored.table.height,
        without_context=episode.scored.without_context,
        resampled=" × ".join(found.clusters),
        clusters=found.clusters,
        adaptation=curve,
        people=None if people is None else str(people),
    )


def _sample(frozen: Frozen, options: AdaptOptions, most: int) -> tuple[pl.DataFrame, ShotSample]:
    """Return a table of pairs and which of them are shots, and which are scored. Raises BadInput where none is."""
    table, pool = frozen.shot_pool(options.shots_from, options.by)
    sample = sample_shots(table, options.by, most, options.seed, shared=False, pool=pool)
    if not sample.group:
        asked = ",".join(map(str, options.shots))
        raise BadInput(
            f"shots is {asked}: none of the {len(sample.left_out)} groups by {options.by} of data set "
            f"{frozen.dataset.name!r} has {most} pairs in split {options.shots_from!r} and one of another prompt in "
            f"{TEST!r} (the most pairs: {max(sample.left_out.values())}); ask for fewer, or give "
            "another `shots_from`"
        )
    return table, sample


def _curve(
    counts: tuple[int, ...], by_count: list[Scores], scales: list[float], sides: Sides
) -> tuple[pl.DataFrame, Intervals]:
    """Return the curve with its 95 % intervals, and those of the accuracies.

    It has accuracy, NLL, calibration and the gain over no shots for every number of shots. A gain is a paired
    difference. Overconfidence is the probability given to the likelier response, on average, less the accuracy. NLL
    and calibration are of scaled log-odds.
    """
    right = correct(torch.stack([scores.log_probability() for scores in by_count], 1))
    scaled = (scaled_log_probability(one.log_odds(), scale) for one, scale in zip(by_count, scales, strict=True))
    log_probability = torch.stack(list(scaled), 1)
    probability = log_probability.exp()
    surer = torch.maximum(probability, 1 - probability)
    figures: dict[str, tuple[torch.Tensor, Scale]] = {
        "accuracy": (right, "share"),
        "nll": (-log_probability, "free"),
        "overconfidence": (surer - right, "difference"),
        "gain": (right - right[:, :1], "difference"),
    }
    found = {name: mean_intervals(values, sides, scale) for name, (values, scale) in figures.items()}
    columns: dict[str, Any] = {"shots": list(counts)}
    for name, one in found.items():
        prefix = "" if name == "accuracy" else f"{name}_"
        columns |= {name: one.mean.tolist(), f"{prefix}low": limits(one.low), f"{prefix}high": limits(one.high)}
    # No shots are what gains are over: of their own gain nothing is in doubt.
    columns["gain_low"][0] = columns["gain_high"][0] = 0.0
    ends = {name: pl.Float64 for name in columns if name.endswith(("low", "high"))}
    return pl.DataFrame(columns, schema_overrides={"shots": pl.Int64, **ends}), found["accuracy"]


def _keep(run: Run, scored: ScoredPairs, scores: Scores, curve: pl.DataFrame) -> None:
    """Keep the scores of the largest number of shots and the curve, where the views find them."""
    table = scored.table
    folder = run.eval_folder(curve["data"][0])
    heads = range(scores.margins.shape[1])
    columns = {
        "run": pl.repeat(run.id, table.height, eager=True),
        "data": pl.repeat(curve["data"][0], table.height, eager=True),
        **{name: table[name] for name in ("split", "part", "pair_id", "attribute")},
        **{f"margin_{k}": scores.margins[:, k].float().numpy() for k in heads},
        **{f"weight_{k}": scores.log_weights[:, k].exp().float().numpy() for k in heads},
    }
    tables = {"scores": pl.DataFrame(columns), "adaptation": curve}
    files = {role: write_table(folder, f"adapt-{TEST}", role, part.to_arrow()) for role, part in tables.items()}
    commit(folder, f"adapt-{TEST}", files, {"split": TEST, "intervals": RULE})
