"""Several processes and a Ray cluster end as the same store as one process, whoever is killed."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from micropref.cache.datasets import open_dataset, read_table
from micropref.cache.errors import BadInput, Failure
from micropref.cache.maintenance.verify import verify
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.opening import only_features
from micropref.pipeline.embedding.embed import embed
from micropref.pipeline.embedding.embed_report import EmbedReport
from micropref.pipeline.forwarding.options import EmbedOptions, EngineOptions
from micropref.pipeline.forwarding.shards import Shard
from micropref.pipeline.forwarding.worker import Stored
from micropref.pipeline.sources.ingest import SourceOptions

ROOT = Path(__file__).resolve().parents[4]
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")


def make_rows(count: int) -> list[dict[str, str]]:
    return [
        {"prompt": f"What is {at}?", "chosen": f"It is {at}. " * 8, "rejected": f"No {at}! " * 6} for at in range(count)
    ]


@pytest.fixture
def run(
    tiny_backbone: Callable[..., Path], write_rows: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., EmbedReport]:
    """Return `run(store, engine, rows)`: an embed of many small shards."""
    monkeypatch.setattr("micropref.pipeline.embedding.shard_plan.SHARD_TOKENS", 2000)

    def run(store: StoreFolder, engine: EngineOptions, rows: int = 60) -> EmbedReport:
        options = EmbedOptions(backbone=str(tiny_backbone("llama")), dtype="float32", device="cpu")
        return embed(store, [write_rows(make_rows(rows))], "mine", SourceOptions(), options, engine)

    return run


def assert_same(store: StoreFolder, other: StoreFolder) -> None:
    """Two stores hold the same keys, once each, vectors that differ by rounding, and the same links."""
    one, two = only_features(store, None), only_features(other, None)
    keys = one.keys().to_pylist()
    assert len(keys) == len(set(keys))
    assert set(keys) == set(two.keys().to_pylist())
    series = pl.Series(keys, dtype=pl.Binary)
    found, expected = one.gather(one.locate(series)), two.gather(two.locate(series))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert {item.stem for item in one.commits} == {item.stem for item in two.commits}
    sets = open_dataset(store, "mine"), open_dataset(other, "mine")
    links = [data.links(data.parts[0], one.id) for data in sets]
    assert links[0] is not None
    assert links[1] is not None
    assert read_table(links[0], "links").equals(read_table(links[1], "links"))
    checked = verify(store)
    assert (checked.problems, checked.duplicate_vectors) == ([], 0)


def test_two_processes_store_what_one_stores(tmp_path: Path, run: Callable[..., EmbedReport]) -> None:
    one, two = StoreFolder(tmp_path / "one"), StoreFolder(tmp_path / "two")
    alone, together = run(one, EngineOptions()), run(two, EngineOptions(workers=2))
    assert len(only_features(one, None).commits) >= 5
    assert_same(two, one)
    same = ("features", "texts_embedded", "tokens_unique", "tokens_forwarded", "pass_name", "forward_flops")
    assert [getattr(together, name) for name in same] == [getattr(alone, name) for name in same]
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_a_killed_process_is_reported_and_the_next_run_goes_on(tmp_path: Path, run: Callable[..., EmbedReport]) -> None:
    one, two = StoreFolder(tmp_path / "one"), StoreFolder(tmp_path / "two")

    def kill() -> None:
        while not list(two.root.glob("features/*/shards/*.json")):  # a shard is stored once it is committed
            time.sleep(0.001)
        os.kill(min(child.pid for child in multiprocessing.active_children() if child.pid), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(Failure, match=r"worker process 0 ended with exit code -9; stored shards are kept"):
        run(two, EngineOptions(workers=2), 2000)
    killer.join()
    assert not (two.root / "datasets").exists()
    assert verify(two).problems == []
    again = run(two, EngineOptions(workers=2), 2000)
    assert 0 < again.texts_reused < again.texts
    run(one, EngineOptions(), 2000)
    assert_same(two, one)


def command(store: StoreFolder, source: Path, backbone: Path, *more: str) -> list[str]:
    code = (
        "from micropref.pipeline.embedding import shard_plan; shard_plan.SHARD_TOKENS = 2000; "
        "from micropref.cli import app; app()"
    )
    options = ["--name", "mine", "--backbone", str(backbone), "--store", str(store.root), "--dtype", "float32"]
    return [sys.executable, "-c", code, "embed", str(source), *options, "--device", "cpu", *more]


ENGINES = [["--workers", "2"], pytest.param(["--engine", "ray", "--workers", "2"], marks=needs_ray)]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES, ids=["processes", "ray"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_command_takes_its_workers_along_and_the_next_goes_on(
    tmp_path: Path,
    run: Callable[..., EmbedReport],
    write_rows: Callable[..., Path],
    tiny_backbone: Callable[..., Path],
    engine: list[str],
    how: signal.Signals,
) -> None:
    one, two = StoreFolder(tmp_path / "one"), StoreFolder(tmp_path / "two")
    source = write_rows(make_rows(2000))
    line = command(two, source, tiny_backbone("llama"), *engine)
    process = subprocess.Popen(line, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not list(two.root.rglob("*.parquet")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.001)
    if how == signal.SIGINT:
        os.killpg(process.pid, how)  # as a terminal does
    else:
        process.kill()
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == (130 if how == signal.SIGINT else -how)
    if how == signal.SIGINT:
        assert "stored; the same command again goes on from there" in stderr
        assert "Traceback" not in stderr
    count = -1
    while count != (count := len(list(two.root.rglob("*.parquet")))):
        time.sleep(3)  # workers without a command finish what they have
    assert not (two.root / "datasets").exists()
    assert verify(two).problems == []
    subprocess.run(line, cwd=ROOT, check=True, capture_output=True)
    run(one, EngineOptions(), 2000)
    assert_same(two, one)


@pytest.mark.slow
@needs_ray
@pytest.mark.filterwarnings("default")  # Ray's own
def test_ray_gives_a_killed_actors_shards_to_the_next(
    tmp_path: Path, run: Callable[..., EmbedReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    from micropref.pipeline.forwarding.engines import ray_cluster as ray_engine

    killed = tmp_path / "killed"

    class Fragile(ray_engine.Actor):
        def run(self, shard: Shard) -> Stored:
            stored = super().run(shard)
            if shard.number == 3 and not killed.exists():  # stored, but the command does not know
                killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return stored

    monkeypatch.setattr(ray_engine, "Actor", Fragile)
    one, two = StoreFolder(tmp_path / "one"), StoreFolder(tmp_path / "two")
    report = run(two, EngineOptions("ray", workers=2), 400)
    assert killed.exists()
    assert report.texts == 1200
    run(one, EngineOptions(), 400)
    assert_same(two, one)


@pytest.mark.slow
@needs_ray
@pytest.mark.filterwarnings("default")
def test_what_goes_wrong_in_a_ray_actor_is_reported_as_it_is_here(
    tmp_path: Path, run: Callable[..., EmbedReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    from micropref.pipeline.forwarding.engines import ray_cluster as ray_engine

    class Failing(ray_engine.Actor):
        def run(self, shard: Shard) -> Stored:
            raise Failure("disk full")

    monkeypatch.setattr(ray_engine, "Actor", Failing)
    with pytest.raises(Failure, match=r"^disk full$"):
        run(StoreFolder(tmp_path / "store"), EngineOptions("ray", workers=2))


@pytest.mark.slow
@needs_ray
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("address", ["auto", "127.0.0.1:1", "ray://127.0.0.1:1", "here:there"])
def test_an_address_without_a_cluster_is_bad_input(
    tmp_path: Path, run: Callable[..., EmbedReport], address: str
) -> None:
    with pytest.raises(
        BadInput, match=f"ray_address is '{address}': Ray does not connect .*give the address of a running"
    ):
        run(StoreFolder(tmp_path / "store"), EngineOptions("ray", ray_address=address))
