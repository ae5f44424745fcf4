"""Scores of a run on a split's pairs: the margins of all heads, one row a pair.

N pairs, K heads. Pairs that have scores already are not scored again.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import torch

from micropref.cache.commits import commit, write_table
from micropref.cache.datasets import Dataset, read_table
from micropref.cache.keys import sha256_hex
from micropref.cache.runs.records import Run
from micropref.cache.vectors.pair_features import LocatedPairs
from micropref.heads.methods.base import Scores
from micropref.pipeline.training.method_runs import FittedRun

CHUNK = 1 << 14
"""Pairs scored and committed at a time: bounds memory, and what an interruption loses."""
PAIR_COLUMNS = ["pair_id", "prompt_id", "user", "context"]
"""What intervals need to know of a scored pair."""


def score_missing(fitted: FittedRun, dataset: Dataset, split: str, part: str | None) -> tuple[int, int]:
    """Score the pairs that have none yet; return how many that were and how many lacked a context.

    Pairs whose prompt the run's router was re-fitted on are skipped.
    """
    wanted = pl.lit(True) if part is None else pl.col("part") == part
    shards = fitted.run.score_shards(dataset.name, split)
    if shards:
        known = pl.concat([read_table(item, "scores", ["pair_id"]) for item in shards])
        wanted &= ~pl.col("pair_id").is_in(known["pair_id"].unique().implode())
    wanted &= unspent(fitted.run)
    columns = ["pair_id", "prompt_id", "part"]
    if shards and not any(read_table(one, "pairs", columns).filter(wanted).height for one in dataset.of_split(split)):
        return 0, 0
    located = fitted.reading.locate(dataset, fitted.features, split, wanted)
    rows = np.arange(len(located))
    for start in range(0, len(rows), CHUNK):
        _score(fitted, dataset, split, located.take(rows[start : start + CHUNK]))
    return len(located), located.without_context if fitted.reading.contexts else 0


def unspent(run: Run) -> pl.Expr:
    """Return the filter for pairs that a run may be scored on: no router of it was re-fitted on their prompt."""
    budget = run.budget()
    if budget is None:
        return pl.lit(True)
    return ~pl.col("prompt_id").is_in(read_table(budget, "budget")["prompt_id"].unique().implode())


def current_scores(run: Run, dataset: Dataset, split: str) -> pl.DataFrame:
    """Return the stored scores of pairs the data set still has, with prompt, user and context, in source order."""
    stored = _stored_scores(run, dataset, split) if split in dataset.splits() else None
    if stored is None:
        return pl.DataFrame({"part": []}, schema={"part": pl.String})
    pairs = pl.concat([read_table(part, "pairs", PAIR_COLUMNS) for part in dataset.of_split(split)])
    return pairs.join(stored, on="pair_id", how="inner", maintain_order="left")


def as_scores(run: Run, frame: pl.DataFrame) -> Scores:
    """Return rows of stored scores as a method's, in float64."""
    # Runs of the first version do not say how heads combine: all were mixtures.
    return Scores(_matrix(frame, "margin"), _matrix(frame, "weight").log(), run.record.get("combine", "probability"))


def _score(fitted: FittedRun, dataset: Dataset, split: str, located: LocatedPairs) -> None:
    """Score pairs and store their scores."""
    loaded, pairs = fitted.reading.read(located)
    scores = fitted.model.scores(pairs)
    weights = scores.log_weights.exp()
    columns = {
        "run": pl.repeat(fitted.run.id, len(pairs), eager=True),
        "data": pl.repeat(dataset.name, len(pairs), eager=True),
        **{name: loaded.table[name] for name in ("split", "part", "pair_id", "attribute")},
        **{f"margin_{k}": scores.margins[:, k].numpy() for k in range(scores.margins.shape[1])},
        **{f"weight_{k}": weights[:, k].numpy() for k in range(weights.shape[1])},
    }
    folder = fitted.run.eval_folder(dataset.name)
    stem = f"scores-{split}-{sha256_hex(','.join(loaded.table['pair_id']))[:16]}"
    file = write_table(folder, stem, "scores", pl.DataFrame(columns).to_arrow())
    commit(folder, stem, {"scores": file}, {"split": split, "rows": len(pairs)})


def _stored_scores(run: Run, dataset: Dataset, split: str) -> pl.DataFrame | None:
    frames = [read_table(item, "scores") for item in run.score_shards(dataset.name, split)]
    return pl.concat(frames).unique("pair_id", keep="first", maintain_order=True) if frames else None


def _matrix(frame: pl.DataFrame, name: str) -> torch.Tensor:
    """Return the columns `name`_0, `name`_1, ... as [N, K]."""
    count = sum(column.startswith(f"{name}_") for column in frame.columns)
    return frame.select(f"{name}_{head}" for head in range(count)).to_torch().double()
