"""Streaming pairs from disk, for the benchmark of the cache: a made-up store, its loader, a fit within bounds.

N pairs, D embedding width. Two pairs of different responses share each prompt, so a store holds 2.5 N vectors.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from micropref.cache.commits import commit, write_table
from micropref.cache.datasets import open_dataset
from micropref.cache.schemas import LINK_SCHEMA, PAIR_SCHEMA
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.features import Features
from micropref.cache.vectors.opening import open_features, planned_features
from micropref.cache.vectors.pair_features import locate_pairs
from micropref.cache.vectors.pair_stream import PairStream, stream_pairs
from micropref.heads.fitting.hardware import resolve_dtype
from micropref.heads.fitting.pair_source import open_feed
from micropref.heads.fitting.settings import FitPlan, FitProgress, FitSetting
from micropref.pipeline.api.values import size
from micropref.pipeline.sources.splits import part_of
from micropref.pipeline.training.train import TrainOptions, train

NAME = "simulated"
PROMPTS_OF_A_SHARD = 100
"""500 texts: what 131,072 tokens hold of texts of 260."""
BATCH = 2048
CPU = torch.device("cpu")


def build_store(root: Path, pairs: int, width: int) -> StoreFolder:
    """Write a store of `pairs` float16 pairs, chosen by one taste."""
    store = StoreFolder(root)
    features = planned_features(store, {"width": width, "store_dtype": "float16"})
    features.create({}, None)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(1 << 22, dtype=np.float32).astype(np.float16)
    taste = rng.standard_normal(width).astype(np.float32) / np.float32(np.sqrt(width))
    prompts = pairs // 2
    chosen_first = np.empty(2 * prompts, dtype=bool)
    for start in range(0, prompts, PROMPTS_OF_A_SHARD):
        count = min(PROMPTS_OF_A_SHARD, prompts - start)
        offsets = rng.integers(len(noise) - width, size=5 * count)
        # Rows are windows of one long noise array: made as fast as memory allows.
        vectors = np.lib.stride_tricks.sliding_window_view(noise, width)[offsets]
        keys = [key(start + row // 5, row % 5) for row in range(5 * count)]
        features.write_shard(keys, vectors, {})
        rewards = vectors.astype(np.float32) @ taste
        responses = rewards.reshape(count, 5)[:, 1:].reshape(count, 2, 2)
        likes_first = rng.random((count, 2)) < 1 / (1 + np.exp(2 * (responses[:, :, 1] - responses[:, :, 0])))
        chosen_first[2 * start : 2 * (start + count)] = likes_first.reshape(-1)
    _write_tables(store, features.id, chosen_first)
    return store


def key(prompt: int, text: int) -> bytes:
    """Return the key of a prompt (text 0) or of one of its four responses, two for each of its pairs."""
    return (5 * prompt + text).to_bytes(16, "big")


def _write_tables(store: StoreFolder, features_id: str, chosen_first: np.ndarray) -> None:
    count = len(chosen_first)
    prompt, second = np.divmod(np.arange(count), 2)
    prompt_ids = [hashlib.sha256(str(number).encode()).hexdigest()[:32] for number in range(count // 2)]
    ids = [f"{number:032x}-0" for number in range(count)]
    texts = {name: [name] * count for name in ("prompt", "chosen", "rejected")}
    columns = {
        **texts,
        "data": [NAME] * count,
        "split": ["train"] * count,
        "part": [part_of("train", prompt_ids[number]) for number in prompt],
        "pair_id": ids,
        "prompt_id": [prompt_ids[number] for number in prompt],
    }
    pairs = pa.table({field.name: columns.get(field.name, pa.nulls(count, field.type)) for field in PAIR_SCHEMA})
    first, other = 1 + 2 * second, 2 + 2 * second
    keys = {
        "prompt_key": prompt * 5,
        "chosen_key": prompt * 5 + np.where(chosen_first, first, other),
        "rejected_key": prompt * 5 + np.where(chosen_first, other, first),
    }
    linked: dict[str, Any] = {
        name: pa.array([number.to_bytes(16, "big") for number in numbers.tolist()], pa.binary(16))
        for name, numbers in keys.items()
    }
    linked |= {"pair_id": ids, "trimmed": [False] * count}
    links = pa.table({field.name: linked.get(field.name, pa.nulls(count, field.type)) for field in LINK_SCHEMA})
    folder, stem = store.dataset(NAME), "train-0001-x"
    file = write_table(folder / "pairs", stem, "pairs", pairs.cast(PAIR_SCHEMA))
    record = {
        "split": "train",
        "ordinal": 1,
        "source": "simulated",
        "digest": "0",
        "shape": "preference",
        "limit": None,
    }
    commit(folder / "pairs", stem, {"pairs": file}, record)
    links_folder = folder / "links" / features_id
    table = write_table(links_folder, stem, "links", links.cast(LINK_SCHEMA))
    commit(links_folder, stem, {"links": table}, {"pairs_digest": file.digest, "responses": "plain"})


def open_stream(store: StoreFolder) -> PairStream:
    """Return the pairs to fit as a stream; every shard's digest is checked here, once, and not while it is measured."""
    dataset = open_dataset(store, NAME)
    features = open_features(store, dataset.linked_features()[0])
    stream = stream_pairs(locate_pairs(dataset, features, "train", router_input="prompt").part("fit"))
    features.gather(np.array([features.start_of(item) for item in features.commits]))
    return stream


def vector_files(features: Features) -> list[Path]:
    """Return the shards' files in the order of their names."""
    return [item.path("vectors") for item in features.commits]


def forget(files: list[Path]) -> None:
    """Drop the files from the page cache."""
    for path in files:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_through(files: list[Path]) -> int:
    """Read the files one after the other, 8 MiB at a time; return their bytes."""
    buffer, total = bytearray(8 << 20), 0
    for path in files:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                total += count
    return total


def load_epoch(stream: PairStream, seed: int) -> None:
    """Make all minibatches of an epoch and use none."""
    feed = open_feed(stream, True, BATCH, resolve_dtype("auto", CPU, "adamw"), CPU)
    pairs = sum(len(batch.delta) for batch in feed.shuffled(torch.Generator().manual_seed(seed)))
    assert pairs > stream.pairs - BATCH


def loader_rates(store: StoreFolder, rounds: int) -> Iterator[dict[str, float]]:
    """Yield the bytes per second of a cold sequential read and of the loader, cold too, round by round."""
    stream = open_stream(store)
    located = stream.located
    files = vector_files(located.features)
    used = len(np.unique(np.concatenate([located.chosen, located.rejected, located.router.first])))
    for number in range(rounds):
        forget(files)
        start = time.perf_counter()
        size = read_through(files)
        read = time.perf_counter()
        forget(files)
        again = time.perf_counter()
        load_epoch(stream, number)
        loaded = time.perf_counter()
        yield {"sequential": size / (read - start), "loader": used * located.features.row_bytes / (loaded - again)}


def bounded_fit(root: Path, memory: str) -> dict[str, Any]:
    """Train in a process of its own and return its peak memory, its epochs' seconds and what it found."""
    command = [sys.executable, __file__, str(root), memory]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, env={**os.environ}).stdout
    found: dict[str, Any] = json.loads(output)
    return found


def _child(root: Path, memory: str) -> None:
    ends = [time.perf_counter()]

    def progress(_: FitProgress) -> None:
        ends.append(time.perf_counter())

    plan = FitPlan(epochs=2, batch=BATCH, patience=0)
    options = TrainOptions(restarts=8, memory=size(memory))
    done = train(StoreFolder(root), NAME, FitSetting("mixture", 5), plan, options, progress)
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    record = {name: done.record[name] for name in ("streamed", "train_pairs", "validation_pairs", "validation_nll")}
    record |= {"settings": options.restarts, "peak": int(peak.split()[1]) * 1024}
    record["seconds"] = time.perf_counter() - ends[0]
    record["epoch_seconds"] = [end - start for start, end in itertools.pairwise(ends[1:])]
    print(json.dumps(record))


if __name__ == "__main__":
    _child(Path(sys.argv[1]), sys.argv[2])
