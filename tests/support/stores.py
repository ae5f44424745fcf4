"""Stores of made-up vectors: two groups with opposite tastes, distinguished by their contexts."""

from __future__ import annotations

import itertools
import math
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from micropref.cache.commits import commit, write_table
from micropref.cache.runs.records import save_run
from micropref.cache.schemas import LINK_SCHEMA, PAIR_SCHEMA, RATING_SCHEMA
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.context_keys import add_context_keys
from micropref.cache.vectors.opening import planned_features
from micropref.pipeline.sources.splits import part_of

FIRST_RELEASE = Path(__file__).parents[1] / "data" / "store-0.1.0.tar.gz"
"""Pairs with contexts and users, ratings, three trained runs, a sweep, a routed and an adapted run."""
WIDTH = 16
GROUPS = ("a", "b", None)


def make_synthetic(
    store: StoreFolder,
    name: str = "toy",
    prompts: int = 400,
    seed: int = 0,
    context: bool = True,
    users: int = 0,
    ratings: bool = False,
    reward_head: bool = False,
    shards: int = 1,
    wordings: int = 0,
    topics: bool = False,
) -> str:
    """Write vectors, pairs and links of two opposite groups and some unlabelled pairs; return the features id.

    Each group has `users`; `ratings` are rewards by the groups' tastes; group a's taste is the backbone's own head.
    With `wordings` each group's context comes in so many, near each other; with `topics` all have the taste of group a
    on half of the prompts, which lie apart.
    """
    rng = np.random.default_rng(seed)
    worded = np.random.default_rng(seed + 1)
    taste = rng.normal(size=WIDTH)
    wording = {"a": rng.normal(size=WIDTH), "b": rng.normal(size=WIDTH), None: rng.normal(size=WIDTH)}
    features = planned_features(store, {"width": WIDTH, "store_dtype": "float32", "max_length": 8})
    features.create({"name": "synthetic"}, taste[None].astype(np.float32) if reward_head else None)
    keys: list[bytes] = []
    vectors: list[np.ndarray] = []

    def add(vector: np.ndarray) -> bytes:
        keys.append(len(keys).to_bytes(16, "big"))
        vectors.append(vector)
        return keys[-1]

    pairs: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    links: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    rated: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for prompt in range(prompts):
        split = "test" if prompt % 4 == 0 else "train"
        prompt_id = f"{prompt * 2654435761 % 2**32:032x}"
        shared = topics and worded.random() < 0.5
        prompt_key = add(rng.normal(size=WIDTH) + topics * (6 if shared else -6) * np.eye(WIDTH)[0])
        for group in GROUPS:
            first, second = rng.normal(size=(2, WIDTH))
            sign = -1 if group == "b" and not shared else 1
            said = f"{group}{prompt % wordings}" if wordings and group else group
            likes_first = rng.random() < 1 / (1 + math.exp(-3 * sign * float((first - second) @ taste)))
            chosen, rejected = (first, second) if likes_first else (second, first)
            pair_id = f"{len(keys):032x}-0"
            user = f"{group}{prompt % users}" if users and group else None
            ids = [f"{len(keys):031x}{side}" for side in "cr"]
            for response_id, response in zip(ids, (chosen, rejected), strict=True):
                row = {"data": name, "split": split, "prompt_id": prompt_id, "response_id": response_id}
                rated[split] += [
                    row | {"attribute": like, "rating": float(response @ taste) * (-1 if like == "b" else 1)}
                    for like in ("a", "b")
                ]
            pairs[split].append(
                {
                    "data": name, "split": split, "part": part_of(split, prompt_id), "pair_id": pair_id,
                    "prompt_id": prompt_id, "attribute": group, "context": said if context else None, "user": user,
                    "prompt": "p", "chosen": "c", "rejected": "r", "margin": None,
                    "chosen_id": ids[0], "rejected_id": ids[1],
                }
            )  # fmt: skip
            links[split].append(
                {
                    "pair_id": pair_id, "prompt_key": prompt_key,
                    "context_key": add(wording[group] + rng.normal(size=WIDTH) / 4) if context and group else None,
                    "chosen_key": add(chosen), "rejected_key": add(rejected), "chosen_context_key": None,
                    "rejected_context_key": None, "prompt_tokens": 1, "chosen_tokens": 2, "rejected_tokens": 2,
                    "trimmed": False,
                }
            )  # fmt: skip
    said_by = {row["context"]: row["attribute"] for split in pairs for row in pairs[split] if row["context"]}
    spread = 1 / 4 if wordings else 0
    alone = {said: add(wording[said_by[said]] + spread * worded.normal(size=WIDTH)) for said in sorted(said_by)}
    cuts = np.linspace(0, len(keys), shards + 1).astype(int)
    for start, stop in itertools.pairwise(cuts.tolist()):
        features.write_shard(keys[start:stop], np.array(vectors[start:stop]), {})
    add_context_keys(features, alone)
    folder = store.dataset(name)
    for split in pairs:
        table = pa.Table.from_pylist(pairs[split], PAIR_SCHEMA)
        file = write_table(folder / "pairs", f"{split}-0001-x", "pairs", table)
        record = {"split": split, "ordinal": 1, "source": "made.jsonl", "digest": "0", "shape": "preference",
                  "limit": None}  # fmt: skip
        files = {"pairs": file}
        if ratings:
            rows = pa.Table.from_pylist(rated[split], RATING_SCHEMA)
            files["ratings"] = write_table(folder / "pairs", f"{split}-0001-x", "ratings", rows)
        part = commit(folder / "pairs", f"{split}-0001-x", files, record)
        links_folder = folder / "links" / features.id
        linked = write_table(links_folder, part.stem, "links", pa.Table.from_pylist(links[split], LINK_SCHEMA))
        commit(links_folder, part.stem, {"links": linked}, {"pairs_digest": file.digest, "responses": "plain"})
    return features.id


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Return `synthetic(store, ...)`, which fills a store and returns the features id: made once, then copied."""
    made: dict[tuple[Any, ...], tuple[Path, str]] = {}

    def fill(store: StoreFolder, *words: Any, **options: Any) -> str:
        asked = (words, *sorted(options.items()))
        if asked not in made:
            folder = tmp_path_factory.mktemp("synthetic")
            made[asked] = folder, make_synthetic(StoreFolder(folder), *words, **options)
        folder, features = made[asked]
        shutil.copytree(folder, store.root, dirs_exist_ok=True)
        return features

    return fill


def make_planted_run(store: StoreFolder, features: str, k: int = 3, **changes: Any) -> str:
    """Save a run on seed 0's data: heads with the taste of group a, that of b, and noise; static weights."""
    taste = np.random.default_rng(0).normal(size=WIDTH)
    heads = torch.tensor(np.stack([2 * taste, -2 * taste, taste[::-1] / 2]), dtype=torch.float32)[:k]
    tensors = {"heads": heads, "static": torch.tensor([0.5, 0.3, 0.2][:k]).log()}
    settings = {"router_input": "prompt", "reward_input": "plain"}
    record = {"parent": None, "method": "static", "data": "toy", "features": features, "k": k, "settings": settings}
    figures = dict.fromkeys(("lam", "seed", "created", "validation_nll", "validation_accuracy", "train_pairs"))
    return save_run(store, "planted", {**record, **figures, "data_digest": "0", **changes}, tensors).id


@pytest.fixture
def planted_run() -> Callable[..., str]:
    """Return `planted_run(store, features, ...)`, which saves the run `planted` and returns its id."""
    return make_planted_run


def first_release_store(folder: Path) -> Path:
    """Lay out the store that the first release wrote, and return its folder."""
    with tarfile.open(FIRST_RELEASE) as archive:
        archive.extractall(folder, filter="data")
    return folder / "s"
