"""Accuracy of every head on every attribute, in SQL and with its intervals, on a made-up store of 700,000 pairs.

N pairs, K heads, A attributes. No text is forwarded: margins are drawn and written through the store's own commits, a
shard for every 16,384 pairs as `eval` does. Measured, each in turn with its rivals in one run:

- the query by itself, on tables that are loaded, in DuckDB, Polars and pandas (where it is installed);
- the whole of it from the Parquet files: the query's process with its start and its checks of digests, Polars, pandas;
- a query that joins every pair with labels of the user's own, given as a CSV file and as a table;
- all intervals of the same accuracies, over users and prompts, of heads and mixture, as `eval` makes them.

All ways find the same accuracies. A missed bar fails the command. Run by `make bench-sql`; ARGS=--quick tries it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.csv as pa_csv
from harness import BUILD, Bar, alternating, at_most, report
from torch.nn import functional as F

from micropref.cache.commits import commit, write_table
from micropref.cache.datasets import open_dataset
from micropref.cache.runs.names import find_run
from micropref.cache.schemas import PAIR_SCHEMA
from micropref.cache.sql.load import load_views
from micropref.cache.sql.parse import read_query
from micropref.cache.sql.query import SqlLimits, run_query
from micropref.cache.sql.sandbox import open_sandbox
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.groups import sides_of
from micropref.heads.evaluation.intervals import mean_intervals
from micropref.heads.evaluation.metrics import correct
from micropref.pipeline.evaluation.scoring import CHUNK, as_scores, current_scores
from micropref.pipeline.sources.own_table import read_own_table

try:
    import pandas as pd
except ImportError:
    pd = None

RUN, DATA, SPLIT = "mixture-0000made", "made", "test"
QUERY = "SELECT attribute, head, avg((margin > 0)::INT) AS accuracy FROM scores GROUP BY ALL ORDER BY ALL"
JOINED = "SELECT label, head, avg((margin > 0)::INT) AS accuracy FROM scores JOIN mine USING (pair_id) GROUP BY ALL"
QUERY_BAR, INTERVALS_BAR = 0.25, 5.0
SECONDS = 600.0


def build(root: Path, pairs: int, heads: int, attributes: int) -> StoreFolder:
    """Write a data set and the scores of a run on it; a person takes part in some 35 pairs, a prompt in some 12."""
    draw = np.random.default_rng(0)
    store = StoreFolder(root)
    kinds = draw.integers(0, attributes, pairs)
    frame = pl.DataFrame(
        {
            "pair_id": [f"{number:032x}-0" for number in range(pairs)],
            "prompt_id": pl.Series(draw.integers(0, max(1, pairs // 12), pairs)).cast(pl.String),
            "user": pl.Series(draw.integers(0, max(1, pairs // 35), pairs)).cast(pl.String),
            "attribute": pl.Series(kinds).cast(pl.String),
        }
    ).with_columns(
        data=pl.lit(DATA), split=pl.lit(SPLIT), part=pl.lit(SPLIT), prompt=pl.lit("p"), chosen=pl.lit("a"),
        rejected=pl.lit("b"), context=None, margin=None, chosen_id=None, rejected_id=None,
    )  # fmt: skip
    table = frame.select(PAIR_SCHEMA.names).to_arrow().cast(PAIR_SCHEMA)
    folder = root / "datasets" / DATA / "pairs"
    file = write_table(folder, "test-0000-made", "pairs", table)
    commit(folder, "test-0000-made", {"pairs": file}, {"ordinal": 0, "split": SPLIT, "source": "made"})
    run = root / "runs" / RUN
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"run": RUN, "data": DATA, "combine": "probability"}))
    margins = draw.standard_normal((pairs, heads), dtype=np.float32) + draw.normal(0.5, 0.3, (attributes, heads))[kinds]
    weights = draw.dirichlet(np.ones(heads), pairs)
    scores = pl.DataFrame(
        {
            "run": pl.repeat(RUN, pairs, eager=True),
            **{name: frame[name] for name in ("data", "split", "part", "pair_id", "attribute")},
            **{f"margin_{k}": margins[:, k].astype(np.float32) for k in range(heads)},
            **{f"weight_{k}": weights[:, k].astype(np.float32) for k in range(heads)},
        }
    )
    for start in range(0, pairs, CHUNK):
        stem = f"scores-{SPLIT}-{start:016x}"
        one = scores.slice(start, CHUNK)
        file = write_table(run / "eval" / DATA, stem, "scores", one.to_arrow())
        commit(run / "eval" / DATA, stem, {"scores": file}, {"split": SPLIT, "rows": one.height})
    return store


def of_frame(frame: pl.DataFrame | pl.LazyFrame) -> pl.DataFrame:
    """Return the accuracies [A, 1 + K] from wide scores by Polars, whose rows are pairs."""
    return (frame.lazy().group_by("attribute").agg((pl.col("^margin_.*$") > 0).mean()).sort("attribute")).collect()


def of_pandas(frame: Any) -> Any:
    """Return the same by pandas."""
    margins = [name for name in frame.columns if name.startswith("margin_")]
    return (frame[margins] > 0).groupby(frame["attribute"]).mean().sort_index()


def rivals(files: list[Path], columns: list[str]) -> dict[str, dict[str, Callable[[], Any]]]:
    """Return Polars and pandas at the same question, on tables that are loaded, and from the Parquet files."""
    loaded = pl.read_parquet(files, columns=columns)
    works: dict[str, dict[str, Callable[[], Any]]] = {
        "the query, loaded": {"Polars": lambda: of_frame(loaded)},
        "from the files": {"Polars": lambda: of_frame(pl.scan_parquet(files))},
    }
    if pd is not None:
        frame = pd.concat([pd.read_parquet(file, columns=columns) for file in files])
        works["the query, loaded"]["pandas"] = lambda: of_pandas(frame)
        works["from the files"]["pandas"] = lambda: of_pandas(
            pd.concat([pd.read_parquet(file, columns=columns) for file in files])
        )
    return works


def questions(store: StoreFolder, heads: int, rounds: int) -> tuple[list[dict[str, Any]], list[Bar]]:
    """Measure the query in DuckDB and in the rivals, loaded and from the files."""
    limits = SqlLimits(seconds=SECONDS)
    files = sorted((store.root / "runs" / RUN / "eval" / DATA).glob("*.parquet"))
    works = rivals(files, ["attribute", *(f"margin_{k}" for k in range(heads))])
    rows: list[dict[str, Any]] = []
    bars: list[Bar] = []
    with open_sandbox(limits) as connection:
        load_views(connection, store, read_query(connection, QUERY), limits)
        works["the query, loaded"]["sql"] = lambda: connection.sql(QUERY).to_arrow_table()
        works["from the files"]["sql"] = lambda: run_query(store.root, QUERY, limits)
        expected = np.stack([of_frame(pl.scan_parquet(files))[f"margin_{k}"].to_numpy() for k in range(heads)], 1)
        for what, ways in works.items():
            found = ways["sql"]().column("accuracy").to_numpy()
            assert np.allclose(found, expected.reshape(-1), atol=1e-12)
            times = alternating(ways, rounds)
            fastest = min(statistics.median(times[way]) for way in times if way != "sql")
            for way, measured in times.items():
                median = statistics.median(measured)
                rows.append({"what": what, "how": way, "seconds": median, "of the best rival": median / fastest})
            if what == "the query, loaded":
                bars.append(
                    at_most("attribute x head accuracy in SQL, seconds", statistics.median(times["sql"]), QUERY_BAR)
                )
    return rows, bars


def joined(store: StoreFolder, folder: Path, pairs: int, rounds: int) -> list[dict[str, Any]]:
    """Measure a join of every pair with labels of the user's own: reading their file, and the query with them."""
    limits = SqlLimits(seconds=SECONDS)
    path = folder / "labels.csv"
    labels = pl.DataFrame({"pair_id": [f"{number:032x}-0" for number in range(pairs)]})
    labels = labels.with_columns(label=(pl.int_range(pl.len()) % 5).cast(pl.String))
    pa_csv.write_csv(labels.to_arrow(), path)
    table = read_own_table(path, limits)
    works: dict[str, Callable[[], Any]] = {
        "reading the CSV": lambda: read_own_table(path, limits),
        "the query with the table": lambda: run_query(store.root, JOINED, limits, {"mine": table}),
    }
    times = alternating(works, rounds)
    return [{"what": "--with", "how": way, "seconds": statistics.median(times[way])} for way in times]


def intervals(store: StoreFolder, rounds: int) -> tuple[list[dict[str, Any]], list[Bar]]:
    """Measure the intervals of all accuracies of heads and mixture, from stored scores that are read."""
    run = find_run(store, RUN)
    frame = current_scores(run, open_dataset(store, DATA), SPLIT)
    groups = [(part, as_scores(run, part)) for part in frame.partition_by("attribute", maintain_order=True)]

    def all_intervals() -> None:
        for part, scores in groups:
            mean_intervals(correct(F.logsigmoid(scores.margins)), sides_of(part), "share")
            mean_intervals(correct(scores.log_probability())[:, None], sides_of(part), "share")

    measured = alternating({"all": all_intervals}, rounds)["all"]
    median = statistics.median(measured)
    count = sum(1 + scores.margins.shape[1] for _, scores in groups)
    row = {"what": "intervals over users and prompts", "how": "eval", "seconds": median, "intervals": count}
    return [row], [at_most(f"all {count} intervals, seconds", median, INTERVALS_BAR)]


def main() -> int:
    """Build the store, measure, print and write; return 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20,000 pairs and one round: does it run")
    parser.add_argument("--pairs", type=int, default=700_000)
    parser.add_argument("--heads", type=int, default=10)
    parser.add_argument("--attributes", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=BUILD / "sql.json")
    asked = parser.parse_args()
    pairs, rounds = (20_000, 1) if asked.quick else (asked.pairs, asked.rounds)
    with tempfile.TemporaryDirectory() as name:
        store = build(Path(name) / "store", pairs, asked.heads, asked.attributes)
        rows, bars = questions(store, asked.heads, rounds)
        rows += joined(store, Path(name), pairs, rounds)
        more, own = intervals(store, rounds)
    shape = {"pairs": pairs, "heads": asked.heads, "attributes": asked.attributes}
    report(asked.out, rows + more, bars + own, quick=asked.quick, rounds=rounds, **shape)
    return 0 if all(bar.holds for bar in bars + own) else 1


if __name__ == "__main__":
    sys.exit(main())
