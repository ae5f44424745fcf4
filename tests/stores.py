"""Stores of made-up vectors: two groups with opposite tastes, told apart by their contexts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cache.commits import commit, write_table
from cache.datasets import LINK_SCHEMA, PAIR_SCHEMA
from cache.store import Store
from cache.vectors import planned_features
from pipeline.splits import part_of

WIDTH = 16
GROUPS = ("a", "b", None)


def make_synthetic(store: Store, name: str = "toy", prompts: int = 400, seed: int = 0, context: bool = True) -> str:
    """Write vectors, pairs and links of two opposite groups and some unlabelled pairs; return the features id."""
    draw = np.random.default_rng(seed)
    taste = draw.normal(size=WIDTH)
    wording = {"a": draw.normal(size=WIDTH), "b": draw.normal(size=WIDTH), None: draw.normal(size=WIDTH)}
    features = planned_features(store, {"width": WIDTH, "store_dtype": "float32", "max_length": 8})
    features.create({"name": "synthetic"}, None)
    keys: list[bytes] = []
    vectors: list[np.ndarray] = []

    def add(vector: np.ndarray) -> bytes:
        keys.append(len(keys).to_bytes(16, "big"))
        vectors.append(vector)
        return keys[-1]

    pairs: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    links: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for prompt in range(prompts):
        split = "test" if prompt % 4 == 0 else "train"
        prompt_id = f"{prompt * 2654435761 % 2**32:032x}"
        for group in GROUPS:
            first, second = draw.normal(size=(2, WIDTH))
            sign = -1 if group == "b" else 1
            likes_first = draw.random() < 1 / (1 + math.exp(-3 * sign * float((first - second) @ taste)))
            chosen, rejected = (first, second) if likes_first else (second, first)
            pair_id = f"{len(keys):032x}-0"
            pairs[split].append(
                {
                    "data": name, "split": split, "part": part_of(split, prompt_id), "pair_id": pair_id,
                    "prompt_id": prompt_id, "attribute": group, "context": group if context else None, "user": None,
                    "prompt": "p", "chosen": "c", "rejected": "r", "margin": None,
                }
            )  # fmt: skip
            links[split].append(
                {
                    "pair_id": pair_id, "prompt_key": add(draw.normal(size=WIDTH)),
                    "context_key": add(wording[group] + draw.normal(size=WIDTH) / 4) if context and group else None,
                    "chosen_key": add(chosen), "rejected_key": add(rejected), "chosen_context_key": None,
                    "rejected_context_key": None, "prompt_tokens": 1, "chosen_tokens": 2, "rejected_tokens": 2,
                    "trimmed": False,
                }
            )  # fmt: skip
    features.write_shard(keys, np.array(vectors), {})
    folder = store.dataset(name)
    for split in pairs:
        table = pa.Table.from_pylist(pairs[split], PAIR_SCHEMA)
        file = write_table(folder / "pairs", f"{split}-0001-x", "pairs", table)
        record = {"split": split, "ordinal": 1, "source": "made.jsonl", "digest": "0", "shape": "preference",
                  "limit": None}  # fmt: skip
        part = commit(folder / "pairs", f"{split}-0001-x", {"pairs": file}, record)
        links_folder = folder / "links" / features.id
        linked = write_table(links_folder, part.stem, "links", pa.Table.from_pylist(links[split], LINK_SCHEMA))
        commit(links_folder, part.stem, {"links": linked}, {"pairs_digest": file.digest, "responses": "plain"})
    return features.id


@pytest.fixture
def synthetic() -> Callable[..., str]:
    """Return `synthetic(store, ...)`, which fills a store and returns the features id."""
    return make_synthetic
