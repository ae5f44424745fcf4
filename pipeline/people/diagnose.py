"""Is personalisation worth it on this data? What knowing the user, attribute or context adds on held-out prompts.

N scored pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import polars as pl
import torch

from micropref.cache.choices import TEST, RewardInput
from micropref.cache.datasets import open_dataset
from micropref.cache.errors import BadInput
from micropref.cache.maintenance.uses import holds
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.groups import sides_of
from micropref.cache.vectors.pair_features import PairFeatures, load_pairs
from micropref.heads.adaptation.diagnosis import DiagnosisPlan, Predictions, predict_units
from micropref.heads.evaluation.intervals import limits, mean_intervals
from micropref.heads.evaluation.metrics import nll
from micropref.heads.fitting.settings import PairTensors
from micropref.pipeline.options import GroupedBy
from micropref.pipeline.training.data import open_fit_data
from micropref.pipeline.training.identifiability import contexts_differ

Kind = Literal["user", "attribute", "context", "user and context"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Answer = Literal["yes", "not yet", "no"]
ENOUGH = 4
"""Pairs to fit of the median unit below which groups cannot be identified, so that a gain of 0 is inconclusive."""
AIM = 8
"""Pairs of a unit that are usually enough."""
PATIENCE = 4.0
"""Times the pairs there are: where more would be needed to tell a gain from none, the answer is no."""
LEAST = 0.005
"""Nats per pair that knowing the unit has to be worth: below that, personalisation changes next to no prediction."""
COUNTS = (1, 2, 4, 8, 16, 32)
"""Numbers of pairs of a unit that the gain is reported for."""


@dataclass(frozen=True)
class Gain:
    """Nats per pair that a prediction is better by, with its 95 % interval."""

    mean: float
    low: float | None
    """None: not known, as all pairs share a prompt or a user."""
    high: float | None


@dataclass(frozen=True)
class UnitDiagnosis:
    """What knowing units of one kind is worth, in nats per pair."""

    kind: Kind
    """user and context: a user in one context, where users choose in several."""
    units: int
    """Units with pairs to fit."""
    pairs_per_unit: float
    """Pairs to fit of the median unit."""
    scored: int
    """Held-out pairs of these units, none with a prompt of the train split."""
    unknown: int
    """Held-out pairs of units without pairs to fit, not scored."""
    resampled: str
    """What intervals are over: users where named, and prompts."""
    clusters: dict[str, int]
    """How many there are of each."""
    single_nll: float
    """One reward for everybody."""
    nobody_nll: float
    """Heads of groups, the unit unknown."""
    unit_nll: float
    """Heads of groups, the unit known by its pairs to fit."""
    stranger_nll: float
    """Heads of groups, with the pairs of another unit."""
    over_single: Gain
    """Of the unit known over the single reward."""
    over_nobody: Gain
    """Of the unit known over unknown."""
    over_stranger: Gain
    """Of the unit known over another unit in its place: 0 in the mean where units do not matter."""
    worth: float
    """The least of the three gains: what knowing the unit is worth by every comparison."""
    by_count: dict[int, float]
    """Pairs of each unit to learn from → gain over the better of the two predictions without the unit."""
    beta: float
    """Weight of a pair of the unit, chosen on validation pairs; 0: nothing."""
    worth_it: Answer
    more_pairs: int | None
    """More pairs of each unit that would settle it, if the gain stays the same; 0: settled, None: no gain seen."""


@dataclass(frozen=True)
class Diagnosis:
    """The result of `diagnose`."""

    data: str
    features: str
    k: int
    units: list[UnitDiagnosis]
    """One for each kind that the data names and that can be scored."""
    left_out: dict[str, str]
    """Kinds that the data names and that cannot be scored, and why."""


@holds(data="name")
def diagnose(
    store: StoreFolder,
    name: str,
    plan: DiagnosisPlan,
    *,
    features: str | None = None,
    reward_input: RewardInput = "plain",
) -> Diagnosis:
    """Say what knowing who chose adds to held-out predictions, for every kind of unit that a data set names.

    Heads and units' weights are learned on pairs to fit, chosen on validation prompts, and scored on test prompts.
    Raises BadInput where the data set names no units, or has no test pairs of prompts of their own.
    """
    data = open_fit_data(store, name, routed=False, features=features, reward_input=reward_input)
    tested = load_pairs(
        open_dataset(store, name), data.features, TEST, router_input="prompt", reward_input=reward_input
    )
    seen = pl.concat([data.fitting.table["prompt_id"], data.validation.table["prompt_id"]]).unique()
    tested = tested.take(~tested.table["prompt_id"].is_in(seen.implode()))
    most = max(data.fitting.table[kind].drop_nulls().n_unique() for kind in ("user", "attribute", "context"))
    plan = replace(plan, k=max(2, min(plan.k, most)))  # more groups than units are of no use
    kinds = {kind: diagnose_kind(data.fitting, data.validation, tested, kind, plan) for kind in KINDS}
    found = [one for one in kinds.values() if one is not None]
    if not found:
        raise BadInput(
            f"data set {name!r}: neither users, attributes nor contexts have pairs to fit, validation pairs and "
            f"{TEST} pairs of new prompts, two of a kind or more, so units cannot be told apart; embed rows "
            "in which one of these fields differs"
        )
    tables = (data.fitting.table, data.validation.table, tested.table)
    reasons = {kind: _reason(tables, kind) for kind in ("user", "attribute", "context") if kinds[kind] is None}
    left_out = {kind: reason for kind, reason in reasons.items() if reason is not None}
    return Diagnosis(name, data.features.id, plan.k, found, left_out)


def _reason(tables: tuple[pl.DataFrame, ...], kind: GroupedBy) -> str | None:
    """Return why units of a kind were not scored, given pairs to fit, to validate and of test; None: none are named."""
    named = [set(table[kind].drop_nulls()) for table in tables]
    if not any(named):
        return None
    known = named[0]
    if len(known) < 2:
        return f"{len(known):,} of them {'has' if len(known) == 1 else 'have'} pairs to fit, which takes two or more"
    where = "validation pairs" if not known & named[1] else f"{TEST} pairs of new prompts"
    return f"none of the {len(known):,} with pairs to fit has {where} too"


def diagnose_kind(
    fitting: PairFeatures, validation: PairFeatures, tested: PairFeatures, kind: Kind, plan: DiagnosisPlan
) -> UnitDiagnosis | None:
    """Return what units of a kind are worth; None where the data has fewer than two or nothing to score."""
    unit_of = _units(fitting.table, kind)
    if unit_of is None:
        return None
    names = fitting.table.select(unit_of).to_series().drop_nulls().unique().sort()
    total = tested.table.select(unit_of.count()).item()
    fitting, validation, scored = (_known(pairs, unit_of, names) for pairs in (fitting, validation, tested))
    if len(names) < 2 or not len(validation) or not len(scored):
        return None
    sizes = fitting.table.select(unit_of).to_series().value_counts()["count"]
    counts = tuple(count for count in COUNTS if count < int(sizes.max()))  # type: ignore[arg-type]
    tensors = [_tensors(pairs, unit_of, names) for pairs in (fitting, validation, scored)]
    found = predict_units(tensors[0], tensors[1], tensors[2], counts, plan)
    gains = mean_intervals(found.gains, sides_of(scored.table))
    edges = zip(gains.mean.tolist(), limits(gains.low), limits(gains.high), strict=True)
    over_single, over_nobody, over_stranger = (Gain(*three) for three in edges)
    unknown = max(float(found.single.mean()), float(found.nobody.mean()))
    answer, more = _settle(found, gains.low, sizes)
    return UnitDiagnosis(
        kind=kind,
        units=len(names),
        pairs_per_unit=float(sizes.median()),  # type: ignore[arg-type]
        scored=len(scored),
        unknown=total - len(scored),
        resampled=" × ".join(gains.clusters),
        clusters=gains.clusters,
        single_nll=nll(found.single),
        nobody_nll=nll(found.nobody),
        unit_nll=nll(found.unit),
        stranger_nll=nll(found.other_unit),
        over_single=over_single,
        over_nobody=over_nobody,
        over_stranger=over_stranger,
        worth=min(over_single.mean, over_nobody.mean, over_stranger.mean),
        by_count={count: float(known.mean()) - unknown for count, known in found.by_count.items()},
        beta=found.beta,
        worth_it=answer,
        more_pairs=more,
    )


def _settle(found: Predictions, low: torch.Tensor, sizes: pl.Series) -> tuple[Answer, int | None]:
    """Return whether it is worth it, and how many more pairs of each unit would settle it.

    An interval shrinks with the square root of the pairs. It is worth it where all gains are LEAST or more, and above 0
    beyond doubt.
    """
    pairs = float(sizes.median())  # type: ignore[arg-type]
    gains = found.gains.mean(0)
    if nll(found.single) < LEAST:  # there is nothing left to gain
        return "no", None
    worthwhile = bool((gains > LEAST).all())
    if worthwhile and bool((low > 0).all()):
        return "yes", 0
    if worthwhile:
        times = float(((gains - low) / gains).max()) ** 2
        if times <= PATIENCE:
            return "not yet", max(1, math.ceil(pairs * (times - 1)))
    return ("not yet", math.ceil(AIM - pairs)) if pairs < ENOUGH else ("no", None)


def _units(table: pl.DataFrame, kind: Kind) -> pl.Expr | None:
    """Return the name of each pair's unit, null where it has none; None for a kind that adds none to another one."""
    if kind != "user and context":
        return pl.col(kind)
    if not contexts_differ(table.drop_nulls("context")):
        return None
    named = pl.all_horizontal(pl.col("user", "context").is_not_null())
    return pl.when(named).then(pl.struct("user", "context").struct.json_encode())


def _known(pairs: PairFeatures, unit_of: pl.Expr, names: pl.Series) -> PairFeatures:
    return pairs.take(pairs.table.select(unit_of.is_in(names.implode()).fill_null(value=False)).to_series())


def _tensors(pairs: PairFeatures, unit_of: pl.Expr, names: pl.Series) -> PairTensors:
    codes = unit_of.replace_strict(names.to_list(), range(len(names)), return_dtype=pl.Int64)
    return PairTensors(pairs.delta, None, pairs.table.select(codes).to_series().to_torch())
