"""Choices of people in a SQLite file: written before they are acknowledged, each once, and gone when forgotten.

n choices of one person, K heads. The file lies on a local disk: SQLite's locks are not to be trusted on others.
"""

from __future__ import annotations

import json
import math
import secrets
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from micropref.cache.errors import BadInput, Damaged, Failure
from micropref.cache.runs.forgotten import Forgotten, keyed_hash
from micropref.cache.runs.people import check_person_name
from micropref.pipeline.rewards.people.feedback_file import FORMAT, WAIT_S, connect, refused

TICK = 1e-6
"""Seconds by which two times differ at least: those of a person's file are kept to the microsecond."""
RETRY_S = 2.0
"""Seconds that erasing waits for programs that read the file."""


@dataclass(frozen=True)
class Choice:
    """One choice of a person, as the heads see it."""

    margins: tuple[float, ...]
    """[K] each head's reward of the chosen response less that of the other."""
    log_prior: tuple[float, ...]
    """[K] log of the run's own weights for this prompt and context."""
    at: float | None = field(default=None, compare=False)
    """When it was kept, in seconds since 1970; None: it is not kept yet."""


@dataclass(frozen=True)
class Extent:
    """How far the choices of a person go: any change to them changes this."""

    count: int
    last: int
    """Number of the newest choice, which is never given again."""
    at: float
    """When it was made, in seconds since 1970."""


class Feedback:
    """An open file of choices. Its methods may be called from several threads."""

    def __init__(self, path: Path, run: str, heads: int, *, read_only: bool = False) -> None:
        """Open or make the file of a run. Raises BadInput where it is another run's or no such file, Failure on I/O.

        With `read_only` it has to be there and is not changed, and all is read as it was at this moment, whatever a
        running server adds. Until it is closed a server cannot erase what it forgets.
        """
        self.path, self._heads, self._lock, self._rewritten = path, heads, Lock(), False
        about = {"format": FORMAT, "run": run, "heads": str(heads), "key": secrets.token_hex(32)}
        self._connection, found = connect(path, about, read_only=read_only)
        if (found["run"], found["heads"]) != (run, str(heads)):
            self._connection.close()
            raise BadInput(f"{path}: holds choices about run {found['run']}, not {run}; give another file")
        self._key, self._erasing = found["key"], "erasing" in found
        if self._erasing and not read_only:
            self.erase(0)

    def add(self, user: str, choice: Choice, choice_id: str | None = None) -> bool:
        """Keep a choice on disk, and return whether it is new: one with an id that this person used already is not.

        Raises BadInput for a name that nobody can have, Failure where the disk refuses, and then nothing is kept.
        """
        name, margins, prior = check_person_name(user), json.dumps(choice.margins), json.dumps(choice.log_prior)
        with self._changing() as connection:
            # What is chosen after forgetting is newer than it, whatever became of the clock.
            at = max(_now(), self._forgotten_at(connection, name) + TICK)
            done = connection.execute(
                "INSERT INTO choices (user, id, margins, log_prior, at) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (name, choice_id, margins, prior, round(at, 6)),
            )
        if self._erasing:
            self.erase(0)
        return done.rowcount > 0

    def of(self, user: str, since: float | None = None) -> list[Choice]:
        """Return a person's choices, the oldest first; `since`: only those made later, in seconds since 1970."""
        rows = self._read(
            "SELECT margins, log_prior, at FROM choices WHERE user = ? AND at > ? ORDER BY number",
            (user, -1 if since is None else since),
        )
        return [Choice(self._numbers(margins), self._numbers(prior), at) for margins, prior, at in rows]

    def extent(self, user: str, since: float | None = None) -> Extent | None:
        """Return how far a person's choices go, None where there are none; `since` as in `of`."""
        query = "SELECT count(*), max(number), max(at) FROM choices WHERE user = ? AND at > ?"
        count, last, at = self._read(query, (user, -1 if since is None else since))[0]
        return Extent(count, last, at) if count else None

    def users(self) -> list[str]:
        """Return who chose, sorted."""
        return [str(name) for (name,) in self._read("SELECT DISTINCT user FROM choices ORDER BY user", ())]

    def count(self) -> int:
        """Return how many choices there are."""
        return int(self._read("SELECT count(*) FROM choices", ())[0][0])

    def forget(self, user: str) -> int:
        """Remove all that a person chose, from the file's free space and its log too; return how many choices.

        What stays is a keyed hash of the name with the time: it hides what the run itself still knows of the person.
        Raises Failure where the disk refuses, and where another program reads the file for so long that bytes may be
        left: the person is forgotten then, and the bytes go when this is called again, with the next choice that is
        kept, or when the file is opened next.
        """
        with self._changing() as connection:
            at = max(_now(), self._forgotten_at(connection, user))
            newest = connection.execute("SELECT max(at) FROM choices WHERE user = ?", (user,)).fetchone()[0]
            gone = connection.execute("DELETE FROM choices WHERE user = ?", (user,)).rowcount
            entry = (keyed_hash(self._key, user), max(at, newest or 0.0))
            connection.execute("INSERT OR REPLACE INTO forgotten VALUES (?, ?)", entry)
            connection.execute("INSERT OR REPLACE INTO about VALUES ('erasing', '1')")
        self._erasing, self._rewritten = True, False
        if not self.erase(RETRY_S):
            raise Failure(
                f"{self.path}: the choices are forgotten, but another program reads the file, so bytes of them may "
                "still be in its log; forget this person again once that program has ended"
            )
        return gone

    def erase(self, wait_s: float) -> bool:
        """Erase the bytes of what was forgotten; return whether all are gone, after so many seconds for other readers.

        Raises Failure where the disk refuses.

        SQLite zeroes deleted rows, but moves rows within a page and leaves what they covered: the file is written anew.
        """
        with self._told(), self._lock:
            self._connection.execute(f"PRAGMA busy_timeout = {int(wait_s * 1000)}")
            try:
                if not self._rewritten:
                    self._connection.execute("VACUUM")
                    self._rewritten = True
                if self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                    return False
                self._connection.execute("DELETE FROM about WHERE name = 'erasing'")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                    raise
                return False
            finally:
                self._connection.execute(f"PRAGMA busy_timeout = {int(WAIT_S * 1000)}")
        self._erasing = self._rewritten = False
        return True

    def forgotten_at(self, user: str) -> float | None:
        """Return when a person was forgotten, in seconds since 1970; None: never."""
        rows = self._read("SELECT at FROM forgotten WHERE user = ?", (keyed_hash(self._key, user),))
        return float(rows[0][0]) if rows else None

    def forgotten(self) -> Forgotten:
        """Return everybody who was forgotten, by hashes under the file's key."""
        return Forgotten({self._key: dict(self._read("SELECT user, at FROM forgotten ORDER BY user", ()))})

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def _numbers(self, text: str) -> tuple[float, ...]:
        """Return the numbers [K] of a choice. Raises Damaged where these are none."""
        try:
            found = tuple(map(float, json.loads(text)))
        except (ValueError, TypeError, RecursionError):
            found = ()
        if len(found) != self._heads or not all(map(math.isfinite, found)):
            raise Damaged(
                f"{self.path}: a choice has not {self._heads} numbers; restore the file from a copy, or give another"
            )
        return found

    def _forgotten_at(self, connection: sqlite3.Connection, user: str) -> float:
        """Return when a person was forgotten, inside a transaction; 0: never."""
        query = "SELECT at FROM forgotten WHERE user = ?"
        row = connection.execute(query, (keyed_hash(self._key, user),)).fetchone()
        return 0.0 if row is None else float(row[0])

    def _read(self, query: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        with self._told(), self._lock:
            return self._connection.execute(query, tuple(values)).fetchall()

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """Provide the connection inside a transaction, which is on disk once this ends, or else undone."""
        with self._told(), self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # some errors have ended it
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Raise errors of SQLite as ours."""
        try:
            yield
        except sqlite3.Error as error:
            raise refused(self.path, error) from error
        except UnicodeEncodeError:
            raise BadInput("user is no text: it has half of a surrogate pair, which UTF-8 cannot hold") from None


def _now() -> float:
    return round(time.time(), 6)
