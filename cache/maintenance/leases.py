"""Leases: what a running command counts as stored stays young, so that `gc`, which takes old shards only, leaves it.

A lease is the modification time of a shard's commit file, set when the shard is first relied on and renewed until the
command ends. It needs no lock and no file of its own, and ends by itself when its command is killed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Self

import polars as pl

from micropref.cache.commits import Commit
from micropref.cache.vectors.features import Features, shard_stem

RENEW_S = 600.0
"""Seconds between renewals: `gc --min-age` must leave alone what is younger than a few of these."""


class Leases:
    """The shards of one features id that a command relies on, as a context manager that renews them.

    Example:
        with Leases(features, print) as leases:
            stored = leases.stored(keys)  # what is not among these has to be embedded

    """

    def __init__(self, features: Features, announce: Callable[[str], None]) -> None:
        """Take features as they were opened; `announce` gets one line if leases cannot be renewed."""
        self._features, self._announce = features, announce
        features.read_index()
        self._held: set[Path] = set()
        self._lock, self._ended, self._warned = Lock(), Event(), False
        self._thread = Thread(target=self._renew, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()

    def stored(self, keys: Iterable[bytes]) -> set[bytes]:
        """Return those of the keys that have a vector, in shards that are leased from now on."""
        asked = list(keys)
        positions = self._features.locate(pl.Series(asked, dtype=pl.Binary))
        numbers = self._features.numbers_of(positions)
        there = {number for number in set(numbers.tolist()) - {-1} if self._hold(self._features.commits[number])}
        return {key for key, number in zip(asked, numbers.tolist(), strict=True) if number in there}

    def expect(self, keys: list[bytes]) -> None:
        """Lease the shard of exactly these keys from when it is committed."""
        with self._lock:
            self._held.add(self._features.commit_path(shard_stem(keys)))

    def _hold(self, shard: Commit) -> bool:
        """Lease a committed shard; False: it is gone."""
        path = shard.commit_path
        with self._lock:
            if path in self._held:
                return True
        if not self._touch(path):
            return False
        with self._lock:
            self._held.add(path)
        return True

    def _touch(self, path: Path) -> bool:
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
        except OSError as error:
            if not self._warned:
                self._warned = True
                self._announce(
                    f"warning: {path}: cannot be marked as in use ({error.strerror}): run no `gc` while this runs"
                )
        return True

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_S):
            with self._lock:
                held = list(self._held)
            for path in held:
                self._touch(path)
