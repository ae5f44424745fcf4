"""Curves for figures, from the tables that commands keep: by K and λ, by epoch, budget, shots and rounds.

Every function takes rows as the view of that name has them and returns a table whose rows are points, in order. Where
several seeds were run, a point is their mean: `seeds` is how many, and its 95 % interval is over pairs and seeds, see
`over_seeds`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl
from scipy import special

from micropref.heads.evaluation.intervals import LEVEL
from micropref.heads.evaluation.selection import Candidate, smallest_within_one_error

BOUNDS = {"accuracy": (0.0, 1.0), "gain": (-1.0, 1.0), "overconfidence": (-1.0, 1.0)}
"""Columns whose intervals end somewhere."""
FIGURES = ("train_nll", "validation_nll", "validation_accuracy", "test_accuracy")
"""What is known of an epoch, null where it is not."""


@dataclass(frozen=True)
class KCurve:
    """What a sweep chose K by."""

    points: pl.DataFrame
    """One row for each K, its best λ: the columns of `lam_curve`, where `chosen` is the K taken."""
    chosen: int | None
    """The smallest K within one standard error of the best; None where the error is not known."""
    limit: float | None
    """The largest NLL within one standard error of the best; None where that is not known."""
    known: bool
    """Whether NLLs are of people or contexts known by their training pairs (`validation_nll_known`)."""

    @property
    def lams(self) -> dict[int, float]:
        """Return the λ of each K's point."""
        return dict(self.points.select("k", "lam").iter_rows())


@dataclass(frozen=True)
class BudgetCurve:
    """What `route` gained from budgets."""

    overall: pl.DataFrame
    """One row a budget, 0 first: budget, seeds, accuracy of all scored pairs and its gain over budget 0, each with
    `_se` over seeds and low and high; attribute_mean, the mean of the attributes' accuracies, and its `_se`."""
    by_attribute: pl.DataFrame
    """One row for each attribute and budget: attribute, budget, n, seeds, accuracy, accuracy_se, low, high."""


def k_curve(leaderboard: pl.DataFrame, by_k: Sequence[Candidate] | None = None) -> KCurve:
    """Return NLL and test accuracy by K, from the settings of one sweep (rows of `leaderboard`).

    `by_k` is what the sweep itself compared, from run.json; without it, as of an interrupted sweep, the same is made of
    the rows. Of known people these have no standard errors.

    Example: K = 2 is within the standard error of the best, K = 1 is not.
        >>> rows = {"k": [1, 2, 3], "lam": [0.0, 0.1, 0.1], "seed": [0, 0, 0], "validation_nll": [0.7, 0.51, 0.5],
        ...         "validation_nll_se": [0.02, 0.02, 0.02], "test_accuracy": [0.5, 0.7, 0.7]}
        >>> found = k_curve(pl.DataFrame(rows))
        >>> found.chosen, round(found.limit, 2)
        (2, 0.52)

    """
    points = lam_curve(leaderboard).sort("validation_nll").unique("k", keep="first", maintain_order=True).sort("k")
    if by_k is None:
        best = points["validation_nll"].min()
        columns = points.select("k", "validation_nll", "validation_nll_se").iter_rows()
        by_k = [Candidate(k, nll, math.inf if se is None else se, nll - best, math.nan) for k, nll, se in columns]
    else:
        errors = {one.size: one.nll_se for one in by_k}
        own = points["k"].replace_strict(errors, default=None, return_dtype=pl.Float64)
        points = points.with_columns(validation_nll_se=own.replace(math.inf, None))
    first = next(one for one in by_k if one.behind == 0)
    known = "validation_nll_known" in leaderboard and leaderboard["validation_nll_known"].null_count() == 0
    unsure = not math.isfinite(first.nll_se)
    chosen = None if unsure and known else smallest_within_one_error(by_k)
    points = points.with_columns(chosen=pl.lit(value=False) if chosen is None else pl.col("k") == chosen)
    return KCurve(points, chosen, None if unsure else first.nll + first.nll_se, known)


def lam_curve(leaderboard: pl.DataFrame) -> pl.DataFrame:
    """Return a row for each K and λ of one sweep, from its settings (rows of `leaderboard`).

    k, lam; of the best restart by validation NLL: seed, validation_nll (of known people where there are any), its
    standard error over prompts validation_nll_se, test_accuracy, test_low, test_high; of all restarts: seeds,
    validation_nll_mean, validation_nll_sd, test_accuracy_mean, test_accuracy_sd (sd null for one); chosen: the row of
    the lowest validation NLL of its K.
    """
    nll = pl.col("validation_nll")
    error = pl.col("validation_nll_se")
    if "validation_nll_known" in leaderboard:
        known = pl.col("validation_nll_known")
        nll, error = pl.coalesce(known, nll), pl.when(known.is_null()).then(error)
    absent = [name for name in ("test_accuracy", "test_low", "test_high") if name not in leaderboard]
    rows = leaderboard.with_columns(
        nll.cast(pl.Float64).alias("validation_nll"),
        error.cast(pl.Float64).alias("validation_nll_se"),
        *(pl.lit(None, pl.Float64).alias(name) for name in absent),
    ).sort("k", "lam", "validation_nll", "seed")
    spread = [
        part
        for name in ("validation_nll", "test_accuracy")
        for part in (
            pl.col(name).cast(pl.Float64).mean().alias(f"{name}_mean"),
            pl.col(name).cast(pl.Float64).std().alias(f"{name}_sd"),
        )
    ]
    best = ("seed", "validation_nll", "validation_nll_se", "test_accuracy", "test_low", "test_high")
    found = rows.group_by("k", "lam", maintain_order=True).agg(
        *(pl.col(name).first() for name in best), pl.len().alias("seeds"), *spread
    )
    first = pl.col("validation_nll").rank("ordinal").over("k") == 1
    return found.with_columns(pl.col("seeds").cast(pl.Int64), chosen=first)


def convergence(history: pl.DataFrame, lams: Mapping[int, float] | None = None) -> pl.DataFrame:
    """Return how fits converge, from rows of `history`: of one sweep, or of the routers re-fitted over several runs.

    One row for each method, k, lam and epoch: seeds, running (those that still were), and of each of FIGURES the mean
    and its standard error `_se` over seeds (null for one). A seed that has stopped counts with its last figures: else a
    curve would leap where one stops. `lams` keeps one λ for each K, as `KCurve.lams` has them. Epochs of a single
    reward are steps of its path of penalties.
    """
    if lams is not None:
        kept = pl.DataFrame(
            {"k": list(lams), "lam": list(lams.values())}, {"k": history.schema["k"], "lam": pl.Float64}
        )
        history = history.join(kept, on=["k", "lam"], how="semi")
    key = ["method", "k", "lam"]
    fit = [*key, *(name for name in ("run", "sweep", "parent", "seed") if name in history)]
    figures = [name for name in FIGURES if name in history]
    rows = history.select(
        *fit, "epoch", *(pl.col(name).cast(pl.Float64) for name in figures), running=pl.lit(value=True)
    )
    epochs = rows.group_by(key).agg(pl.col("epoch").unique().sort())
    every = rows.select(fit).unique(maintain_order=True).join(epochs, on=key, nulls_equal=True).explode("epoch")
    whole = every.join(rows, on=[*fit, "epoch"], how="left", nulls_equal=True).sort(*fit, "epoch", nulls_last=True)
    whole = whole.with_columns(pl.col(figures).forward_fill().over(fit))
    means = [part for name in figures for part in (pl.col(name).mean(), _error(name))]
    counts = pl.len().cast(pl.Int64).alias("seeds"), pl.col("running").sum().cast(pl.Int64)
    return whole.group_by(*key, "epoch").agg(*counts, *means).sort(*key, "epoch", nulls_last=True)


def budget_curve(rows: pl.DataFrame, totals: pl.DataFrame | None = None) -> BudgetCurve:
    """Return accuracy by budget, from rows of `budget_curve` of one run's re-fitted routers, of one seed or several.

    `totals` are the same runs' accuracies over all scored pairs (role budget_totals). Without them, as of earlier
    versions, those are made of the attributes' and have no interval.
    """
    rows = _once(rows, ["attribute", "budget"])
    by_attribute = over_seeds(rows, ["attribute", "budget"], ["accuracy"])
    counted = rows.group_by("attribute", "budget").agg(pl.col("n").max())
    by_attribute = by_attribute.join(counted, on=["attribute", "budget"], nulls_equal=True)
    by_attribute = by_attribute.sort("attribute", "budget", nulls_last=True)
    weight = pl.col("n") / pl.col("n").sum()
    of_seed = rows.group_by("budget", "seed").agg(
        accuracy=(pl.col("accuracy") * weight).sum(), attribute_mean=pl.col("accuracy").mean()
    )
    if totals is None:
        empty = {name: pl.lit(None, pl.Float64) for name in ("low", "high", "gain_low", "gain_high")}
        before = of_seed.filter(pl.col("budget") == 0).select("seed", before="accuracy")
        totals = of_seed.join(before, on="seed", how="left", nulls_equal=True).with_columns(
            gain=pl.col("accuracy") - pl.col("before"), **empty
        )
    else:
        totals = _once(totals, ["budget"])
    overall = over_seeds(totals, ["budget"], ["accuracy", "gain"])
    means = of_seed.group_by("budget").agg(pl.col("attribute_mean").mean(), _error("attribute_mean"))
    order = ["attribute", "budget", "n", "seeds", "accuracy", "accuracy_se", "low", "high"]
    return BudgetCurve(overall.join(means, on="budget").sort("budget"), by_attribute.select(order))


def adaptation_curve(rows: pl.DataFrame) -> pl.DataFrame:
    """Return accuracy, gain, NLL and overconfidence by shots, from rows of `adaptation` of one run's adaptations.

    One row for each method, grouped_by and shots: groups, n, seeds, and of each figure its mean, `_se` over seeds, and
    interval: low and high of accuracy, gain_low and so on of the others.
    """
    keys = ["method", "grouped_by", "shots"]
    rows = _once(rows, keys)
    found = over_seeds(rows, keys, ["accuracy", "gain", "nll", "overconfidence"])
    counts = rows.group_by(keys).agg(pl.col("groups", "n").max())
    return found.join(counts, on=keys).sort(keys)


def regret_curve(rows: pl.DataFrame) -> pl.DataFrame:
    """Return mean regret by round, from rows of `regret_by_round` of one replay.

    One row for each forecaster and round: groups that had so many choices, regret, its 95 % interval over groups (t;
    null for one group), bound (null where there is none).
    """
    limit = pl.col("groups").map_elements(_t, return_dtype=pl.Float64) * pl.col("regret_se")
    found = rows.with_columns(low=pl.col("regret") - limit, high=pl.col("regret") + limit)
    return found.select("forecaster", "round", "groups", "regret", "low", "high", "bound").sort("forecaster", "round")


def over_seeds(rows: pl.DataFrame, keys: Sequence[str], values: Sequence[str]) -> pl.DataFrame:
    """Return the mean over seeds of figures with intervals, one row for each combination of `keys`, sorted.

    Of one seed the interval is its own, over pairs. Of several, each half is the root of the sum of two squares: the
    mean half of the seeds' own, for they are scored on much the same pairs, and t times the standard error over seeds.

    Example: halves of .03 over pairs and of 12.7 × .005 over two seeds.
        >>> rows = pl.DataFrame({"k": [1, 1], "seed": [0, 1], "accuracy": [0.70, 0.71], "low": [0.67, 0.68],
        ...                      "high": [0.73, 0.74]})
        >>> [round(value, 3) for value in over_seeds(rows, ["k"], ["accuracy"]).row(0)]
        [1, 2, 0.705, 0.005, 0.635, 0.775]

    """
    parts = [pl.len().cast(pl.Int64).alias("seeds")]
    for name in values:
        low, high = (pl.col(end) for end in _ends(name))
        halves = {"low": pl.col(name) - low, "high": high - pl.col(name)}
        parts += [pl.col(name).mean(), _error(name)]
        # A mean of limits some of which are not known is not known.
        parts += [
            pl.when(half.is_null().any()).then(None).otherwise(half.mean()).alias(f"{name}_half_{end}")
            for end, half in halves.items()
        ]
    found = rows.group_by(keys).agg(parts)
    factor = pl.col("seeds").map_elements(_t, return_dtype=pl.Float64)
    for name in values:
        spread = (factor * pl.col(f"{name}_se")).fill_null(0.0)
        least, most = BOUNDS.get(name, (-math.inf, math.inf))
        low, high = ((pl.col(f"{name}_half_{end}").pow(2) + spread.pow(2)).sqrt() for end in ("low", "high"))
        ends = dict(zip(_ends(name), (pl.col(name) - low, pl.col(name) + high), strict=True))
        found = found.with_columns(one.clip(least, most).alias(end) for end, one in ends.items())
    shown = [column for name in values for column in (name, f"{name}_se", *_ends(name))]
    return found.select(*keys, "seeds", *shown).sort(keys, nulls_last=True)


def _once(rows: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """Return one row for each of the keys and each seed, that of the run that scored the fewest pairs.

    The same seed was run again where budgets or shots were added. Without a column seed every run is one.
    """
    rows = rows if "seed" in rows else rows.with_columns(seed=pl.col("run"))
    return rows.sort("n", "run").unique([*keys, "seed"], keep="first", maintain_order=True)


def _ends(name: str) -> tuple[str, str]:
    prefix = "" if name == "accuracy" else f"{name}_"
    return f"{prefix}low", f"{prefix}high"


def _error(name: str) -> pl.Expr:
    return (pl.col(name).std() / pl.col(name).count().sqrt()).alias(f"{name}_se")


def _t(count: int) -> float | None:
    """Return how many standard errors a 95 % interval of the mean of so many goes; None of one."""
    return float(special.stdtrit(count - 1, (1 + LEVEL) / 2)) if count > 1 else None
