"""Engines and workers: shards handed to several threads are all stored, or end in one clear error."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from micropref.cache.errors import BadInput, Failure, Interrupted
from micropref.cache.store import StoreFolder
from micropref.pipeline.embedding.embed import embed
from micropref.pipeline.forwarding import forwarder as forward
from micropref.pipeline.forwarding.engines import processes as process_engine
from micropref.pipeline.forwarding.engines.base import Slot, drive
from micropref.pipeline.forwarding.engines.choose import choose_engine
from micropref.pipeline.forwarding.engines.in_process import InProcess
from micropref.pipeline.forwarding.engines.processes import ProcessEngine
from micropref.pipeline.forwarding.options import EmbedOptions, EngineOptions
from micropref.pipeline.forwarding.passes import PackedPass
from micropref.pipeline.forwarding.shards import Demand, Shard
from micropref.pipeline.forwarding.worker import Advance, Job, Stopped, Stored, Worker
from micropref.pipeline.sources.ingest import SourceOptions
from micropref.pipeline.text.tokens import Tokens


def shard(number: int, *lengths: int) -> Shard:
    tokens = [Tokens(np.full(length, 5, dtype=np.int32)) for length in lengths or (3,)]
    keys = [bytes([number, at]) * 8 for at in range(len(tokens))]
    return Shard(
        number, keys, tokens, [number] * len(tokens), ["row"] * len(tokens), np.zeros((2, 0), dtype=np.int64), True
    )


@dataclass
class FakePool:
    """Slots given by the test."""

    slots: Sequence[Slot]
    stopped: threading.Event = field(default_factory=threading.Event)

    def stop(self) -> None:
        self.stopped.set()


def no_progress(tokens: int) -> None:
    pass


def silence(line: str) -> None:
    pass


def test_all_shards_are_stored_once_and_counted() -> None:
    def slot(one: Shard, advance: Advance) -> Stored:
        advance(one.size)
        return Stored(one.number, Demand(1, 2, 3), 4, f"pass {one.number % 2}", one.number / 10, ("a note",))

    counted: list[int] = []
    announced: list[str] = []
    shards = [shard(number) for number in range(50)]
    found = drive(FakePool([slot] * 3), iter(shards), counted.append, announced.append)
    assert (found.demand, found.forwarded_tokens) == (Demand(50, 100, 150), 200)
    assert found.pass_names == ("pass 0", "pass 1")
    assert found.delta_error == 0.0  # the first shard's, whoever was first
    assert sum(counted) == 150
    assert announced == ["a note"]


def test_a_shard_is_planned_while_another_is_read_and_no_more_than_there_are_slots() -> None:
    planned = 0
    both = threading.Barrier(2, timeout=10)

    def shards() -> Iterator[Shard]:
        nonlocal planned
        for number in range(4):
            planned += 1
            yield shard(number)

    def slot(one: Shard, advance: Advance) -> Stored:
        if one.number < 2:
            both.wait()  # here only if the second was planned while the first is under way
            assert planned == 2
            both.wait()
        return Stored(one.number)

    drive(FakePool([slot] * 2), shards(), no_progress, silence)
    assert planned == 4


@pytest.mark.parametrize("where", ["slot", "plan"])
@pytest.mark.parametrize("error", [Failure("disk full"), BadInput("row 7"), KeyboardInterrupt()])
def test_an_error_in_any_thread_ends_all(where: str, error: BaseException) -> None:
    taken = 0

    def shards() -> Iterator[Shard]:
        nonlocal taken
        for number in range(1000):
            taken += 1
            if where == "plan" and number == 5:
                raise error
            yield shard(number)

    def slot(one: Shard, advance: Advance) -> Stored:
        if where == "slot" and one.number == 5:
            raise error
        if one.number > 5:
            assert pool.stopped.wait(10)
            raise Stopped
        return Stored(one.number)

    pool = FakePool([slot] * 3)
    before = threading.active_count()
    expected = Interrupted if isinstance(error, KeyboardInterrupt) else type(error)
    with pytest.raises(expected, match="5 shards are stored" if expected is Interrupted else str(error)):
        drive(pool, shards(), no_progress, silence)
    assert pool.stopped.is_set()
    assert threading.active_count() == before
    assert taken <= 5 + 3


@pytest.fixture
def ctrl_c_raises() -> Iterator[None]:
    """Make SIGINT interrupt Python: a shell's background job starts with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_raises")
def test_ctrl_c_waits_for_what_is_being_stored() -> None:
    stored, main = threading.Event(), threading.get_ident()

    def slot(one: Shard, advance: Advance) -> Stored:
        if one.number == 0:
            signal.pthread_kill(main, signal.SIGINT)
            assert pool.stopped.wait(10)
            time.sleep(0.05)
            stored.set()
        return Stored(one.number)

    pool = FakePool([slot])
    with pytest.raises(Interrupted, match=r"^interrupted: 1 shard is stored; the same command again goes on"):
        drive(pool, iter([shard(0), shard(1)]), no_progress, silence)
    assert stored.is_set()


@pytest.fixture
def job(tmp_path: Path, tiny_backbone: Callable[..., Path]) -> Job:
    options = EmbedOptions(backbone=str(tiny_backbone("llama")), dtype="float32", device="cpu")
    settings = {**options.load(weights=False).settings(), "width": 32, "store_dtype": "float32"}
    return Job(tmp_path / "features", settings, options)


def worker_of(job: Job, backbone: Path) -> Worker:
    options = replace(job.options, backbone=str(backbone))
    return Worker(replace(job, options=options, settings={**job.settings, **options.load(weights=False).settings()}))


def test_the_pass_is_checked_again_when_texts_outgrow_a_window_or_fixed_positions(
    job: Job, make_backbone: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[int] = []
    real = forward.choose_pass

    def watched(backbone: Any, name: Any, budget: Any, texts: Any, *rest: Any) -> Any:
        checked.append(max(map(len, texts)))
        return real(backbone, name, budget, texts, *rest)

    monkeypatch.setattr(forward, "choose_pass", watched)
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4, "original_max_position_embeddings": 12}
    window = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}
    for folder, expected, passes in [
        (make_backbone("llama"), [5], {"tree"}),
        (make_backbone("qwen2", **window), [5, 9], {"tree"}),
        (make_backbone("llama", rope_parameters=dynamic), [5, 20], {"tree", "padded"}),
    ]:
        checked.clear()
        worker = worker_of(replace(job, folder=job.folder / folder.name), folder)
        try:
            found = [
                worker.run(shard(number, 3, length), no_progress) for number, length in enumerate((5, 8, 9, 9, 20, 6))
            ]
        finally:
            worker.close()
        assert checked == expected
        assert {stored.pass_name for stored in found} == passes
        assert [bool(stored.notes) for stored in found] == [False] * 4 + ["padded" in passes, False]


def test_padding_is_checked_once_lengths_differ_and_again_when_texts_are_twice_as_long(
    job: Job, make_backbone: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[int] = []
    real = forward.choose_mates

    def watched(chosen: Any, texts: Any, announce: Any) -> Any:
        checked.append(max(map(len, texts)))
        return real(chosen, texts, announce)

    monkeypatch.setattr(forward, "choose_mates", watched)
    worker = worker_of(replace(job, options=replace(job.options, packing="padded")), make_backbone("llama"))
    try:
        for number, lengths in enumerate([(5, 5), (4, 7), (3, 13), (3, 14), (2, 20)]):
            assert worker.run(shard(number, *lengths), no_progress).pass_name == "padded"
    finally:
        worker.close()
    assert checked == [7, 14]  # the first shard has one length, which says nothing of padding


def test_a_budget_that_was_halved_stays_halved_when_the_pass_is_checked_again(
    job: Job, make_backbone: Callable[..., Path]
) -> None:
    worker = worker_of(job, make_backbone("qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=0))
    try:
        worker.run(shard(0, 5), no_progress)
        forwarder = worker._forwarder
        assert forwarder is not None
        before = forwarder.chosen
        assert isinstance(before, PackedPass)
        before.tokens_per_batch = 77
        worker.run(shard(1, 9), no_progress)
        assert isinstance(forwarder.chosen, PackedPass)
        assert forwarder.chosen is not before
        assert forwarder.chosen.tokens_per_batch == 77
    finally:
        worker.close()


def test_a_worker_that_failed_takes_no_other_shard(job: Job) -> None:
    worker = Worker(replace(job, options=replace(job.options, packing="padded")))
    bad = replace(shard(0), tokens=[Tokens(np.array([10**6], dtype=np.int32))])
    try:
        with pytest.raises(IndexError):
            worker.run(bad, no_progress)
        with pytest.raises(Stopped):
            worker.run(shard(1), no_progress)
    finally:
        worker.close()
    assert list(job.folder.rglob("*.parquet")) == []


def test_a_shard_that_another_writer_stored_is_not_read(job: Job) -> None:
    first, second = Worker(job), Worker(job)
    try:
        assert first.run(shard(0), no_progress).demand.texts == 1
        assert second.run(shard(0), no_progress) == Stored(0)
    finally:
        first.close()
        second.close()


def test_a_worker_with_another_backbone_than_the_features_is_refused(
    job: Job, make_backbone: Callable[..., Path]
) -> None:
    other = make_backbone("llama", attention_bias=True)
    worker = Worker(replace(job, options=replace(job.options, backbone=str(other))))
    try:
        with pytest.raises(Failure, match="a worker found another checkpoint than the command was started with"):
            worker.run(shard(0), no_progress)
    finally:
        worker.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers is 0: expected at least 1"),
        ({"ray_address": "auto"}, "ray_address is 'auto': give `engine` ray with it"),
    ],
)
def test_options_that_cannot_be_followed(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        EngineOptions(**options)


@pytest.mark.parametrize(
    ("device", "gpus", "workers", "expected"),
    [
        ("cuda", 4, None, ProcessEngine(4)),
        ("cuda", 1, None, InProcess()),
        ("cuda", 4, 1, InProcess()),
        ("cuda", 4, 8, ProcessEngine(8)),
        ("cpu", 4, None, InProcess()),
        ("cpu", 0, 2, ProcessEngine(2)),
    ],
)
def test_there_is_a_process_for_each_gpu_unless_asked_otherwise(
    monkeypatch: pytest.MonkeyPatch, device: str, gpus: int, workers: int | None, expected: Any
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setattr("micropref.pipeline.forwarding.engines.choose.choose_device", torch.device)
    assert choose_engine(EngineOptions(workers=workers), EmbedOptions(device=device)) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(("visible", "expected"), [(None, ["0", "1"]), ("3,GPU-5", ["3", "GPU-5"])])
def test_gpus_go_by_the_names_the_environment_gives_them(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, expected: list[str]
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert process_engine._gpus() == expected


@pytest.mark.parametrize("error", [Failure("disk full"), Stopped(), IndexError("a bug")])
def test_a_worker_process_sends_its_errors_to_the_command(error: Exception) -> None:
    class Failing:
        def run(self, one: Shard, advance: Advance) -> Stored:
            advance(7)
            raise error

    ours, theirs = multiprocessing.Pipe()
    thread = threading.Thread(target=process_engine._serve_connection, args=(Failing(), theirs))
    thread.start()
    counted: list[int] = []
    slot = process_engine._Member(0, None, [ours]).slot(ours)  # type: ignore[arg-type]
    with pytest.raises(type(error)) as caught:
        slot(shard(0), counted.append)
    assert (str(caught.value), counted) == (str(error), [7])
    notes = getattr(caught.value, "__notes__", [])
    assert ("raise error" in "".join(notes)) == isinstance(error, IndexError)  # where it was, if it is no known error
    ours.close()
    thread.join(10)
    assert not thread.is_alive()


def test_ray_that_is_not_installed(
    store: StoreFolder, write_rows: Callable[..., Path], rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "micropref.pipeline.forwarding.engines.ray_cluster", raising=False)
    with pytest.raises(BadInput, match=r"Ray is not installed; run `pip install 'micropref\[ray\]'`"):
        embed(store, [write_rows(rows)], "mine", SourceOptions(), EmbedOptions(), EngineOptions("ray"))
