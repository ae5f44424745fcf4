"""What the store survives: reads that fail, damaged files, `gc` next to `embed`, writers at the same moment.

A read that fails proves nothing: the error has its own line, nothing is removed, nothing asks the user to delete.
Damage is proven by a digest or a size, and its file goes when what replaces it is committed.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from micropref.cache import memory
from micropref.cache.commits import commit
from micropref.cache.datasets import open_dataset, read_table
from micropref.cache.errors import Damaged, Failure
from micropref.cache.maintenance import gc, leases
from micropref.cache.maintenance.leases import Leases
from micropref.cache.maintenance.verify import verify
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.features import ROLE, Features
from micropref.cache.vectors.opening import only_features, open_features
from micropref.cli import app
from micropref.pipeline.embedding import embed as embedding
from micropref.pipeline.embedding import linking
from micropref.pipeline.forwarding.options import EmbedOptions
from micropref.pipeline.sources import parts
from micropref.pipeline.sources.ingest import SourceOptions

pytestmark = pytest.mark.usefixtures("loaded_once")
ERRORS = (errno.EIO, errno.EMFILE, errno.EACCES, errno.ESTALE)


@contextmanager
def unreadable(path: Path, error: int) -> Iterator[None]:
    """Let every read of one file fail; its name and size can still be looked at."""
    real = Path.open

    def refuse(file: Path, *args: Any, **options: Any) -> Any:
        if file == path:
            raise OSError(error, os.strerror(error), str(path))
        return real(file, *args, **options)

    memory._digest.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        yield
    memory._digest.cache_clear()


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture
def command(store: StoreFolder, tiny_backbone: Callable[..., Path]) -> Callable[..., Any]:
    """Return `command(name, *arguments)`, the real command on the store."""

    def run(*arguments: str) -> Any:
        backbone = ["--backbone", str(tiny_backbone("bert")), "--device", "cpu"] if arguments[0] == "embed" else []
        return CliRunner().invoke(app, [*arguments, *backbone, "--store", str(store.root)])

    return run


@pytest.fixture
def sources(write_rows: Callable[..., Path]) -> list[str]:
    """Return two sources without a text in common."""
    rows = [{"prompt": f"What is {at}?", "chosen": f"It is {at}.", "rejected": f"No {at}"} for at in range(20)]
    return [str(write_rows(rows[start : start + 10], f"{start}.jsonl")) for start in (0, 10)]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("kind", ["shard", "shard's commit", "pairs", "links", "links' commit"])
def test_embed_removes_nothing_that_it_cannot_read(
    store: StoreFolder, command: Callable[..., Any], sources: list[str], kind: str, error: int
) -> None:
    assert command("embed", sources[0], "--name", "first").exit_code == 0
    before = contents(store.root)
    patterns = {
        "shard": "features/*/shards/*.parquet",
        "shard's commit": "features/*/shards/*.json",
        "pairs": "datasets/first/pairs/*.parquet",
        "links": "datasets/first/links/*/*.parquet",
        "links' commit": "datasets/first/links/*/*.json",
    }
    path = next(store.root.glob(patterns[kind]))
    source, name = (sources[1], "other") if "shard" in kind else (sources[0], "first")
    with unreadable(path, error):
        refused = command("embed", source, "--name", name)
    assert refused.exit_code == 1
    line = refused.stderr.splitlines()[-1]
    assert line.startswith(f"micropref: {path}: cannot be read ({os.strerror(error)}); it may be whole")
    assert "Traceback" not in refused.stderr
    assert contents(store.root) == before
    assert command("verify").exit_code == 0


@pytest.mark.parametrize("error", ERRORS)
def test_verify_and_gc_call_it_unreadable(
    store: StoreFolder, command: Callable[..., Any], sources: list[str], error: int
) -> None:
    command("embed", sources[0], "--name", "first")
    before = contents(store.root)
    path = only_features(store, None).commits[0].path(ROLE)
    with unreadable(path, error):
        verified, collected = command("verify"), command("gc", "--min-age", "0")
    assert (verified.exit_code, collected.exit_code) == (1, 1)
    for said in (verified.stdout, collected.stderr):
        assert f"{path}: cannot be read ({os.strerror(error)}); it may be whole" in said
    assert contents(store.root) == before


@pytest.mark.parametrize("name", ["features.json", "about.json", "run.json", "heads.safetensors"])
def test_no_message_tells_to_remove_what_may_only_be_unreadable(
    store: StoreFolder, synthetic: Callable[..., str], planted_run: Callable[..., str], name: str
) -> None:
    run = planted_run(store, synthetic(store))
    path = next(store.root.rglob(name))
    arguments = {"about.json": ["ls"]}.get(name, ["eval", run])
    with unreadable(path, errno.EIO):
        refused = CliRunner().invoke(app, [*arguments, "--store", str(store.root)])
    assert refused.exit_code == 1
    line = refused.stderr.splitlines()[-1]
    assert f"{path}: cannot be read (Input/output error); it may be whole" in line
    assert "remove the cause" in line
    assert f"remove {store.root}" not in line


def test_damage_is_distinguished_from_a_failed_read(store: StoreFolder, synthetic: Callable[..., str]) -> None:
    synthetic(store)
    (item,) = only_features(store, None).commits
    with unreadable(item.path(ROLE), errno.EIO), pytest.raises(Failure) as caught:
        item.damage(ROLE, digest=True)
    assert not isinstance(caught.value, Damaged)
    path = item.path(ROLE)
    path.write_bytes(bytes(8) + path.read_bytes()[8:])
    os.utime(path, ns=(0, 0))
    with pytest.raises(Damaged, match="content changed"):
        item.checked_path(ROLE)


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    os.utime(path, ns=(0, 0))  # two writes may share one tick of the clock


def logical(store: StoreFolder, name: str) -> Any:
    """Return what readers find of a data set: vectors by key, pairs and links."""
    features, dataset = only_features(store, None), open_dataset(store, name)
    keys = features.keys().to_pylist()
    vectors = dict(zip(keys, features.gather(np.arange(len(keys))).tolist(), strict=True))
    tables = [read_table(part, "pairs").rows() for part in dataset.parts]
    links = [item for part in dataset.parts if (item := dataset.links(part, features.id))]
    return vectors, tables, [read_table(item, "links").rows() for item in links]


@pytest.mark.parametrize("change", ["flip", "cut", "missing"])
@pytest.mark.parametrize(
    "pattern",
    [
        "features/*/shards/*.parquet",
        "features/*/shards/*.json",
        "features/*/features.json",
        "features/*/about.json",
        "datasets/first/pairs/*.parquet",
        "datasets/first/pairs/*.json",
        "datasets/first/links/*/*.parquet",
        "datasets/first/links/*/*.json",
    ],
)
def test_embedding_the_same_source_again_repairs_a_file(
    store: StoreFolder, command: Callable[..., Any], sources: list[str], pattern: str, change: str
) -> None:
    command("embed", sources[0], "--name", "first")
    whole = logical(store, "first")
    path = next(store.root.glob(pattern))
    if change == "flip":
        damage(path)
    elif change == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        path.unlink()
    again = command("embed", sources[0], "--name", "first")
    assert again.exit_code == 0, again.stderr
    assert "Traceback" not in again.stderr
    assert verify(store).problems == []
    assert verify(store).duplicate_vectors == 0
    assert logical(store, "first") == whole


def test_damaged_vectors_stay_until_their_replacement_is_committed(
    store: StoreFolder, command: Callable[..., Any], sources: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command("embed", sources[0], "--name", "first")
    (item,) = only_features(store, None).commits
    damage(item.path(ROLE))
    before = contents(store.root)
    with monkeypatch.context() as patch:
        patch.setattr(Features, "write_shard", lambda *_: (_ for _ in ()).throw(Failure("disk full")))
        assert command("embed", sources[0], "--name", "first").exit_code == 1
    assert contents(store.root) == before
    assert command("embed", sources[0], "--name", "first").exit_code == 0
    assert verify(store).problems == []


def test_damaged_vectors_of_another_data_set_stay_and_are_named(
    store: StoreFolder, command: Callable[..., Any], sources: list[str]
) -> None:
    command("embed", sources[0], "--name", "first")
    (item,) = only_features(store, None).commits
    damage(item.path(ROLE))
    other = command("embed", sources[1], "--name", "other")
    assert other.exit_code == 0
    assert "content changed after it was committed; needed by data set 'first' (30 of its vectors" in other.stderr
    assert item.commit_path.exists()
    assert command("embed", sources[0], "--name", "first").exit_code == 0
    assert verify(store).problems == []


def grow_old(store: StoreFolder, days: float = 2) -> None:
    then = time.time() - days * 86400
    for path in store.root.rglob("*"):
        os.utime(path, (then, then))


@pytest.fixture
def interrupted(
    store: StoreFolder, command: Callable[..., Any], sources: list[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Return `go_on(during)`: an `embed` stopped days ago goes on; `during` runs once, when it has stored a shard."""
    monkeypatch.setattr("micropref.pipeline.embedding.shard_plan.SHARD_TOKENS", 300)
    real = Features.write_shard
    left = [3]

    def stop_after(features: Features, *args: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise Failure("stopped")
        return real(features, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Features, "write_shard", stop_after)
        assert command("embed", *sources, "--name", "first").exit_code == 1
    grow_old(store)

    def go_on(during: Callable[[], None]) -> Any:
        done: list[bool] = []

        def once(features: Features, *args: Any) -> Any:
            written = real(features, *args)
            if not done:
                done.append(True)
                during()
            return written

        monkeypatch.setattr(Features, "write_shard", once)
        return command("embed", *sources, "--name", "first")

    return go_on


def test_gc_leaves_what_a_running_embed_counts_as_stored(
    store: StoreFolder, command: Callable[..., Any], interrupted: Callable[..., Any]
) -> None:
    collected = []
    again = interrupted(lambda: collected.append(command("gc", "--json")))
    assert again.exit_code == 0
    assert json.loads(collected[0].stdout)["vectors"] == 0
    assert "went while this command ran" not in again.stderr
    assert verify(store).problems == []


def test_what_a_gc_of_young_files_takes_is_embedded_again(
    store: StoreFolder, command: Callable[..., Any], interrupted: Callable[..., Any]
) -> None:
    collected = []
    again = interrupted(lambda: collected.append(command("gc", "--json", "--min-age", "0")))
    assert again.exit_code == 0
    lost = json.loads(collected[0].stdout)["vectors"]
    assert lost > 0
    assert f"{lost} vectors went while this command ran, by `gc` it seems: they are stored again" in again.stderr
    assert verify(store).problems == []


def test_an_embed_whose_vectors_keep_going_says_so(
    store: StoreFolder, command: Callable[..., Any], sources: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = linking.whole_features

    def gone(store: StoreFolder, settings: dict[str, Any]) -> Any:
        features, _ = real(store, settings)
        for item in features.commits:
            item.remove()
        return real(store, settings)

    monkeypatch.setattr(linking, "whole_features", gone)
    refused = command("embed", sources[0], "--name", "first")
    assert refused.exit_code == 1
    assert "vectors went 3 times while this command ran; stop the `gc` that runs at the same time" in refused.stderr
    assert not (store.root / "datasets").exists()


def test_leases_are_renewed_until_the_command_ends(
    store: StoreFolder, synthetic: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "RENEW_S", 0.02)
    features = open_features(store, synthetic(store, shards=3))
    paths = [item.commit_path for item in features.commits]
    keys, gone = (features.shard_keys(features.commits[at]) for at in (0, 2))
    with Leases(features, pytest.fail) as held:
        features.commits[2].remove()
        assert held.stored([*keys, b"unknown" * 2]) == set(keys)
        assert held.stored(gone) == set()
        for _ in range(2):
            grow_old(store)
            until = time.monotonic() + 10
            while time.time() - paths[0].stat().st_mtime > 3600 and time.monotonic() < until:
                time.sleep(0.01)
            assert time.time() - paths[0].stat().st_mtime < 3600
            assert time.time() - paths[1].stat().st_mtime > 3600, "nobody relies on it"


def test_a_store_that_cannot_be_leased_is_reported(
    store: StoreFolder, synthetic: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    features = open_features(store, synthetic(store, shards=2))
    keys = features.keys().to_pylist()
    said: list[str] = []

    def refuse(path: Path, *_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(leases.os, "utime", refuse)
    with Leases(features, said.append) as held:
        assert held.stored(keys) == set(keys)
    (line,) = said
    assert "cannot be marked as in use (Permission denied): run no `gc` while this runs" in line


def pair_ids(store: StoreFolder, name: str) -> list[str]:
    return [row for part in open_dataset(store, name).parts for row in read_table(part, "pairs")["pair_id"]]


@pytest.fixture
def overlapping(write_rows: Callable[..., Path]) -> list[str]:
    """Return two sources with 6 of their 10 pairs in common."""
    rows = [{"prompt": f"What is {at}?", "chosen": f"It is {at}.", "rejected": f"No {at}"} for at in range(14)]
    return [str(write_rows(rows[start : start + 10], f"{start}.jsonl")) for start in (0, 4)]


@pytest.fixture
def cached(command: Callable[..., Any], overlapping: list[str]) -> list[str]:
    """Return both sources, their vectors stored by other data sets: commands that embed both then commit at once."""
    for name, source in zip("ab", overlapping, strict=True):
        command("embed", source, "--name", name)
    return overlapping


def embed_at_once(store: StoreFolder, backbone: Path, sources: list[Any], patch: pytest.MonkeyPatch) -> None:
    """Embed sources in threads that wait for each other before they first commit pairs."""
    barrier, real, met = threading.Barrier(len(sources)), parts.write_part, threading.local()

    def together(*args: Any) -> Any:
        if not hasattr(met, "before"):
            met.before = True
            barrier.wait(timeout=60)
        return real(*args)

    def run(source: str | list[str]) -> None:
        paths = [Path(one) for one in ([source] if isinstance(source, str) else source)]
        embedding.embed(store, paths, "mine", SourceOptions(), EmbedOptions(str(backbone), device="cpu"))

    patch.setattr(parts, "write_part", together)
    with ThreadPoolExecutor(len(sources)) as pool:
        list(pool.map(run, sources))


def test_writers_at_the_same_moment_give_no_pair_id_twice(
    store: StoreFolder,
    tiny_backbone: Callable[..., Path],
    cached: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parts, "PAUSE_S", 0.05)
    embed_at_once(store, tiny_backbone("bert"), cached, monkeypatch)
    ids = pair_ids(store, "mine")
    assert len(ids) == len(set(ids)) == 20
    assert sum(not pair_id.endswith("-0") for pair_id in ids) == 6
    assert verify(store).problems == []


def test_doubled_pair_ids_are_reported_and_repaired(
    store: StoreFolder,
    command: Callable[..., Any],
    tiny_backbone: Callable[..., Path],
    cached: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(parts, "_clashes", lambda *_: False)  # as if both were killed before they looked again
        embed_at_once(store, tiny_backbone("bert"), cached, patch)
    assert len(set(pair_ids(store, "mine"))) == 14
    (line,) = verify(store).problems
    assert "data set 'mine', split 'train': 6 pair ids stand in two sources, " in line
    assert f"`micropref embed {cached[0]} --name mine`" in line or f"embed {cached[1]} --name mine`" in line
    again = command("embed", cached[0], "--name", "mine")
    assert again.exit_code == 0
    assert len(set(pair_ids(store, "mine"))) == 20
    assert verify(store).problems == []
    before = contents(store.root)
    assert command("embed", *cached, "--name", "mine").exit_code == 0
    assert contents(store.root) == before


def test_a_folder_that_cannot_be_listed_is_not_empty(
    store: StoreFolder, command: Callable[..., Any], sources: list[str]
) -> None:
    command("embed", sources[0], "--name", "first")
    grow_old(store)
    before = contents(store.root)
    folder, real = store.dataset("first") / "pairs", Path.iterdir

    def refuse(path: Path) -> Any:
        if path == folder:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "iterdir", refuse)
        collected = command("gc")
    assert collected.exit_code == 1
    assert f"{folder}: cannot be read (Permission denied); it may be whole" in collected.stderr
    assert contents(store.root) == before


def test_gc_puts_back_what_is_linked_while_it_looks(
    store: StoreFolder, command: Callable[..., Any], sources: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard that nothing needs when `gc` begins, and that an `embed` links to before its files are removed."""
    command("embed", sources[0], "--name", "first")
    shutil.rmtree(store.dataset("first"))
    grow_old(store)
    real, calls = gc._needed_keys, []

    def linked_meanwhile(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:  # the shards are hidden now: this embed misses them, and stores them again
            assert command("embed", sources[0], "--name", "first").exit_code == 0
        return real(*args)

    monkeypatch.setattr(gc, "_needed_keys", linked_meanwhile)
    assert command("gc").exit_code == 0
    assert len(calls) == 2
    assert verify(store).problems == []
    assert command("embed", sources[0], "--name", "first", "--json").exit_code == 0


def test_gc_puts_back_a_shard_whose_links_come_late(
    store: StoreFolder, command: Callable[..., Any], sources: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command("embed", sources[0], "--name", "first")
    away = store.root / "away"
    shutil.move(store.dataset("first"), away)
    grow_old(store)
    real, calls = gc._needed_keys, []

    def linked_meanwhile(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            shutil.move(away, store.dataset("first"))
        return real(*args)

    monkeypatch.setattr(gc, "_needed_keys", linked_meanwhile)
    collected = command("gc", "--json")
    assert json.loads(collected.stdout)["vectors"] == 0
    assert verify(store).problems == []


def test_a_gc_that_was_stopped_is_undone(
    store: StoreFolder, command: Callable[..., Any], sources: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command("embed", sources[0], "--name", "first")
    (item,) = only_features(store, None).commits
    item.set_aside()
    assert not item.commit_path.exists()
    grow_old(store)
    assert command("gc").exit_code == 0
    assert item.commit_path.exists()
    assert verify(store).problems == []


def test_a_source_that_stands_twice_is_reported_and_repaired(
    store: StoreFolder, command: Callable[..., Any], overlapping: list[str]
) -> None:
    command("embed", *overlapping, "--name", "mine")
    _, part = open_dataset(store, "mine").parts
    twins = {
        role: replace(file, name=file.name.replace("train-0002-", "train-0003-")) for role, file in part.files.items()
    }
    for role, twin in twins.items():
        shutil.copy(part.path(role), part.folder / twin.name)
    commit(part.folder, part.stem.replace("-0002-", "-0003-"), twins, {**part.record, "ordinal": 3})
    assert len(open_dataset(store, "mine").parts) == 3
    assert any(f"source {overlapping[1]} stands twice" in line for line in verify(store).problems)
    assert command("embed", overlapping[1], "--name", "mine").exit_code == 0
    assert [one.record["source"] for one in open_dataset(store, "mine").parts] == overlapping
    assert len(set(pair_ids(store, "mine"))) == 20
    assert verify(store).problems == []


def test_one_source_embedded_by_several_at_once_stands_once(
    store: StoreFolder,
    command: Callable[..., Any],
    tiny_backbone: Callable[..., Path],
    cached: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parts, "PAUSE_S", 0.05)
    first, second = cached
    embed_at_once(store, tiny_backbone("bert"), [[first, second], [second], [second, first]], monkeypatch)
    assert sorted(part.record["source"] for part in open_dataset(store, "mine").parts) == sorted(cached)
    assert len(set(pair_ids(store, "mine"))) == len(pair_ids(store, "mine")) == 20
    command("embed", *cached, "--name", "mine")
    assert verify(store).problems == []


def test_two_damaged_tables_of_a_split_are_repaired_one_after_the_other(
    store: StoreFolder, command: Callable[..., Any], overlapping: list[str]
) -> None:
    for source in overlapping:
        command("embed", source, "--name", "mine")
    for path in store.root.glob("datasets/mine/pairs/*.parquet"):
        damage(path)
    for source in overlapping:
        repaired = command("embed", source, "--name", "mine")
        assert repaired.exit_code == 0, repaired.stderr
    assert len(set(pair_ids(store, "mine"))) == 20
    assert verify(store).problems == []


@pytest.mark.parametrize("pattern", ["datasets/mine/pairs/*.json", "datasets/mine/links/*/*.json"])
def test_replace_forgets_damaged_commit_files(
    store: StoreFolder, command: Callable[..., Any], sources: list[str], pattern: str
) -> None:
    command("embed", sources[0], "--name", "mine")
    damage(next(store.root.glob(pattern)))
    replaced = command("embed", sources[1], "--name", "mine", "--replace")
    assert replaced.exit_code == 0, replaced.stderr
    assert [part.record["source"] for part in open_dataset(store, "mine").parts] == [sources[1]]
    assert verify(store).problems == []
