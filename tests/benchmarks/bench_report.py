"""The page of a run on 700,000 pairs, 10 heads and 60 attributes: seconds, bytes, memory of the whole command.

The first report finds scores and text features alone, and computes accuracies, intervals, calibration and what heads
like; the second reads them, as after `eval`, which stores all of it: the bar is its. No text is forwarded: margins and
features are drawn, texts are those of the demo made longer. Run by `make bench-report`; ARGS=--quick tries it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import torch
from bench_eval import pairs_of, texts_of
from harness import BUILD, Bar, at_most, report

from micropref.cache.commits import commit, write_table
from micropref.cache.datasets import open_dataset
from micropref.cache.runs.records import save_run
from micropref.cache.schemas import LINK_SCHEMA, PAIR_SCHEMA, TEXT_FEATURES, TEXT_FEATURES_VERSION
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.opening import planned_features
from micropref.pipeline.evaluation.scoring import CHUNK

DATA, SPLIT, WIDTH = "made", "test", 8
WORDINGS, TEXTS = 300, 5_000
SECONDS, BYTES, MEMORY = 20.0, 5e6, 2.0
Row = dict[str, object]


def build(root: Path, count: int) -> str:
    """Write a data set, its links and text features, and a run with its scores; return the run's id."""
    store, draw = StoreFolder(root), np.random.default_rng(1)
    frame, margins, features = pairs_of(count)
    texts = texts_of(min(TEXTS, count))
    stem = "test-0001-made"
    pairs = frame.select("pair_id", "prompt_id", "user", "attribute").with_columns(
        data=pl.lit(DATA), split=pl.lit(SPLIT), part=pl.lit(SPLIT), margin=None, chosen_id=None, rejected_id=None,
        context=pl.lit("Wants answer ") + pl.Series(draw.integers(0, WORDINGS, count)).cast(pl.String),
        **{name: texts.gather(draw.integers(0, len(texts), count)) for name in ("prompt", "chosen", "rejected")},
    )  # fmt: skip
    folder = store.dataset(DATA)
    file = write_table(folder / "pairs", stem, "pairs", pairs.select(PAIR_SCHEMA.names).to_arrow().cast(PAIR_SCHEMA))
    record = {"split": SPLIT, "ordinal": 1, "source": "made", "digest": "0", "shape": "preference", "limit": None}
    commit(folder / "pairs", stem, {"pairs": file}, record)
    dataset = open_dataset(store, DATA)
    kept = dataset.text_features_folder
    table = write_table(kept, stem, TEXT_FEATURES, features.to_arrow())
    commit(kept, stem, {TEXT_FEATURES: table}, {"pairs_digest": file.digest, "version": TEXT_FEATURES_VERSION})
    backbone = planned_features(store, {"width": WIDTH, "store_dtype": "float32", "max_length": 8})
    backbone.create({"name": "made"}, None)
    keys = [bytes([number] * 16) for number in (1, 2, 3)]
    backbone.write_shard(keys, draw.standard_normal((3, WIDTH)), {})
    _links(folder, stem, file.digest, backbone.id, pairs, keys)
    heads = margins.shape[1]
    tensors = {"heads": torch.randn(heads, WIDTH), "static": torch.zeros(heads)}
    settings = {"router_input": "prompt", "reward_input": "plain"}
    empty = dict.fromkeys(("lam", "seed", "validation_nll", "validation_accuracy", "train_pairs"))
    named = {
        "parent": None,
        "method": "static",
        "data": DATA,
        "features": backbone.id,
        "k": heads,
        "created": "2026-01-01",
    }
    run = save_run(store, "static-made", {**named, "settings": settings, "data_digest": "0", **empty}, tensors)
    weights = draw.dirichlet(np.ones(heads), count)
    scores = pl.DataFrame(
        {
            "run": pl.repeat(run.id, count, eager=True),
            **{name: pairs[name] for name in ("data", "split", "part", "pair_id", "attribute")},
            **{f"margin_{head}": margins[:, head].numpy().astype(np.float32) for head in range(heads)},
            **{f"weight_{head}": weights[:, head].astype(np.float32) for head in range(heads)},
        }
    )
    for start in range(0, count, CHUNK):
        one, name = scores.slice(start, CHUNK), f"scores-{SPLIT}-{start:016x}"
        stored = write_table(run.eval_folder(DATA), name, "scores", one.to_arrow())
        commit(run.eval_folder(DATA), name, {"scores": stored}, {"split": SPLIT, "rows": one.height})
    return run.id


def _links(folder: Path, stem: str, digest: str, features: str, pairs: pl.DataFrame, keys: list[bytes]) -> None:
    count = len(pairs)
    ones = {"prompt_key": keys[0], "chosen_key": keys[1], "rejected_key": keys[2]}
    counts = dict.fromkeys(("prompt_tokens", "chosen_tokens", "rejected_tokens"), 1)
    columns = {
        "pair_id": pairs["pair_id"].to_arrow().cast(pa.string()),
        "trimmed": pa.array(np.zeros(count, bool)),
        **{name: pa.array([key] * count, LINK_SCHEMA.field(name).type) for name, key in ones.items()},
        **{name: pa.array(np.full(count, value, np.int32)) for name, value in counts.items()},
    }
    table = pa.table(
        [columns.get(field.name, pa.nulls(count, field.type)) for field in LINK_SCHEMA], schema=LINK_SCHEMA
    )
    linked = write_table(folder / "links" / features, stem, "links", table)
    commit(folder / "links" / features, stem, {"links": linked}, {"pairs_digest": digest, "responses": "plain"})


def measure(root: Path, run: str, out: Path) -> Row:
    """Run the command once; return its seconds, the page's bytes, and its most memory."""
    command = [sys.executable, "-m", "micropref", "report", run, "--store", str(root), "-o", str(out), "--json"]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    printed = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    took, memory = time.perf_counter() - start, used.ru_maxrss / 1e6
    assert status == 0, printed
    told = json.loads(printed)
    return {
        "pairs": told["pairs"][0],
        "figures": told["figures"],
        "seconds": took,
        "bytes": told["bytes"],
        "GB": memory,
    }


def main() -> None:
    """Build a store, write its page twice, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run")
    parser.add_argument("--out", type=Path, default=BUILD / "report.json")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, get_context("spawn")) as another:
        root = Path(folder) / "store"
        # In a process of its own: a command would inherit its peak of memory.
        run = another.submit(build, root, 10_000 if asked.quick else 700_000).result()
        rows = [{"tables": how} | measure(root, run, Path(folder) / "page.html") for how in ("computed", "kept")]
    first, second = rows
    bars: list[Bar] = [
        at_most("seconds, evaluated before", float(str(second["seconds"])), SECONDS),
        at_most("bytes of the page", float(str(first["bytes"])), BYTES),
        at_most("peak memory of both, GB", float(str(first["GB"])), MEMORY),
    ]
    report(asked.out, rows, bars, quick=asked.quick)


if __name__ == "__main__":
    main()
