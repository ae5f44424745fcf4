"""Choices of people in a SQLite file: written before they are acknowledged, each once, and gone when forgotten.

n choices of one person, K heads. The file lies on a local disk: SQLite's locks are not to be trusted on others.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from micropref.cache.errors import BadInput, Failure

_TABLES = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS choices (
    number INTEGER PRIMARY KEY AUTOINCREMENT, user TEXT NOT NULL, id TEXT UNIQUE,
    margins TEXT NOT NULL, log_prior TEXT NOT NULL, at REAL NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS choices_of_user ON choices (user);
CREATE TABLE IF NOT EXISTS forgotten (user TEXT PRIMARY KEY, at REAL NOT NULL) STRICT;
"""
FORMAT = "1"
MEMORY = Path(":memory:")
"""Path of choices that are kept in memory only, until they are closed."""
WAIT_S = 30.0
"""Seconds that a writer waits for another."""


@dataclass(frozen=True)
class Choice:
    """One choice of a person, as the heads see it."""

    margins: tuple[float, ...]
    """[K] each head's reward of the chosen response less that of the other."""
    log_prior: tuple[float, ...]
    """[K] log of the run's own weights for this prompt and context."""


class Feedback:
    """An open file of choices. Its methods may be called from several threads."""

    def __init__(self, path: Path, run: str, heads: int) -> None:
        """Open or make the file of a run. Raises BadInput where it is another run's or no such file, Failure on I/O."""
        self.path = path
        self._lock = Lock()
        new = path != MEMORY and not path.exists()
        try:
            self._connection = sqlite3.connect(path, timeout=WAIT_S, isolation_level=None, check_same_thread=False)
            if new:
                path.chmod(0o600)
            for setting in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON"):
                self._connection.execute(f"PRAGMA {setting}")
            self._connection.executescript(_TABLES)
            with self._changing() as connection:
                about = {"format": FORMAT, "run": run, "heads": str(heads), "key": secrets.token_hex(32)}
                connection.executemany("INSERT OR IGNORE INTO about VALUES (?, ?)", about.items())
            found = dict(self._connection.execute("SELECT name, value FROM about"))
        except sqlite3.DatabaseError as error:
            raise _refused(path, error) from error
        if (found["format"], found["run"], found["heads"]) != (FORMAT, run, str(heads)):
            raise BadInput(f"{path}: holds choices about run {found['run']}, not {run}; give another file")
        self._key = bytes.fromhex(found["key"])

    def add(self, user: str, choice: Choice, choice_id: str | None = None) -> bool:
        """Keep a choice on disk, and return whether it is new: one with an id that is known already is not.

        Raises Failure where the disk refuses, and then nothing is kept.
        """
        row = (user, choice_id, json.dumps(choice.margins), json.dumps(choice.log_prior), time.time())
        with self._changing() as connection:
            done = connection.execute(
                "INSERT INTO choices (user, id, margins, log_prior, at) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (id) DO NOTHING",
                row,
            )
            return done.rowcount > 0

    def of(self, user: str) -> list[Choice]:
        """Return a person's choices, the oldest first."""
        rows = self._read("SELECT margins, log_prior FROM choices WHERE user = ? ORDER BY number", (user,))
        return [Choice(tuple(json.loads(margins)), tuple(json.loads(prior))) for margins, prior in rows]

    def users(self) -> list[str]:
        """Return who chose, sorted."""
        return [str(name) for (name,) in self._read("SELECT DISTINCT user FROM choices ORDER BY user", ())]

    def count(self, user: str | None = None) -> int:
        """Return how many choices there are: a person's, or all."""
        if user is None:
            rows = self._read("SELECT count(*) FROM choices", ())
        else:
            rows = self._read("SELECT count(*) FROM choices WHERE user = ?", (user,))
        return int(rows[0][0])

    def forget(self, user: str) -> int:
        """Remove all that a person chose, from the file's free pages and its log too; return how many choices.

        What stays is a keyed hash of the name with the time: it hides what the run itself still knows of the person.
        Raises Failure where the disk refuses.
        """
        with self._changing() as connection:
            gone = connection.execute("DELETE FROM choices WHERE user = ?", (user,)).rowcount
            connection.execute("INSERT OR REPLACE INTO forgotten VALUES (?, ?)", (self._hash(user), time.time()))
        with self._lock:
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return gone

    def forgotten_at(self, user: str) -> float | None:
        """Return when a person was forgotten, in seconds since 1970; None: never."""
        rows = self._read("SELECT at FROM forgotten WHERE user = ?", (self._hash(user),))
        return float(rows[0][0]) if rows else None

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def _hash(self, user: str) -> str:
        return hmac.new(self._key, user.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()

    def _read(self, query: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        try:
            with self._lock:
                return self._connection.execute(query, tuple(values)).fetchall()
        except sqlite3.DatabaseError as error:
            raise _refused(self.path, error) from error

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """Provide the connection inside a transaction, which is on disk once this ends."""
        try:
            with self._lock:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield self._connection
                except BaseException:
                    self._connection.execute("ROLLBACK")
                    raise
                self._connection.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            raise _refused(self.path, error) from error


def _refused(path: Path, error: sqlite3.DatabaseError) -> BadInput | Failure:
    if isinstance(error, sqlite3.OperationalError):
        return Failure(f"{path}: cannot be written ({error}); nothing was kept of this")
    return BadInput(f"{path}: found no file of choices ({error}); give another name")
