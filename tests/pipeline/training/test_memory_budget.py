"""`train` and `sweep` on streamed pairs against the same in memory, and what `--memory` allows."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from micropref.cache.errors import BadInput
from micropref.cache.runs.records import open_run
from micropref.cache.store import StoreFolder
from micropref.cache.vectors import pair_stream
from micropref.heads.fitting.settings import FitPlan, FitSetting
from micropref.pipeline.training import memory_budget as memory
from micropref.pipeline.training.memory_budget import default_memory
from micropref.pipeline.training.sweep import Grid, sweep
from micropref.pipeline.training.train import TrainOptions, train

Synthetic = Callable[..., str]
SETTING = FitSetting("mixture", 2, lam=0.1, hidden=8, lr=2e-2)
PLAN = FitPlan(epochs=8, batch=64, dtype="float32", device="cpu")


@pytest.fixture
def streaming(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make pairs stream, in many blocks and windows, however few they are."""
    monkeypatch.setattr(memory.Budget, "holds", lambda *_: False)
    monkeypatch.setattr(pair_stream, "BLOCK_BYTES", 10 * 3 * 64)
    monkeypatch.setattr(pair_stream, "WINDOW_BYTES", 160 * 3 * 64)


@pytest.mark.parametrize(
    "options",
    [
        TrainOptions(restarts=4, projection=12, prune=0.95),
        pytest.param(TrainOptions(restarts=4), marks=pytest.mark.slow),
    ],
)
def test_streamed_and_in_memory_agree(
    store: StoreFolder, synthetic: Synthetic, request: pytest.FixtureRequest, options: TrainOptions
) -> None:
    synthetic(store, prompts=2000, shards=9)
    whole = train(store, "toy", SETTING, PLAN, options)
    request.getfixturevalue("streaming")
    streamed = train(store, "toy", SETTING, PLAN, options)
    assert (whole.record["streamed"], streamed.record["streamed"]) == (False, True)
    assert whole.run != streamed.run
    for name in ("train_pairs", "validation_pairs", "pairs_without_context", "data_digest"):
        assert whole.record[name] == streamed.record[name]
    assert streamed.record["validation_nll"] == pytest.approx(whole.record["validation_nll"], abs=0.005)
    assert streamed.record["validation_nll"] < 0.55
    assert streamed.record["validation_nll_se"] == pytest.approx(whole.record["validation_nll_se"], rel=0.05)


@pytest.mark.usefixtures("streaming")
def test_the_same_streamed_fit_has_the_same_weights(store: StoreFolder, synthetic: Synthetic) -> None:
    synthetic(store, shards=5)
    plan = replace(PLAN, epochs=2)
    first = train(store, "toy", SETTING, plan, TrainOptions(restarts=2))
    weights = open_run(store, first.run).tensors()
    again = train(store, "toy", SETTING, plan, TrainOptions(restarts=2))
    assert again.run == first.run
    for name, part in open_run(store, again.run).tensors().items():
        assert torch.equal(part, weights[name])
    other = train(store, "toy", SETTING, replace(plan, data_seed=1), TrainOptions(restarts=2))
    assert other.record["validation_nll"] != first.record["validation_nll"]


def test_a_sweep_streams_too(store: StoreFolder, synthetic: Synthetic, request: pytest.FixtureRequest) -> None:
    synthetic(store, shards=5)
    grid, options = Grid((1, 2), (0.1,)), TrainOptions(restarts=2)
    whole = sweep(store, "toy", grid, SETTING, PLAN, options)
    request.getfixturevalue("streaming")
    streamed = sweep(store, "toy", grid, SETTING, PLAN, options)
    assert streamed.record["streamed"]
    assert [one["k"] for one in streamed.leaderboard] == [one["k"] for one in whole.leaderboard]
    for ours, theirs in zip(streamed.by_k, whole.by_k, strict=True):
        assert ours.nll == pytest.approx(theirs.nll, abs=0.02)


@pytest.mark.usefixtures("streaming")
def test_lbfgs_cannot_be_streamed(store: StoreFolder, synthetic: Synthetic) -> None:
    synthetic(store)
    with pytest.raises(BadInput, match=r"solver lbfgs .* do not fit .* raise `memory`"):
        train(store, "toy", FitSetting("single", 1), replace(PLAN, solver="lbfgs"), TrainOptions())


def test_memory_decides(store: StoreFolder, synthetic: Synthetic, monkeypatch: pytest.MonkeyPatch) -> None:
    synthetic(store, prompts=4000)
    plan = replace(PLAN, epochs=1)
    run = [train(store, "toy", SETTING, plan, TrainOptions(restarts=1, memory=size)) for size in (3 * 10**9, None)]
    assert [one.record["streamed"] for one in run] == [False, False]
    with pytest.raises(BadInput, match=r"memory is 300MB: \d+ pairs of width 16 need") as caught:
        train(store, "toy", SETTING, plan, TrainOptions(restarts=1, memory=300 * 10**6))
    needed = re.search(r"give `memory` ([\d.]+GB)", str(caught.value))
    assert needed is not None
    # With small windows a stream takes less than the tensors, and the sizes in between mean that.
    monkeypatch.setattr(memory, "WINDOW_BYTES", 1 << 16)
    monkeypatch.setattr(memory, "BLOCK_BYTES", 1 << 13)
    monkeypatch.setattr(memory, "BASE", 0)
    monkeypatch.setattr(memory, "PAIR_BYTES", 0)
    monkeypatch.setattr(memory, "VECTOR_BYTES", 0)
    tight = train(store, "toy", SETTING, plan, TrainOptions(restarts=1, memory=15 * 10**5))
    assert tight.record["streamed"]


@pytest.mark.skipif(not Path("/proc/meminfo").is_file(), reason="reads Linux's own figure")
def test_the_default_is_a_share_of_the_machine() -> None:
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    assert 10**8 < default_memory() <= 0.6 * int(total.split()[1]) * 1024 + 1
