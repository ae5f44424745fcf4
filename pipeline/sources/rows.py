"""One row of a source on its way to becoming pairs, and what the rows of a source became."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from micropref.pipeline.sources.pairs import Origin, PreferencePair, Rating, Reject

Shared = TypeVar("Shared")

READING = 2
"""How this version reads rows. The first release's reading, 1, took of a message its role and text alone, and a string
as it stands: a data set that it read keeps it."""
SHOWN_CHARACTERS = 40
"""How much of a found text an error quotes."""


class RowError(Exception):
    """A malformed row: in which field, what was found there and what was expected."""

    def __init__(self, field: str | None, found: str, expected: str) -> None:
        where = "the whole row" if field is None else f"field {field!r}"
        super().__init__(f"{where}: found {found}; expected {expected}")
        self.field = field
        self.found = found
        self.expected = expected


class NoPreference(Exception):  # noqa: N818 - nothing is wrong with the row
    """A row that prefers neither response; its text is the class it is counted under."""


Record: TypeAlias = tuple[int, dict[str, Any] | RowError]
"""What a file reader yields: a row's number in its file, and its fields or why it has none."""


@dataclass(slots=True)
class Row:
    """The fields of one row, not yet checked."""

    values: dict[str, Any]
    """Field → value as the file gives it."""
    origin: Origin
    """Where it was read."""
    textual: bool
    """The file knows text only (CSV), so a number arrives as its digits."""
    pool: dict[Any, Any]
    """The texts met so far in the source, shared by all its rows."""
    version: int = READING
    """Version of the reading of its texts."""
    noted: Counter[str] = field(default_factory=Counter)
    """What was done to texts of the source so far → how often, shared by all its rows."""

    def shared(self, value: Shared) -> Shared:
        """Return the first equal value met in the source, so that repeated texts are held once."""
        first: Shared = self.pool.setdefault(value, value)
        return first


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A row without fields: broken JSON, wrong number of cells."""

    origin: Origin
    """Where it was read."""
    error: RowError
    """What is wrong with it."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A row, or a comparison in it, that an adapter leaves out: a tie, for example."""

    origin: Origin
    """Where it was read."""
    reason: str
    """The class it is counted under."""


@dataclass
class Outcome:
    """What the rows read so far became."""

    pairs: list[PreferencePair] = field(default_factory=list)
    """The usable pairs."""
    ratings: list[Rating] = field(default_factory=list)
    """The ratings, one per response and attribute."""
    rejects: list[Reject] = field(default_factory=list)
    """What became no pair."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Reason class → how many rejects have it."""

    def drop(self, origin: Origin, kind: str, detail: str = "") -> None:
        """Count one reject under `kind` and keep why."""
        self.dropped[kind] += 1
        self.rejects.append(Reject(origin, f"{kind}: {detail}" if detail else kind))


def describe(value: object) -> str:
    """Return a short, one-line name of a value found where another was expected."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"the number {value!r}"[:SHOWN_CHARACTERS]
    if isinstance(value, str):
        return "an empty text" if is_blank(value) else f"the text {value[:SHOWN_CHARACTERS]!r}"
    if isinstance(value, list | bytes):
        return f"a list of {len(value)}" if isinstance(value, list) else f"{len(value)} bytes"
    return "an object" if isinstance(value, dict) else f"a {type(value).__name__}"


def is_blank(text: str) -> bool:
    """Say whether a text is empty or whitespace only, without copying it."""
    return not text or text.isspace()
