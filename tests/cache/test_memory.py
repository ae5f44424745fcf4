"""Digests are remembered between processes as long as a file is the same one, and never for longer."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from micropref.cache import memory
from micropref.cache.memory import LEAST, digest_once, rechecked

BIG = LEAST + 10


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """Return the paths of the files whose bytes were read, in order; the memory is a new one."""
    monkeypatch.setenv("MICROPREF_CACHE", str(tmp_path / "memory"))
    found: list[Path] = []

    def digest(path: Path) -> str:
        found.append(path)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr(memory, "digest_file", digest)
    as_a_new_process()
    yield found
    as_a_new_process()


def as_a_new_process() -> None:
    memory._digest.cache_clear()
    memory._memory.cache_clear()


def made(tmp_path: Path, size: int = BIG, name: str = "file") -> Path:
    path = tmp_path / name
    path.write_bytes(os.urandom(size))
    return path


def digest(path: Path) -> str:
    return digest_once(path, path.stat())


def test_a_file_is_read_once_and_small_ones_once_a_process(read: list[Path], tmp_path: Path) -> None:
    large, small = made(tmp_path), made(tmp_path, 100, "small")
    for _ in range(3):
        as_a_new_process()
        for _ in range(2):
            assert digest(large) == hashlib.sha256(large.read_bytes()).hexdigest()
            assert digest(small) == hashlib.sha256(small.read_bytes()).hexdigest()
    assert read == [large, small, small, small]


@pytest.mark.parametrize("change", ["flip", "flip with its time set back", "another file of the same time", "longer"])
def test_a_file_that_was_written_is_read_again(change: str, read: list[Path], tmp_path: Path) -> None:
    path = made(tmp_path)
    before, times = digest(path), path.stat()
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    if change == "another file of the same time":
        path.unlink()
    path.write_bytes(data + b"x" if change == "longer" else data)
    if "time" in change:
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert path.stat().st_mtime_ns == times.st_mtime_ns
    as_a_new_process()
    assert digest(path) != before
    assert len(read) == 2


def test_everything_is_read_where_it_is_asked_for(read: list[Path], tmp_path: Path) -> None:
    path = made(tmp_path)
    digest(path)
    as_a_new_process()
    with rechecked():
        digest(path)
        digest(path)
    assert len(read) == 2
    assert digest(path)
    assert len(read) == 2


@pytest.mark.parametrize("fault", ["garbage", "read-only", "a folder in its place", "another schema"])
def test_a_memory_that_fails_is_none(fault: str, read: list[Path], tmp_path: Path) -> None:
    path, folder = made(tmp_path), tmp_path / "memory"
    folder.mkdir()
    memory = folder / "digests.sqlite"
    if fault == "garbage":
        memory.write_bytes(b"no database" * 1000)
    elif fault == "a folder in its place":
        memory.mkdir()
    elif fault == "another schema":
        with sqlite3.connect(memory) as connection:
            connection.execute("CREATE TABLE digests (other TEXT)")
    else:
        digest(path)
        as_a_new_process()
        memory.chmod(0o400)
        read.clear()
    assert digest(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(read) <= 1


def test_a_file_that_cannot_be_read_is_an_error(read: list[Path], tmp_path: Path) -> None:
    path = made(tmp_path)
    status = path.stat()
    path.unlink()
    with pytest.raises(FileNotFoundError):
        digest_once(path, status)
    assert read == [path]
