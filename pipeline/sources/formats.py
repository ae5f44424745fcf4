"""The shapes of sources, and how a shape is recognised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from micropref.cache.errors import BadInput
from micropref.pipeline.sources.comparison_rows import (
    RESPONSES,
    STRENGTHS,
    hh,
    names_of,
    preference,
    ratings,
    reversals,
    strength,
)
from micropref.pipeline.sources.pairs import PreferencePair, Rating, Text
from micropref.pipeline.sources.prompt_split import TURN
from micropref.pipeline.sources.rating_rows import RatingsReader, has_ratings
from micropref.pipeline.sources.rows import NoPreference, Outcome, Row, VectorColumns
from micropref.pipeline.sources.text_forms import answers, known_form

RowReader: TypeAlias = Callable[[Row], list[PreferencePair]]

COMPARISONS: dict[str, RowReader] = {
    "preference": preference,
    "hh": hh,
    "reversals": reversals,
    "strength": strength,
}
"""Shapes whose rows are read one by one → their reader."""
COLUMNS = {
    "preference": "chosen, rejected, mostly prompt",
    "hh": "chosen, rejected with Human: and Assistant: turns",
    "reversals": "prompt, response_a, response_b, criteria_x, criteria_y, category_x, category_y",
    "ratings": "prompt, response and numeric attributes",
    "strength": "prompt or context, response_1, response_2, preference_strength or overall_preference",
}
"""Every shape → the columns it is known by."""
SIDES: dict[RowReader, tuple[str, ...]] = {
    preference: ("chosen", "rejected"),
    reversals: ("response_a", "response_b"),
}
"""Readers whose rows have two responses → their columns."""
ONE_PAIR_A_ROW = ("preference", "hh")
"""Shapes whose rows are one pair each, so that a row can hold the vectors of its texts."""
REVERSAL_FIELDS = {"response_a", "response_b", "criteria_x", "criteria_y", "category_x", "category_y"}


class ShapeReader(Protocol):
    """Turns the rows of one source into an outcome."""

    def add(self, row: Row) -> None:
        """Take one row. Raises RowError for a malformed one."""

    def finish(self) -> None:
        """Do what needs all rows."""


class ComparisonReader:
    """Reads a shape whose rows are comparisons."""

    def __init__(self, read: RowReader, outcome: Outcome, vectors: VectorColumns | None) -> None:
        self._read = read
        self._vectors = vectors
        self._outcome = outcome
        self._rated: set[tuple[Text, Text, str, float]] = set()

    def add(self, row: Row) -> None:
        """Take one row. Raises RowError for a malformed one."""
        sides = self._sides(row)
        rows = [row] if sides is None else list(answers(known_form(row, sides), sides))
        read, same = [], []  # nothing of a malformed row is kept
        for one in rows:
            try:
                read.append((one, self._read(one)))
            except NoPreference as reason:
                same.append(str(reason))
        for reason_ in same:
            self._outcome.drop(row.origin, reason_)
        for one, pairs in read:
            rated = ratings(one, pairs[0])
            if self._vectors is not None:
                self._vectors.check(one, pairs[0])
            self._outcome.pairs.extend(pairs)
            self._outcome.ratings.extend(rating for rating in rated if self._is_new(rating))

    def finish(self) -> None:
        """Do nothing: every row stood alone."""

    def _sides(self, row: Row) -> tuple[str, ...] | None:
        """Return the columns of the two responses; None for transcripts, which have one form only."""
        if self._read is strength:
            return names_of(row, RESPONSES)
        return SIDES.get(self._read)

    def _is_new(self, rating: Rating) -> bool:
        """Say whether a rating was not met before: a response is in many pairs."""
        content = (rating.prompt, rating.response, rating.attribute, rating.rating)
        before = len(self._rated)
        self._rated.add(content)
        return len(self._rated) > before


def shape_reader(shape: str, outcome: Outcome, vectors: VectorColumns | None = None) -> ShapeReader:
    """Return the reader of a known shape; what it reads goes to `outcome`, once `vectors` found no fault."""
    if shape == "ratings":
        return RatingsReader(outcome)
    return ComparisonReader(COMPARISONS[shape], outcome, vectors)


def recognise(rows: Sequence[Row]) -> str:
    """Return the shape of the first row that shows one. Raises BadInput where none does."""
    for row in rows:
        shape = _shape(row)
        if shape is not None:
            return shape
    names = ", ".join(dict.fromkeys(repr(name) for row in rows for name in row.values))
    known = "; ".join(f"{shape} ({columns})" for shape, columns in COLUMNS.items())
    raise BadInput(f"{rows[0].origin}: found the columns {names or 'of an empty object'}; expected {known}")


def _shape(row: Row) -> str | None:
    names = row.values.keys()
    if names >= REVERSAL_FIELDS:
        return "reversals"
    if names >= {"chosen", "rejected"}:
        chosen = row.values["chosen"]
        transcript = isinstance(chosen, str) and TURN.match(chosen) is not None
        return "hh" if transcript and "prompt" not in names else "preference"
    if names_of(row, RESPONSES) and names_of(row, STRENGTHS):
        return "strength"
    return "ratings" if names >= {"prompt", "response"} and has_ratings(row) else None
