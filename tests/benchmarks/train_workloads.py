"""What the training benchmark times: the loop one writes first, the batched fit, its products; and a store to sweep.

Letters: N pairs, D embedding width, G settings.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import DataLoader, TensorDataset

from micropref.cache.commits import commit, write_table
from micropref.cache.schemas import LINK_SCHEMA, PAIR_SCHEMA
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.opening import planned_features
from micropref.heads.fitting.fit import CHUNK_SETTINGS, FitPlan, FitSetting, PairTensors
from micropref.heads.fitting.hardware import resolve_device, resolve_dtype
from micropref.heads.fitting.initial_weights import initial_weights
from micropref.heads.fitting.minibatches import Feed, batch_size
from micropref.heads.fitting.scales import training_scales
from micropref.heads.fitting.solvers import AdamW
from micropref.heads.fitting.stacked_weights import Stack
from micropref.pipeline.sources.splits import part_of
from tests.support.populations import dense

K, HIDDEN = 5, 128
HELPSTEER2 = (6724, 6298, 3708, 2168, 4584)
"""Train pairs of each attribute (helpfulness, correctness, coherence, complexity, verbosity), ties and unanimous ones
left out,"""
HELPSTEER2_PROMPTS = 10_162
"""of so many prompts with two responses each."""
PLAIN_BATCH = 64
DEVICE = resolve_device("auto")
DTYPE = resolve_dtype("auto", DEVICE, "adamw")


def of_shared_prompts(pairs: PairTensors, part: int) -> PairTensors:
    """Return pairs that share their prompts as HelpSteer2's do, or one part in so many of it, prompt by prompt.

    Each attribute draws its prompts by itself, so more prompts have pairs than where ratings go together.
    """
    generator = torch.Generator().manual_seed(0)
    prompts = HELPSTEER2_PROMPTS // part
    drawn = torch.cat([torch.randperm(prompts, generator=generator)[: count // part] for count in HELPSTEER2])
    found, rows = torch.unique(drawn.sort().values, return_inverse=True)
    assert pairs.router is not None
    return PairTensors(pairs.delta[: len(rows)], pairs.router[: len(found)], router_rows=rows)


class PlainModel(torch.nn.Module):
    """What one writes first: a list of linear heads and a small router."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = torch.nn.ModuleList(torch.nn.Linear(width, 1, bias=False) for _ in range(K))
        self.router = torch.nn.Sequential(torch.nn.Linear(width, HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, K))

    def forward(self, delta: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        margins = torch.cat([head(delta) for head in self.heads], 1)
        log_weights = torch.log_softmax(self.router(context), 1)
        log_p = torch.logsumexp(log_weights + torch.nn.functional.logsigmoid(margins), 1)
        return -log_p.mean() + 0.1 * (log_weights.exp() * log_weights).sum(1).mean()


def plain_loop(pairs: PairTensors) -> Callable[[], object]:
    """Return an epoch of the plain loop: DataLoader, autograd, AdamW, float32."""
    pairs = dense(pairs)
    assert pairs.router is not None
    scales = training_scales(pairs)
    model = PlainModel(pairs.width).to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    data = TensorDataset(pairs.delta / scales.delta, (pairs.router - scales.centre.float()) / scales.router)
    loader = DataLoader(data, PLAIN_BATCH, shuffle=True, generator=torch.Generator().manual_seed(0))

    def epoch() -> None:
        for delta, context in loader:
            optimizer.zero_grad()
            model(delta.to(DEVICE), context.to(DEVICE)).backward()
            optimizer.step()

    return epoch


def batched(pairs: PairTensors, settings: int, batch: int) -> Callable[[], object]:
    """Return an epoch of the batched fit, in its chunks."""
    width, plan, scales = pairs.width, FitPlan(epochs=1000, batch=batch), training_scales(pairs)
    every = [FitSetting("mixture", K, hidden=HIDDEN, seed=seed) for seed in range(settings)]
    solvers = []
    for start in range(0, settings, CHUNK_SETTINGS):
        chunk = every[start : start + CHUNK_SETTINGS]
        weights = [
            {name: part.to(DEVICE) for name, part in initial_weights(one, width, width, torch.float32).items()}
            for one in chunk
        ]
        stack = Stack(chunk, weights, scales, pairs.pairs, DTYPE)
        feed = Feed(pairs, True, batch_size(pairs.pairs, batch), DTYPE, DEVICE)
        solvers.append(AdamW(stack, feed, plan))

    @torch.no_grad()
    def epoch() -> None:
        for solver in solvers:
            solver.epoch().tolist()

    return epoch


def products(width: int, batch: int) -> dict[str, Callable[[], object]]:
    """Return the large products of a step of CHUNK_SETTINGS settings, each of the same number of operations."""
    rows = CHUNK_SETTINGS * (K + HIDDEN)
    shapes = (rows, width), (batch, width), (rows, batch)
    weights, pairs, slopes = (torch.randn(*shape).to(DEVICE, DTYPE) for shape in shapes)

    def repeated(product: Callable[[], object]) -> Callable[[], object]:
        def call() -> None:
            for _ in range(4):
                product()
            if DEVICE.type == "cuda":
                torch.cuda.synchronize()

        return call

    return {
        "forward product": repeated(lambda: torch.mm(weights, pairs.T)),
        "backward product": repeated(lambda: torch.mm(slopes, pairs)),
    }


def write_store(store: StoreFolder, name: str, pairs: PairTensors) -> None:
    """Write the pairs' vectors, in float16, and links as `embed` would, one prompt for each pair."""
    assert pairs.router is not None
    features = planned_features(store, {"width": pairs.width, "store_dtype": "float16", "max_length": 8})
    features.create({"name": "planted"}, None)
    generator = torch.Generator().manual_seed(0)
    made, linked = [], []
    for place, (delta, router) in enumerate(zip(pairs.delta.split(4096), pairs.router.split(4096), strict=True)):
        rejected = torch.randn(delta.shape, generator=generator)
        vectors = torch.stack([router, rejected + delta, rejected], 1).view(-1, pairs.width)
        first = 3 * 4096 * place
        keys = [number.to_bytes(16, "big") for number in range(first, first + len(vectors))]
        features.write_shard(keys, vectors.numpy().astype(np.float16), {})
        for row in range(len(delta)):
            prompt, chosen, rejected_key = keys[3 * row : 3 * row + 3]
            prompt_id = f"{first + row:032x}"
            of_pair = {"data": name, "split": "train", "part": part_of("train", prompt_id), "prompt_id": prompt_id}
            made.append({**of_pair, "pair_id": f"{prompt_id}-0", "prompt": "p", "chosen": "c", "rejected": "r"})
            links = {"prompt_key": prompt, "chosen_key": chosen, "rejected_key": rejected_key, "trimmed": False}
            linked.append({"pair_id": f"{prompt_id}-0", **links})
    folder = store.dataset(name)
    file = write_table(folder / "pairs", "train-0001-x", "pairs", pa.Table.from_pylist(made, PAIR_SCHEMA))
    record = {"split": "train", "ordinal": 1, "source": "planted", "digest": "0", "shape": "preference", "limit": None}
    commit(folder / "pairs", "train-0001-x", {"pairs": file}, record)
    place_of_links = folder / "links" / features.id
    table = write_table(place_of_links, "train-0001-x", "links", pa.Table.from_pylist(linked, LINK_SCHEMA))
    commit(place_of_links, "train-0001-x", {"links": table}, {"pairs_digest": file.digest, "responses": "plain"})
