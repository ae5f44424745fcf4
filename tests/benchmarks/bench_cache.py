"""Reading the vector cache: mapped Parquet against a .npy memmap, decoding with pyarrow and Polars, and safetensors.

n vectors, D embedding width. Every work copies rows into memory, the files warm in the page cache; the two that map
their file have it open, the others have to read it.
Run by `make bench-cache`; --quick is a smoke test of small sizes.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
from harness import BUILD, alternating, at_least, median_ratio, report
from safetensors import safe_open
from safetensors.numpy import save_file

from cache.store import Store
from cache.vectors import open_features, planned_features

BATCH = 2048
"""Rows of a minibatch."""
MAPPED, NPY, ARROW = "mapped Parquet", ".npy memmap", "pyarrow decode"
Read = Callable[[np.ndarray], np.ndarray]
"""From positions [m] to vectors [m, D]."""


def write_files(folder: Path, count: int, width: int) -> tuple[Store, str]:
    """Write the same vectors as a features folder, .npy and .safetensors; return store and features id."""
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((count, width), dtype=np.float32).astype(np.float16)
    store = Store(folder / "store")
    features = planned_features(store, {"width": width, "store_dtype": "float16"})
    features.create({}, None)
    features.write_shard([number.to_bytes(16, "big") for number in range(count)], vectors, {})
    np.save(folder / "vectors.npy", vectors)
    save_file({"vectors": vectors}, folder / "vectors.safetensors")
    return store, features.id


def readers(folder: Path, store: Store, features_id: str, width: int) -> dict[str, Read]:
    """Return every way to the rows; the two that decode can only read all of a file and then take."""
    shard = next((store.features(features_id) / "shards").glob("*.parquet"))

    features = open_features(store, features_id)
    memmap = np.load(folder / "vectors.npy", mmap_mode="r")

    def npy(rows: np.ndarray) -> np.ndarray:
        return np.take(memmap, rows, axis=0)

    def arrow(rows: np.ndarray) -> np.ndarray:
        column = pq.read_table(shard, columns=["embedding"]).column(0).combine_chunks()
        return np.take(column.flatten().to_numpy().reshape(-1, width), rows, axis=0)

    def polars(rows: np.ndarray) -> np.ndarray:
        column = pl.read_parquet(shard, columns=["embedding"])["embedding"]
        return np.take(column.to_numpy(), rows, axis=0)

    def safetensors(rows: np.ndarray) -> np.ndarray:
        with safe_open(folder / "vectors.safetensors", "np") as file:
            return np.take(file.get_tensor("vectors"), rows, axis=0)

    return {MAPPED: features.gather, NPY: npy, ARROW: arrow, "Polars": polars, "safetensors": safetensors}


def main() -> None:
    """Measure reading all vectors in order, and one minibatch of random ones."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes and two rounds: does it run")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=BUILD / "cache.json")
    asked = parser.parse_args()
    count, width = (9000, 64) if asked.quick else (23_500, 3072)
    rounds = 2 if asked.quick else asked.rounds
    rows: list[dict[str, Any]] = []
    ratios: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        store, features_id = write_files(Path(name), count, width)
        reads = readers(Path(name), store, features_id, width)
        batch = np.sort(np.random.default_rng(1).permutation(count)[: min(BATCH, count)])
        for what, positions in (("all rows in order", np.arange(count)), ("a minibatch", batch)):
            expected = reads[NPY](positions)
            assert all(np.array_equal(read(positions), expected) for read in reads.values())
            works = {how: functools.partial(read, positions) for how, read in reads.items()}
            times = alternating(works, rounds)
            for how, measured in times.items():
                median = statistics.median(measured)
                rate = len(positions) * width * 2 / median / 1e9
                rows.append({"shape": f"{count} x {width}", "read": what, "how": how, "seconds": median, "GB/s": rate})
            ratios[what] = {how: median_ratio(measured, times[MAPPED]) for how, measured in times.items()}
    whole, some = ratios["all rows in order"], ratios["a minibatch"]
    bars = [
        at_least("mapped vs .npy memmap, all rows", whole[NPY], 0.9),
        at_least("mapped vs .npy memmap, a minibatch", some[NPY], 0.9),
        at_least("mapped vs pyarrow decode, all rows", whole[ARROW], 15),
        at_least("mapped vs pyarrow decode, a minibatch", some[ARROW], 15),
    ]
    report(asked.out, rows, bars, quick=asked.quick, rounds=rounds)


if __name__ == "__main__":
    main()
