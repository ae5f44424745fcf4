"""People: what a run's heads weigh for one person, as a small JSON file with what that was learned from.

K heads.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from micropref.cache.atomic import write_bytes
from micropref.cache.errors import BadInput, Damaged, cannot_read
from micropref.cache.keys import short_id, signed, unsigned

FORMAT = 1
LONGEST_NAME = 256
"""Characters of a person's name at most."""
Preferred = Literal["chosen", "rejected", "neither"]


@dataclass(frozen=True)
class Answer:
    """One pair that a person was asked about."""

    pair_id: str
    preferred: Preferred
    """Which response of the stored pair the person preferred; neither: the question was passed over."""


@dataclass(frozen=True)
class Recorded:
    """Choices that a person made while a run was used. They are about no stored pair, and no text of them is kept."""

    count: int
    source: str
    """Name of the file that they were imported from."""


@dataclass(frozen=True)
class Person:
    """Weights over the heads of a run for one person, and how they came to be."""

    name: str
    """The user; for groups of another kind, the attribute or context."""
    grouped_by: str
    """user, attribute or context."""
    run: str
    """The run whose heads are weighed."""
    features: str
    """Features id of the vectors its heads read."""
    data: str | None
    """Data set of the pairs; None: the choices are about no stored pairs."""
    split: str | None
    data_digest: str | None
    """Of that split, as it was when they were asked."""
    method: str
    """How weights were learned: a method of `adapt`, or ask."""
    strength: float
    """Of the method: τ of hedge, β of tempered and ask, s² of shrunk."""
    answers: tuple[Answer, ...]
    """In the order they were learned from."""
    weights: tuple[float, ...]
    """[K] that sum to 1."""
    scale: tuple[float, ...] | None
    """[K] what a head's margins are divided by; None: nothing."""
    routed: bool
    """Weights multiply the run's own for each pair and are normalised; otherwise they replace them."""
    combine: str
    """probability: Σ_k w_k σ(m_k) predicts; linear: σ(Σ_k w_k m_k)."""
    created: str
    """When, in UTC: of recorded choices, when the last was made."""
    recorded: Recorded | None = None
    """Choices that there are no `answers` for; None: there are none of these."""

    @property
    def at(self) -> float:
        """Return `created` in seconds since 1970."""
        return datetime.fromisoformat(self.created).timestamp()

    @property
    def choices(self) -> int:
        """Return how many choices the weights were learned from."""
        preferred = sum(answer.preferred != "neither" for answer in self.answers)
        return preferred + (0 if self.recorded is None else self.recorded.count)


def utc(seconds: float) -> str:
    """Return a time in seconds since 1970 as people's files have it, to the microsecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")


def check_person_name(name: str) -> str:
    """Return a name that a person can be kept under. Raises BadInput for an empty or long one, and for no text."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise BadInput("user is no text: it has half of a surrogate pair, which UTF-8 cannot hold") from None
    if not name or len(name) > LONGEST_NAME:
        raise BadInput(f"user has {len(name)} characters: expected 1 to {LONGEST_NAME}")
    return name


def person_path(folder: Path, name: str) -> Path:
    """Return the file of a person, whose name may hold anything: none of it becomes part of the path."""
    return folder / f"{short_id(name, 16)}.json"


def write_person(folder: Path, person: Person) -> Path:
    """Write a person whole or not at all, in place of an earlier state, and return the file."""
    value = {"format": FORMAT, **asdict(person)}
    if person.recorded is None:  # as earlier versions write and read it
        del value["recorded"]
    path = person_path(folder, person.name)
    write_bytes(path, (json.dumps(signed(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())
    return path


def read_person(path: Path) -> Person | None:
    """Return a person; None where there is no file. Raises Damaged where it is not whole or of another format."""
    try:
        value = unsigned(json.loads(path.read_bytes()))
        if value.pop("format") != FORMAT:
            raise ValueError("format")
        answers = tuple(Answer(**answer) for answer in value.pop("answers"))
        weights, scale = tuple(value.pop("weights")), value.pop("scale")
        recorded = Recorded(**one) if (one := value.pop("recorded", None)) else None
        scale = None if scale is None else tuple(scale)
        return Person(**value, answers=answers, weights=weights, scale=scale, recorded=recorded)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise cannot_read(path, error) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(
            f"{path}: damaged, changed or of another version; restore it from a copy, or move it away and "
            "ask or adapt again"
        ) from error
