"""What this machine remembers between commands: digests of large files, and what a command found to be finished.

A file that did not change is read once. It is the same as long as its path, inode, size and both of its times are:
`mtime` and `ctime`, which no program can set back. What rots on the disk without a write is not seen this way: `verify`
reads every byte, and so does a command within `rechecked`. The memory is a SQLite file in the user's cache folder;
where it cannot be read or written there is none, and files are read as if they were new.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from micropref.cache.keys import digest_file

LEAST = 4 << 20
"""Bytes of a file that is worth remembering: smaller ones are read in milliseconds."""
FOLDER = "MICROPREF_CACHE"
"""Environment variable that names the folder; else XDG_CACHE_HOME, else ~/.cache, and micropref in it."""
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS digests (path TEXT PRIMARY KEY, inode INTEGER, size INTEGER, mtime INTEGER, "
    "ctime INTEGER, digest TEXT) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS found (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID",
)
_recheck = False


def digest_once(path: Path, status: os.stat_result) -> str:
    """Return the sha256 of a file whose status was read a moment ago; it is read only where it may have changed.

    Raises OSError where it has to be read and cannot.
    """
    state = (str(path.absolute()), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return _digest(*state)


def digest_of(path: Path) -> str:
    """Return the sha256 of a file as `digest_once` does. Raises OSError where it cannot be looked at or read."""
    return digest_once(path, path.stat())


def remembered(key: str) -> str | None:
    """Return what `remember` was last given for a key; None where nothing is known, or all is to be read anew."""
    return None if _recheck else _memory(os.getpid()).value(key)


def remember(key: str, value: str) -> None:
    """Remember a text for a key, in place of an earlier one."""
    _memory(os.getpid()).set_value(key, value)


@contextmanager
def rechecked() -> Iterator[None]:
    """Read every file anew, as if none were remembered; each is read once."""
    global _recheck
    before, _recheck = _recheck, True
    _digest.cache_clear()
    try:
        yield
    finally:
        _recheck = before


@lru_cache(maxsize=1 << 16)
def _digest(path: str, inode: int, size: int, mtime: int, ctime: int) -> str:
    if size < LEAST:
        return digest_file(Path(path))
    memory, state = _memory(os.getpid()), (inode, size, mtime, ctime)
    if not _recheck and (known := memory.find(path, state)):
        return known
    digest = digest_file(Path(path))
    now = Path(path).stat()
    if (now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns) == state:  # else it changed while it was read
        memory.keep(path, state, digest)
    return digest


class _Memory:
    """The SQLite file, or nothing."""

    def __init__(self, folder: Path) -> None:
        self._lock, self._connection = threading.Lock(), None
        with suppress(OSError, sqlite3.Error):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            path = folder / "digests.sqlite"
            opened = sqlite3.connect(path, timeout=2, isolation_level=None, check_same_thread=False)
            for table in _SCHEMA:
                opened.execute(table)
            self._connection = opened

    def find(self, path: str, state: tuple[int, int, int, int]) -> str | None:
        query = "SELECT digest FROM digests WHERE (path, inode, size, mtime, ctime) = (?,?,?,?,?)"
        found = self._run(query, path, *state)
        return str(found[0][0]) if found else None

    def keep(self, path: str, state: tuple[int, int, int, int], digest: str) -> None:
        self._run("INSERT OR REPLACE INTO digests VALUES (?,?,?,?,?,?)", path, *state, digest)

    def value(self, key: str) -> str | None:
        found = self._run("SELECT value FROM found WHERE key = ?", key)
        return str(found[0][0]) if found else None

    def set_value(self, key: str, value: str) -> None:
        self._run("INSERT OR REPLACE INTO found VALUES (?,?)", key, value)

    def _run(self, query: str, *values: str | int) -> list[tuple[str]]:
        if self._connection is None:
            return []
        with self._lock:
            try:
                return self._connection.execute(query, values).fetchall()
            except (sqlite3.Error, OverflowError):  # a memory that fails is none
                return []


@lru_cache(maxsize=1)
def _memory(process: int) -> _Memory:  # noqa: ARG001 - a fork must not share its parent's connection
    named, base = os.environ.get(FOLDER), os.environ.get("XDG_CACHE_HOME")
    if named:
        return _Memory(Path(named))
    try:
        return _Memory((Path(base) if base else Path.home() / ".cache") / "micropref")
    except RuntimeError:  # no home
        return _Memory(Path(os.devnull) / "none")
