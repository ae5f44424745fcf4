"""People whom a run has to forget: keyed hashes of their names with the time, so that no older data brings them back.

A name cannot be read from its hash. Whoever is about to use a name hashes it under each key and finds out.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from micropref.cache.atomic import publish, staged_file
from micropref.cache.errors import Damaged, cannot_read
from micropref.cache.keys import signed, unsigned

FILE = "forgotten.json"
"""Its name in a run's folder; outside `people`, so that a copy of that folder, put back, does not undo it."""
FORMAT = 1


@dataclass(frozen=True)
class Forgotten:
    """Who was forgotten, and when."""

    at: dict[str, dict[str, float]] = field(default_factory=dict)
    """Key in hex digits -> hash of a name under it -> seconds since 1970."""

    def __len__(self) -> int:
        return sum(len(hashes) for hashes in self.at.values())

    def when(self, name: str) -> float | None:
        """Return when a person was forgotten last; None: never."""
        found = (hashes.get(keyed_hash(key, name)) for key, hashes in self.at.items())
        return max((time for time in found if time is not None), default=None)

    def joined(self, other: Forgotten) -> Forgotten:
        """Return everybody of both, each with the newer time."""
        at = {key: dict(hashes) for key, hashes in self.at.items()}
        for key, hashes in other.at.items():
            known = at.setdefault(key, {})
            known.update({one: max(time, known.get(one, time)) for one, time in hashes.items()})
        return Forgotten({key: hashes for key, hashes in at.items() if hashes})


def keyed_hash(key: str, name: str) -> str:
    """Return the HMAC-SHA256 of a name in hex digits, under a key in hex digits."""
    return hmac.new(bytes.fromhex(key), name.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def read_forgotten(run: Path) -> Forgotten:
    """Return whom the run of a folder has to forget. Raises Damaged where the file is not whole."""
    path = run / FILE
    try:
        value = unsigned(json.loads(path.read_bytes()))
        if value["format"] != FORMAT:
            raise ValueError("format")
        return Forgotten(value["forgotten"])
    except FileNotFoundError:
        return Forgotten()
    except OSError as error:
        raise cannot_read(path, error) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(
            f"{path}: damaged, changed or of another version, so who is to be forgotten is not known; restore it from "
            "a copy, or remove it and import the files of choices again"
        ) from error


def write_forgotten(run: Path, forgotten: Forgotten) -> None:
    """Write whom a run has to forget, for its owner's eyes. Raises Failure where the disk refuses."""
    value = {"format": FORMAT, "forgotten": forgotten.at}
    with staged_file(run) as (file, temp):
        os.fchmod(file.fileno(), 0o600)
        file.write((json.dumps(signed(value), indent=1, sort_keys=True) + "\n").encode())
    publish(temp, run / FILE)
