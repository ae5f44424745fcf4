"""Whom a run has weights for by itself: in its people folder, and in the groups of an adapted run.

K heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import torch

from micropref.cache.errors import cannot_read
from micropref.cache.runs.forgotten import FILE, Forgotten, read_forgotten
from micropref.cache.runs.people import Person, person_path, read_person
from micropref.cache.runs.records import Run
from micropref.heads.adaptation.few_shot import Adapted


class KnownPeople(Protocol):
    """Who is known."""

    def __call__(self, user: str) -> Adapted | None:
        """Return what was learned of a person; None: nothing."""
        ...

    def forgotten_at(self, user: str) -> float | None:
        """Return when a person was forgotten, in seconds since 1970; None: never."""
        ...


@dataclass(frozen=True)
class Kept:
    """What a run keeps of a person."""

    adapted: Adapted
    at: float
    """When it was learned, in seconds since 1970."""


class KeptPeople:
    """The people of a run as its folder has them now; of several states of one person the newest."""

    def __init__(self, run: Run, groups: Run | None) -> None:
        """Take the run whose heads are weighed, and the run that `adapt` made of it, if one is asked for."""
        self._run, self.groups = run, groups
        self._tensors = None if groups is None else groups.tensors()

    def __call__(self, user: str) -> Adapted | None:
        """Return what is kept of a person; None: nothing, or nothing newer than when the person was forgotten."""
        found = self.newest(user, self.forgotten_at(user))
        return None if found is None else found.adapted

    def forgotten_at(self, user: str) -> float | None:
        """Return when the run was told to forget a person, in seconds since 1970; None: never."""
        path = self._run.folder / FILE
        return _forgotten(path.parent, _stamp(path)).when(user)

    def newest(self, user: str, forgotten_at: float | None) -> Kept | None:
        """Return what was learned of a person last. Of a forgotten person that is only what was learned later.

        What `adapt` learned is from a data set, whose choices may be of any time: of a forgotten person it is nothing.
        """
        adapted = self.group(user) if forgotten_at is None else None
        group = None if adapted is None or self.groups is None else Kept(adapted, made_at(self.groups))
        path = person_path(self._run.folder / "people", user)
        person = _person(path, _stamp(path))
        if person is None or (forgotten_at is not None and person.at <= forgotten_at):
            return group
        return group if group is not None and group.at >= person.at else Kept(_adapted(person), person.at)

    def group(self, name: str) -> Adapted | None:
        """Return the weights of one group of the adapted run; None where it has none of that name."""
        if self.groups is None or self._tensors is None or name not in self.groups.record["groups"]:
            return None
        at, settings = self.groups.record["groups"].index(name), self.groups.record["settings"]
        scale = self._tensors.get("scale")
        return Adapted(
            self._tensors["weights"][[at]].double().log(),
            None if scale is None else scale[[at]].double(),
            settings["routed"],
            settings["combine"],
        )

    def any(self) -> bool:
        """Say whether there may be somebody."""
        folder = self._run.folder / "people"
        return self.groups is not None or (folder.is_dir() and any(folder.iterdir()))


def made_at(run: Run) -> float:
    """Return when a run was made, in seconds since 1970."""
    return datetime.fromisoformat(run.record["created"]).timestamp()


def _stamp(path: Path) -> tuple[int, ...] | None:
    """Return what changes when a file is replaced; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise cannot_read(path, error) from error
    return found.st_ino, found.st_mtime_ns, found.st_size


@lru_cache(maxsize=4096)
def _person(path: Path, stamp: tuple[int, ...] | None) -> Person | None:
    return None if stamp is None else read_person(path)


@lru_cache(maxsize=64)
def _forgotten(folder: Path, stamp: tuple[int, ...] | None) -> Forgotten:
    return Forgotten() if stamp is None else read_forgotten(folder)


def _adapted(person: Person) -> Adapted:
    scale = None if person.scale is None else torch.tensor([person.scale], dtype=torch.float64)
    weights = torch.tensor([person.weights], dtype=torch.float64).log()
    return Adapted(weights, scale, person.routed, "linear" if person.combine == "linear" else "probability")
