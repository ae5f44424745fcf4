"""Embeds that are killed, that meet a full or failing disk, that run next to others, and stores that rot."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from micropref.cache.atomic import TEMP_NAME
from micropref.cache.datasets import open_dataset, read_table
from micropref.cache.errors import Failure
from micropref.cache.maintenance.verify import verify
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.features import ROLE, Features
from micropref.cache.vectors.opening import only_features
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.embedding.embed import embed
from micropref.pipeline.forwarding.options import EmbedOptions
from micropref.pipeline.sources.ingest import SourceOptions
from tests.support.disk import Disk, Killed

ROOT = Path(__file__).resolve().parents[3]
SHARD_TOKENS = 200
"""So that a few short texts make several shards."""


@pytest.fixture
def run_embed(tiny_backbone: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Return `run(store, source, name, tokens_per_batch)`: the real embed, its backbone loaded once."""
    load = Backbone.load
    loaded: dict[int, Backbone] = {}

    def load_once(*_: object, **__: object) -> Backbone:
        """Load one backbone for each thread: a trunk forwards one batch at a time."""
        thread = threading.get_ident()
        if thread not in loaded:
            loaded[thread] = load(str(tiny_backbone("bert")), device="cpu", dtype="float32")
        return loaded[thread]

    monkeypatch.setattr("micropref.pipeline.backbone.backbone.Backbone.load", load_once)
    monkeypatch.setattr("micropref.pipeline.embedding.shard_plan.SHARD_TOKENS", SHARD_TOKENS)

    def run(store: StoreFolder, source: Path, name: str = "mine", tokens_per_batch: int | None = None) -> None:
        embed(store, [source], name, SourceOptions(), EmbedOptions("tiny", tokens_per_batch=tokens_per_batch))

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # forwards this small are all waiting for one another otherwise
    yield run
    torch.set_num_threads(threads)


def make_rows(start: int, stop: int) -> list[dict[str, str]]:
    return [
        {"prompt": f"What is {at}?", "chosen": f"It is {at}.", "rejected": f"No {at}" * 2, "user": "u"}
        for at in range(start, stop)
    ]


def vectors_of(features: Features) -> dict[bytes, Any]:
    """Return what readers find: key -> vector."""
    keys = list(dict.fromkeys(features.keys().to_pylist()))
    found = features.gather(features.locate(pl.Series(keys, dtype=pl.Binary)))
    return dict(zip(keys, found, strict=True))


def assert_same(store: StoreFolder, other: StoreFolder, name: str = "mine", *, copies: bool = False) -> None:
    """Two stores show their readers the same; `copies`: other batches, so the last bits and copies may differ."""
    one, two = only_features(store, None), only_features(other, None)
    found, expected = vectors_of(one), vectors_of(two)
    assert found.keys() == expected.keys()
    for key in expected:
        np.testing.assert_allclose(found[key], expected[key], rtol=0, atol=1e-5 if copies else 1e-6)
    assert copies or len(one.keys()) == len(expected)
    sets = open_dataset(store, name), open_dataset(other, name)
    parts, wanted = sets[0].parts, sets[1].parts
    assert [part.record for part in parts] == [part.record for part in wanted]
    for part, want in zip(parts, wanted, strict=True):
        assert read_table(part, "pairs").equals(read_table(want, "pairs"))
        links = [data.links(item, one.id) for data, item in zip(sets, (part, want), strict=True)]
        assert links[0] is not None
        assert links[1] is not None
        assert read_table(links[0], "links").equals(read_table(links[1], "links"))
    found_now = verify(store)
    assert found_now.problems == []
    assert copies or found_now.duplicate_vectors == 0


def crash_everywhere(
    tmp_path: Path, run: Callable[..., None], source: Path, chosen: Callable[[int], list[int | None]]
) -> list[str]:
    """Let every step fail in the ways `chosen` for it (errno, None: killed), resume, compare; return the steps."""
    whole = StoreFolder(tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        counting = Disk(whole.root)
        counting.install(patch)
        run(whole, source)
    assert len(only_features(whole, None).commits) >= 2
    for at, step in enumerate(counting.steps):
        for fault in chosen(at):
            store = StoreFolder(tmp_path / f"{at}-{fault}")
            with pytest.MonkeyPatch.context() as patch:
                disk = Disk(store.root, at, fault)
                disk.install(patch)
                with pytest.raises(Killed if fault is None else Failure) as caught:
                    run(store, source)
            assert disk.steps[at] == step
            assert verify(store).problems == []  # what is visible is whole before anything is repaired
            if fault is not None:
                assert os.strerror(fault) in str(caught.value)
                assert "\n" not in str(caught.value)
                assert [path for path in store.root.rglob("*") if TEMP_NAME.fullmatch(path.name)] == []
            with pytest.MonkeyPatch.context() as patch:
                Disk(store.root).install(patch)
                run(store, source)
            assert_same(store, whole)
    return counting.steps


@pytest.mark.parametrize("first", [0, *(pytest.param(at, marks=pytest.mark.slow) for at in range(1, 8))])
def test_a_fault_at_every_step_loses_nothing(
    tmp_path: Path, run_embed: Callable[..., None], write_rows: Callable[..., Path], first: int
) -> None:
    """Every eighth step, from the first, the second, ... on: by default an eighth of what the slow tests do."""
    source = write_rows(make_rows(0, 6))
    faults: tuple[int | None, ...] = (None, errno.ENOSPC, errno.EIO)
    steps = crash_everywhere(tmp_path, run_embed, source, lambda at: [faults[at % 3]] if at % 8 == first else [])
    assert set(steps) == {"mkdir", "open", "write", "read back", "fsync", "replace", "open folder"}
    assert len(steps) >= 88


@pytest.mark.slow
def test_every_fault_at_every_step_loses_nothing(
    tmp_path: Path, run_embed: Callable[..., None], write_rows: Callable[..., Path]
) -> None:
    source = write_rows(make_rows(0, 6))
    crash_everywhere(tmp_path, run_embed, source, lambda _: [None, errno.ENOSPC, errno.EIO])


@pytest.mark.parametrize("overlap", [12, 5])
def test_two_writers(
    tmp_path: Path, run_embed: Callable[..., None], write_rows: Callable[..., Path], overlap: int
) -> None:
    sources = write_rows(make_rows(0, 12), "a.jsonl"), write_rows(make_rows(12 - overlap, 24 - overlap), "b.jsonl")
    together, alone = StoreFolder(tmp_path / "together"), StoreFolder(tmp_path / "alone")
    start = threading.Barrier(2)

    def work(name: str, source: Path, tokens_per_batch: int) -> None:
        start.wait()
        run_embed(together, source, name, tokens_per_batch)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, "ab", sources, (64, 1024)))
    for name, source in zip("ab", sources, strict=True):
        run_embed(alone, source, name)
    for name in "ab":
        assert_same(together, alone, name, copies=True)


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data[:99] + b"rot" + data[102:], None])
def test_the_next_embed_repairs_damaged_shards(
    tmp_path: Path,
    run_embed: Callable[..., None],
    write_rows: Callable[..., Path],
    change: Callable[[bytes], bytes] | None,
) -> None:
    source = write_rows(make_rows(0, 6))
    store, whole = StoreFolder(tmp_path / "store"), StoreFolder(tmp_path / "whole")
    run_embed(store, source)
    run_embed(whole, source)
    for item in only_features(store, None).commits:
        path = item.path(ROLE)
        data = path.read_bytes()
        path.unlink()
        if change is not None:
            path.write_bytes(change(data))
    problems = verify(store).problems
    assert len(problems) >= 2
    run_embed(store, source)
    assert_same(store, whole)


COMMAND = """
import torch
from micropref.pipeline.embedding import shard_plan as text_plan
text_plan.SHARD_TOKENS = 1000
torch.set_num_threads(1)
from micropref.cli import app
app()
"""
"""The command line as it is, with small shards."""


def start_embed(
    store: StoreFolder, source: Path, backbone: Path, name: str = "mine", tokens_per_batch: int = 1024
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", COMMAND, "embed", str(source), "--name", name, "--backbone", str(backbone)]
    options = ["--store", str(store.root), "--tokens-per-batch", str(tokens_per_batch), "--device", "cpu"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with store.root.with_name(f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            [*command, *options, "--dtype", "float32"], cwd=ROOT, env=environment, stdout=log, stderr=log
        )


def kill_at_random(process: subprocess.Popen[bytes], store: StoreFolder, choose: random.Random) -> bool:
    """Kill a command some writes after its first, unless it ends before; say whether it was killed."""
    seen = len(list(store.root.rglob("*")))
    writes = choose.randrange(1, 12)
    while process.poll() is None and len(list(store.root.rglob("*"))) < seen + writes:
        time.sleep(0.001)
    time.sleep(choose.random() * 0.005)
    process.kill()
    code = process.wait()
    logs = [path.read_text()[-2000:] for path in store.root.parent.glob("*.log")]
    assert code in (0, -signal.SIGKILL), logs
    return code != 0


def acknowledged(store: StoreFolder) -> set[tuple[Path, bytes]]:
    """Return the commits there are."""
    return {(path, path.read_bytes()) for path in store.root.glob("*/*/**/*.json") if path.name.count(".") == 1}


@pytest.mark.slow
def test_a_hundred_kills_of_the_command_lose_nothing_acknowledged(
    tmp_path: Path, tiny_backbone: Callable[..., Path], write_rows: Callable[..., Path]
) -> None:
    source, backbone = write_rows(make_rows(0, 1500)), tiny_backbone("bert")
    whole = StoreFolder(tmp_path / "whole")
    assert start_embed(whole, source, backbone).wait() == 0
    choose = random.Random(5)
    kills = stores = 0
    while kills < 100:
        stores += 1
        store = StoreFolder(tmp_path / f"store-{stores}")
        before: set[tuple[Path, bytes]] = set()
        while kills < 100 and kill_at_random(start_embed(store, source, backbone), store, choose):
            kills += 1
            assert verify(store).problems == []
            assert before <= (before := acknowledged(store))
        assert start_embed(store, source, backbone).wait() == 0
        assert before <= acknowledged(store)
        assert_same(store, whole)


@pytest.mark.slow
def test_eight_writers_with_kills(
    tmp_path: Path,
    tiny_backbone: Callable[..., Path],
    run_embed: Callable[..., None],
    write_rows: Callable[..., Path],
) -> None:
    backbone, choose = tiny_backbone("bert"), random.Random(6)
    sources = [write_rows(make_rows(at * 100, at * 100 + 400), f"{at}.jsonl") for at in range(4)]
    together, alone = StoreFolder(tmp_path / "together"), StoreFolder(tmp_path / "alone")

    def start(number: int) -> subprocess.Popen[bytes]:
        return start_embed(together, sources[number // 2], backbone, f"w{number}", (64, 1024)[number % 2])

    kills = 0
    running = {number: start(number) for number in range(8)}
    while running:
        number = choose.choice(sorted(running))
        if kills < 24 and kill_at_random(running[number], together, choose):
            kills += 1
            running[number] = start(number)
        elif running[number].wait() == 0:
            del running[number]
    for number in range(8):
        run_embed(alone, sources[number // 2], f"w{number}")
    for number in range(8):
        assert_same(together, alone, f"w{number}", copies=True)
