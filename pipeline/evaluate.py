"""Score a run's heads on a split's pairs, keep the scores, and turn them into accuracies with intervals.

N pairs, K heads. Scores lie wide, one row a pair; pairs that have scores already are not scored again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl
import torch
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from cache.commits import commit, write_table
from cache.datasets import Dataset, open_dataset, read_table
from cache.keys import sha256_hex
from cache.pair_features import load_pairs
from cache.runs import Run, open_run
from cache.store import Store
from cache.vectors import open_features
from heads.metrics import cluster_intervals, correct
from heads.mixture import Mixture, pair_log_probability

BOOTSTRAP_SEED = 0
KEYS = ["run", "data", "split", "part", "attribute"]


@dataclass(frozen=True)
class Evaluation:
    """What `eval` says of a run on one split; every table has the columns of the view of its name."""

    run: str
    data: str
    split: str
    pairs: int
    """Pairs of the split that have scores now."""
    scored: int
    """Pairs scored by this call, validation pairs for choosing heads included."""
    without_context: int
    """Pairs that the context router read by their prompt alone."""
    accuracy: float
    """Of the mixture, over all pairs of the split."""
    head_accuracy: pl.DataFrame
    mixture_accuracy: pl.DataFrame
    best_head: pl.DataFrame
    router_weights: pl.DataFrame


def evaluate(store: Store, run_id: str, data: str | None = None, split: str = "test") -> Evaluation:
    """Evaluate a run on a split of a data set, by default its own.

    The best head of an attribute is chosen on the validation part of the train split where there is one, and once
    more on the evaluated pairs themselves, labelled `oracle`. Raises BadInput on an unknown run, data set or split.
    """
    run = open_run(store, run_id)
    dataset = open_dataset(store, data or run.record["data"])
    dataset.of_split(split)
    scored, missing = _score(store, run, dataset, split, None)
    if split != "train" and "train" in dataset.splits():
        scored += _score(store, run, dataset, "train", "validation")[0]
    frame = _current_scores(run, dataset, split)
    validation = _current_scores(run, dataset, "train").filter(pl.col("part") == "validation")
    heads = pl.concat([_head_accuracy(part) for part in _groups(frame)])
    on_validation = pl.concat([_head_accuracy(part) for part in _groups(validation)]) if validation.height else None
    tables = {
        "head_accuracy": heads,
        "mixture_accuracy": pl.concat([_mixture_accuracy(part) for part in _groups(frame)]),
        "best_head": _best_heads(heads.filter(pl.col("part") != "validation"), on_validation),
        "router_weights": pl.concat([_router_weights(part) for part in _groups(frame)]),
    }
    accuracy = float(correct(_mixture_log_probability(frame)).mean())
    folder = run.eval_folder(dataset.name)
    stem = f"tables-{split}"
    files = {role: write_table(folder, stem, role, table.to_arrow()) for role, table in tables.items()}
    record = {"split": split, "pairs": frame.height, "accuracy": accuracy, "bootstrap_seed": BOOTSTRAP_SEED}
    commit(folder, stem, files, record)
    return Evaluation(run.id, dataset.name, split, frame.height, scored, missing, accuracy, **tables)


def _score(store: Store, run: Run, dataset: Dataset, split: str, part: str | None) -> tuple[int, int]:
    """Score the pairs that have none yet; return how many that were and how many lacked a context."""
    settings = run.record["settings"]
    known = _stored_scores(run, dataset, split)
    wanted = pl.lit(True) if part is None else pl.col("part") == part
    if known is not None:
        wanted &= ~pl.col("pair_id").is_in(known["pair_id"].implode())
    features = open_features(store, run.record["features"])
    pairs = load_pairs(
        dataset,
        features,
        split,
        router_input=settings["router_input"],
        reward_input=settings["reward_input"],
        only=wanted,
    )
    if not len(pairs):
        return 0, 0
    mixture = Mixture.from_state(run.tensors())
    margins = mixture.margins(pairs.delta)
    weights = mixture.log_weights(pairs.router, len(pairs)).exp()
    columns = {
        "run": pl.repeat(run.id, len(pairs), eager=True),
        "data": pl.repeat(dataset.name, len(pairs), eager=True),
        **{name: pairs.table[name] for name in ("split", "part", "pair_id", "attribute")},
        **{f"margin_{k}": margins[:, k].numpy() for k in range(margins.shape[1])},
        **{f"weight_{k}": weights[:, k].numpy() for k in range(margins.shape[1])},
    }
    table = pl.DataFrame(columns)
    stem = f"scores-{split}-{sha256_hex(','.join(pairs.table['pair_id']))[:16]}"
    file = write_table(run.eval_folder(dataset.name), stem, "scores", table.to_arrow())
    commit(run.eval_folder(dataset.name), stem, {"scores": file}, {"split": split, "rows": table.height})
    return table.height, pairs.without_context if settings["router_input"] == "context" else 0


def _stored_scores(run: Run, dataset: Dataset, split: str) -> pl.DataFrame | None:
    shards = run.score_shards(dataset.name, split)
    frames = [read_table(item, "scores") for item in shards]
    return pl.concat(frames).unique("pair_id", keep="first", maintain_order=True) if frames else None


def _current_scores(run: Run, dataset: Dataset, split: str) -> pl.DataFrame:
    """Return the stored scores of pairs the data set still has, with their prompt, in source order."""
    if split not in dataset.splits():
        return pl.DataFrame({"part": []}, schema={"part": pl.String})
    parts = [read_table(part, "pairs", ["pair_id", "prompt_id"]) for part in dataset.of_split(split)]
    pairs = pl.concat(parts)
    stored = _stored_scores(run, dataset, split)
    if stored is None:
        return pl.DataFrame({"part": []}, schema={"part": pl.String})
    return pairs.join(stored, on="pair_id", how="inner", maintain_order="left")


def _groups(frame: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Yield the pairs of each (part, attribute), attribute NULL being one of its own, sorted by name."""
    ordered = frame.partition_by(["part", "attribute"], maintain_order=True)
    yield from sorted(ordered, key=lambda part: (part["part"][0], part["attribute"][0] or ""))


def _matrix(frame: pl.DataFrame, name: str) -> torch.Tensor:
    """Return the columns `name`_0, `name`_1, ... as [N, K]."""
    count = sum(column.startswith(f"{name}_") for column in frame.columns)
    return frame.select(f"{name}_{head}" for head in range(count)).to_torch().double()


def _mixture_log_probability(frame: pl.DataFrame) -> torch.Tensor:
    return pair_log_probability(_matrix(frame, "margin"), _matrix(frame, "weight").log())


def _accuracy_rows(frame: pl.DataFrame, right: torch.Tensor, heads: list[int] | None) -> pl.DataFrame:
    """Return one row for each column of `right` [n, C], with bootstrap intervals over prompts."""
    low, high = cluster_intervals(right, prompt_clusters(frame), seed=BOOTSTRAP_SEED)
    count = right.shape[1]
    columns: dict[str, Any] = {name: [frame[name][0]] * count for name in KEYS}
    if heads is not None:
        columns["head"] = heads
    columns |= {"n": [frame.height] * count, "accuracy": right.mean(0).tolist()}
    columns |= {"low": low.tolist(), "high": high.tolist()}
    return _typed(columns)


def _head_accuracy(frame: pl.DataFrame) -> pl.DataFrame:
    margins = _matrix(frame, "margin")
    return _accuracy_rows(frame, correct(F.logsigmoid(margins)), list(range(margins.shape[1])))


def _mixture_accuracy(frame: pl.DataFrame) -> pl.DataFrame:
    return _accuracy_rows(frame, correct(_mixture_log_probability(frame))[:, None], None)


def _router_weights(frame: pl.DataFrame) -> pl.DataFrame:
    weights = _matrix(frame, "weight")
    count = weights.shape[1]
    columns: dict[str, Any] = {name: [frame[name][0]] * count for name in KEYS}
    columns |= {"head": list(range(count)), "mean_weight": weights.mean(0).tolist()}
    columns["mean_entropy"] = [float(torch.special.entr(weights).sum(1).mean())] * count
    return _typed(columns)


def _typed(columns: dict[str, Any]) -> pl.DataFrame:
    types = {"attribute": pl.String, "head": pl.Int32, "n": pl.Int64}
    return pl.DataFrame(columns, schema_overrides={name: types[name] for name in types if name in columns})


def prompt_clusters(table: pl.DataFrame) -> torch.Tensor:
    """Return the number of each pair's prompt [N]: what intervals resample."""
    return table["prompt_id"].rank("dense").cast(pl.Int64).to_torch()


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
