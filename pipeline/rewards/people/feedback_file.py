"""How a SQLite file of choices is made and opened, and what its errors mean."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from micropref.cache.errors import BadInput, Damaged, Failure, MicroprefError

FORMAT = "1"
FILE = "feedback.sqlite"
"""Its usual name, in a run's folder."""
MEMORY = Path(":memory:")
"""Path of choices that are kept in memory only, until they are closed."""
WAIT_S = 10.0
"""Seconds that a writer waits for another."""
TABLES = {
    "about": "name TEXT PRIMARY KEY, value TEXT NOT NULL",
    "choices": "number INTEGER PRIMARY KEY AUTOINCREMENT, user TEXT NOT NULL, id TEXT, margins TEXT NOT NULL, "
    "log_prior TEXT NOT NULL, at REAL NOT NULL, UNIQUE (user, id)",
    "forgotten": "user TEXT PRIMARY KEY, at REAL NOT NULL",
}
"""Columns by table. An id is a person's own: that of another is another choice."""
_SETTINGS = ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON", "temp_store = MEMORY")
_CANNOT_BE_WRITTEN = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)


def connect(path: Path, about: dict[str, str], *, read_only: bool) -> tuple[sqlite3.Connection, dict[str, str]]:
    """Open a file, or make one that says `about` of itself; return the connection and what the file says.

    With `read_only` everything is read as it is now, and no file is made. Nothing is changed in a file that is not
    ours. Raises BadInput for such a file, and for one of another format; Failure where the disk refuses.
    """
    try:
        if read_only:
            return _snapshot(path)
        if path != MEMORY:
            _make_private(path)
        connection = sqlite3.connect(path, timeout=WAIT_S, isolation_level=None, check_same_thread=False)
        with _closed_on_error(connection):
            connection.execute("BEGIN IMMEDIATE")
            if not _tables(connection):
                for name, columns in TABLES.items():
                    connection.execute(f"CREATE TABLE {name} ({columns}) STRICT")
                connection.executemany("INSERT INTO about VALUES (?, ?)", about.items())
            found = _about(connection, path)
            connection.execute("COMMIT")
            for setting in _SETTINGS:
                connection.execute(f"PRAGMA {setting}")
        return connection, found
    except sqlite3.Error as error:
        raise refused(path, error) from error


def refused(path: Path, error: sqlite3.Error) -> MicroprefError:
    """Return what to raise for an error of SQLite: the file is none of ours, it is damaged, or the disk refuses."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_NOTADB:
        return BadInput(f"{path}: found no file of choices ({error}); give another name")
    if code == sqlite3.SQLITE_CORRUPT or not isinstance(error, sqlite3.OperationalError):
        return Damaged(f"{path}: damaged ({error}), and left as it is; restore it from a copy, or give another name")
    return Failure(f"{path}: cannot be used now ({error}); nothing was changed by this, remove the cause and try again")


def _make_private(path: Path) -> None:
    """Make a file that its owner alone can read, before anything is in it; its log gets the same rights."""
    try:
        path.touch(mode=0o600)
    except OSError as error:
        reason = error.strerror or str(error)
        raise Failure(
            f"{path}: cannot be written ({reason}); give a file in a folder that is there, on a local disk"
        ) from error


def _snapshot(path: Path) -> tuple[sqlite3.Connection, dict[str, str]]:
    """Open a file as it is now; a server may go on writing it."""
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise BadInput(f"{path}: found {found}; expected a file of choices, as `serve` makes one")
    try:
        return _opened(path, "mode=ro")
    except sqlite3.OperationalError as error:
        log = path.with_name(f"{path.name}-wal")
        if error.sqlite_errorcode & 0xFF not in _CANNOT_BE_WRITTEN or (log.exists() and log.stat().st_size):
            raise
        # SQLite keeps its locks in a file that it cannot make here; nor can anybody else, so that nobody writes.
        return _opened(path, "immutable=1")


def _opened(path: Path, how: str) -> tuple[sqlite3.Connection, dict[str, str]]:
    uri = f"file:{quote(str(path.absolute()))}?{how}"
    connection = sqlite3.connect(uri, uri=True, timeout=WAIT_S, isolation_level=None, check_same_thread=False)
    with _closed_on_error(connection):
        connection.execute("BEGIN")
        return connection, _about(connection, path)


def _tables(connection: sqlite3.Connection) -> set[str]:
    query = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    return {name for (name,) in connection.execute(query)}


def _about(connection: sqlite3.Connection, path: Path) -> dict[str, str]:
    """Return what a file says of itself. Raises BadInput where it is another program's, or of another format."""
    if not TABLES.keys() <= _tables(connection):
        raise BadInput(f"{path}: found a database of another program; give another name")
    found = dict(connection.execute("SELECT name, value FROM about").fetchall())
    if found.get("key") is not None and not re.fullmatch(r"[0-9a-f]{64}", str(found["key"])):
        raise Damaged(f"{path}: damaged (its key is none), and left as it is; restore it from a copy")
    times = "SELECT at FROM choices UNION ALL SELECT at FROM forgotten"
    if connection.execute(f"SELECT 1 FROM ({times}) WHERE NOT at BETWEEN 0 AND 1e11 LIMIT 1").fetchone():  # noqa: S608
        raise Damaged(f"{path}: damaged (a time is none), and left as it is; restore it from a copy")
    if found.get("format") != FORMAT or not {"run", "heads", "key"} <= found.keys():
        raise BadInput(f"{path}: found choices of format {found.get('format')}, expected {FORMAT}; give another name")
    return found


@contextmanager
def _closed_on_error(connection: sqlite3.Connection) -> Iterator[None]:
    try:
        yield
    except BaseException:
        connection.close()
        raise
