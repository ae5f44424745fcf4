"""The shapes of sources, and how a shape is recognised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from micropref.cache.errors import BadInput
from micropref.pipeline.sources.column_roles import Profiles, is_rated, named_columns
from micropref.pipeline.sources.columns import ColumnChoices, ShapeRoles, SourceReading
from micropref.pipeline.sources.comparison_rows import hh, preference, ratings, reversals, strength
from micropref.pipeline.sources.pairs import PreferencePair, Rating, Text
from micropref.pipeline.sources.prompt_split import TURN
from micropref.pipeline.sources.rating_rows import RatingsReader
from micropref.pipeline.sources.rows import NoPreference, Outcome, Row
from micropref.pipeline.sources.text_forms import answers, known_form
from micropref.pipeline.sources.vector_columns import VectorColumns

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
    strength: ("response_1", "response_2"),
}
"""Readers whose rows have two responses → their columns."""
SHAPES = {
    "reversals": ShapeRoles(
        ("prompt", "response_a", "response_b", "criteria_x", "criteria_y", "category_x", "category_y"),
        ("user", "tools"),
    ),
    "preference": ShapeRoles(
        ("chosen", "rejected"),
        ("prompt", "attribute", "context", "user", "margin", "chosen_ratings", "rejected_ratings", "tools"),
    ),
    "hh": ShapeRoles(
        ("chosen", "rejected"), ("attribute", "context", "user", "margin", "chosen_ratings", "rejected_ratings")
    ),
    "strength": ShapeRoles(
        ("response_1", "response_2", "preference_strength"), ("prompt", "attribute", "context", "user", "tools")
    ),
    "ratings": ShapeRoles(("prompt", "response"), ("user", "tools"), rated=True),
}
"""Every shape → the roles of its columns, in the order in which shapes are recognised."""
ONE_PAIR_A_ROW = ("preference", "hh")
"""Shapes whose rows are one pair each, so that a row can hold the vectors of its texts."""


class ShapeReader(Protocol):
    """Turns the rows of one source into an outcome."""

    across_users: bool
    """Whether responses rated by different users were compared, so that pairs have no user."""

    def add(self, row: Row) -> None:
        """Take one row. Raises RowError for a malformed one."""

    def finish(self) -> None:
        """Do what needs all rows."""


class ComparisonReader:
    """Reads a shape whose rows are comparisons."""

    across_users = False

    def __init__(self, read: RowReader, outcome: Outcome, vectors: VectorColumns | None) -> None:
        self._read = read
        self._vectors = vectors
        self._outcome = outcome
        self._rated: set[tuple[Text, Text, str, float]] = set()

    def add(self, row: Row) -> None:
        """Take one row. Raises RowError for a malformed one."""
        sides = SIDES.get(self._read)
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

    def _is_new(self, rating: Rating) -> bool:
        """Say whether a rating was not met before: a response is in many pairs."""
        content = (rating.prompt, rating.response, rating.attribute, rating.rating)
        before = len(self._rated)
        self._rated.add(content)
        return len(self._rated) > before


def shape_reader(reading: SourceReading, outcome: Outcome, vectors: VectorColumns | None = None) -> ShapeReader:
    """Return the reader of a source; what it reads goes to `outcome`, once `vectors` found no fault."""
    if reading.rated:
        return RatingsReader(outcome, reading)
    return ComparisonReader(COMPARISONS[reading.shape], outcome, vectors)


def recognise(rows: Sequence[Row], profiles: Profiles, choices: ColumnChoices) -> str:
    """Return the shape of the first row that shows one, by the names of roles before other known names.

    `profiles` say what the columns hold. Raises BadInput where no row shows a shape.
    """
    given = choices.columns
    roles = {role for shape in SHAPES.values() for role in shape.roles} - set(given) - set(given.values())
    own = ColumnChoices({role: role for role in roles} | dict(given))
    for named in (own, choices):
        for row in rows:
            shape = _shape(row, profiles, named, choices)
            if shape is not None:
                return shape
    names = ", ".join(map(repr, profiles))
    known = "; ".join(f"{shape} ({columns})" for shape, columns in COLUMNS.items())
    raise BadInput(
        f"{rows[0].origin}: found the columns {names or 'of an empty object'}; expected {known}; `columns` says which "
        "column is which, such as prompt=NAME"
    )


def _shape(row: Row, profiles: Profiles, named: ColumnChoices, choices: ColumnChoices) -> str | None:
    there = {name: one for name, one in profiles.items() if name in row.values}
    found = {
        role: [name for name in named_columns(role, there, named) if name in there]
        for shape in SHAPES.values()
        for role in shape.required
    }
    for shape, roles in SHAPES.items():
        if shape == "hh" or not all(found[role] for role in roles.required):
            continue
        if shape == "preference":
            chosen = row.values[found["chosen"][0]]
            transcript = isinstance(chosen, str) and TURN.match(chosen) is not None
            asked = choices.columns.get("prompt", "prompt") in there
            return "hh" if transcript and not asked else "preference"
        if not roles.rated or any(is_rated(one, choices) for one in profiles.values()):
            return shape
    return None
