"""Reading the vector cache: mapped Parquet against .npy, pyarrow, Polars and safetensors; pairs streamed from disk.

n vectors, D embedding width, N pairs. Every work of the first part copies rows into the same memory, the files warm in
the page cache; the two that map their file have it open, the others have to read it. The second part reads a made-up
store that is in no cache, and fits on it in a process whose memory is bounded (Linux only).
Run by `make bench-cache`; --quick is a smoke test of small sizes, --full streams 700,000 pairs (11 GB on disk).
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
from harness import BUILD, Bar, alternating, at_least, at_most, median_ratio, report
from safetensors import safe_open
from safetensors.numpy import save_file
from streaming import bounded_fit, build_store, loader_rates

from micropref.cache.store import StoreFolder
from micropref.cache.vectors.opening import open_features, planned_features

BATCH = 2048
"""Rows of a minibatch."""
BATCHES = 32
"""Minibatches read in turn."""
CLOSE = 15
"""Times as many rounds for .npy and our files."""
MEMORY = "6GB"
STREAM_ROUNDS = 3
"""Of whole epochs read from disk: each lasts long enough to be its own average."""
MAPPED, NPY, ARROW = "mapped Parquet", ".npy memmap", "pyarrow decode"
Read = Callable[[np.ndarray, np.ndarray], object]
"""From positions [m] to vectors in memory [m, D] that is used again."""


def write_files(folder: Path, count: int, width: int) -> tuple[StoreFolder, str]:
    """Write the same vectors as a features folder, .npy and .safetensors; return store and features id."""
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((count, width), dtype=np.float32).astype(np.float16)
    store = StoreFolder(folder / "store")
    features = planned_features(store, {"width": width, "store_dtype": "float16"})
    features.create({}, None)
    features.write_shard([number.to_bytes(16, "big") for number in range(count)], vectors, {})
    np.save(folder / "vectors.npy", vectors)
    save_file({"vectors": vectors}, folder / "vectors.safetensors")
    return store, features.id


def readers(folder: Path, store: StoreFolder, features_id: str, width: int) -> dict[str, Read]:
    """Return every way to the rows; the two that decode can only read all of a file and then take."""
    shard = next((store.features(features_id) / "shards").glob("*.parquet"))

    features = open_features(store, features_id)
    memmap = np.load(folder / "vectors.npy", mmap_mode="r")

    def mapped(rows: np.ndarray, out: np.ndarray) -> object:
        return features.gather(rows, out.view(np.uint8))

    def taken(vectors: np.ndarray, rows: np.ndarray, out: np.ndarray) -> object:
        return np.take(vectors, rows, axis=0, out=out, mode="clip")  # only so does numpy write to `out` itself

    def npy(rows: np.ndarray, out: np.ndarray) -> object:
        return taken(memmap, rows, out)

    def arrow(rows: np.ndarray, out: np.ndarray) -> object:
        column = pq.read_table(shard, columns=["embedding"]).column(0).combine_chunks()
        return taken(column.flatten().to_numpy().reshape(-1, width), rows, out)

    def polars(rows: np.ndarray, out: np.ndarray) -> object:
        column = pl.read_parquet(shard, columns=["embedding"])["embedding"]
        return taken(column.to_numpy(), rows, out)

    def safetensors(rows: np.ndarray, out: np.ndarray) -> object:
        with safe_open(folder / "vectors.safetensors", "np") as file:
            return taken(file.get_tensor("vectors"), rows, out)

    return {MAPPED: mapped, NPY: npy, ARROW: arrow, "Polars": polars, "safetensors": safetensors}


def reading(folder: Path, count: int, width: int, rounds: int) -> tuple[list[dict[str, Any]], list[Bar]]:
    """Measure reading all vectors in order, and minibatches of random ones."""
    rows: list[dict[str, Any]] = []
    bars = []
    store, features_id = write_files(folder, count, width)
    reads = readers(folder, store, features_id, width)
    rng = np.random.default_rng(1)
    batches = [np.sort(rng.permutation(count)[: min(BATCH, count)]) for _ in range(BATCHES)]
    for what, asked in (("all rows in order", [np.arange(count)]), ("a minibatch", batches)):
        out, expected = np.empty((2, len(asked[0]), width), dtype=np.float16)
        reads[NPY](asked[0], expected)
        for read in reads.values():
            read(asked[0], out)
            assert np.array_equal(out, expected)
        works = {how: _in_turn(read, asked, out) for how, read in reads.items()}
        times = alternating(works, rounds)
        # These two are so close and so quick that only many rounds tell them apart.
        times |= alternating({how: works[how] for how in (MAPPED, NPY)}, CLOSE * rounds)
        for how, measured in times.items():
            median = statistics.median(measured)
            rate = len(asked[0]) * width * 2 / median / 1e9
            rows.append({"shape": f"{count} x {width}", "read": what, "how": how, "seconds": median, "GB/s": rate})
        bars.append(at_least(f"mapped vs .npy memmap, {what}", median_ratio(times[NPY], times[MAPPED]), 0.9))
        decoded = statistics.median(times[ARROW]) / statistics.median(times[MAPPED])
        bars.append(at_least(f"mapped vs pyarrow decode, {what}", decoded, 15))
    return rows, bars


def _in_turn(read: Read, asked: list[np.ndarray], out: np.ndarray) -> Callable[[], object]:
    """Return a work that reads the next of the position lists at every call."""
    turns = itertools.cycle(asked)
    return lambda: read(next(turns), out)


def streamed(folder: Path, pairs: int, width: int, rounds: int) -> tuple[list[dict[str, Any]], list[Bar]]:
    """Measure the loader alone against a cold sequential read, and a fit within MEMORY."""
    shape = f"{pairs} pairs x {width}"
    store = build_store(folder / "streamed", pairs, width)
    rates = list(loader_rates(store, rounds))
    rows: list[dict[str, Any]] = []
    for how in ("sequential", "loader"):
        rate = statistics.median(one[how] for one in rates) / 1e9
        rows.append({"shape": shape, "read": "an epoch, cold", "how": how, "GB/s": rate})
    fit = bounded_fit(folder / "streamed", MEMORY)
    rate = fit["train_pairs"] / min(fit["epoch_seconds"])
    rows.append({"shape": shape, "how": f"fit with --memory {MEMORY}", "pairs/s": rate, **fit})
    share = statistics.median(one["loader"] / one["sequential"] for one in rates)
    return rows, [
        at_least(f"loader vs a cold sequential read, {shape}", share, 0.5),
        at_most(f"VmHWM with --memory {MEMORY}, GB, {shape}", fit["peak"] / 1e9, 6),
    ]


def main() -> None:
    """Run both parts, print and write their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes and two rounds: does it run")
    parser.add_argument("--full", action="store_true", help="stream 700,000 pairs instead of 100,000")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where the files go, and are removed from; default: a temp folder")
    parser.add_argument("--out", type=Path, default=BUILD / "cache.json")
    asked = parser.parse_args()
    count, width = (9000, 64) if asked.quick else (23_500, 3072)
    pairs = 3000 if asked.quick else 700_000 if asked.full else 100_000
    rounds = 2 if asked.quick else asked.rounds
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        rows, bars = reading(Path(name), count, width, rounds)
        figures, more = streamed(Path(name), pairs, width, min(rounds, STREAM_ROUNDS))
    report(asked.out, rows + figures, bars + more, quick=asked.quick, rounds=rounds)


if __name__ == "__main__":
    main()
