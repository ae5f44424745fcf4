"""Deciding what each column of a source is read as: by what the user says, by its name, by what it holds."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from micropref.cache.errors import BadInput
from micropref.pipeline.sources.column_profile import ColumnProfile
from micropref.pipeline.sources.columns import (
    ATTRIBUTE,
    IGNORED,
    OWN_NAME,
    USER,
    WHOLE_NUMBERS,
    ColumnChoices,
    ColumnReading,
    EarlierReading,
    ShapeRoles,
    SourceReading,
)
from micropref.pipeline.sources.known_names import MEDIA, RATINGS, is_named, no_rating, normal
from micropref.pipeline.sources.text_forms import CONVERSATIONS, begins_with_prompt, conversation

SMALL, LARGE = (-10, 10), (0, 100)
"""Scales of ratings: numbers of a column of an unknown name lie all in one of them."""
NAMES_SHOWN = 12
"""Columns that an error names at most."""
CHOSEN = "as this command says"
VECTOR_ENDING = "_vector"
STRENGTH = "preference_strength"
SAID_ROLES = (USER, ATTRIBUTE, "context", "prompt", "response", "chosen", "rejected", "margin")
"""Roles that the reason of an ignored column may name."""

Profiles = Mapping[str, ColumnProfile]


def can_have(role: str, profile: ColumnProfile) -> bool:
    """Say whether most of what a column holds is what a role of another name takes: ids, labels, or texts."""
    if role == USER:
        return profile.holds_ids
    if role == STRENGTH:
        return profile.is_numeric
    kinds = ("text",) if role in (ATTRIBUTE, "context") else ("text", "list", "number as text")
    return 2 * sum(profile.types[kind] for kind in kinds) > profile.values


def named_columns(role: str, profiles: Profiles, choices: ColumnChoices) -> list[str]:
    """Return the columns that may have a role: the one that the user names, the one of its name, or of known names."""
    if role in choices.columns:
        return [choices.columns[role]] if choices.columns[role] else []
    taken = set(choices.columns.values())
    if role in profiles and role not in taken:
        return [role]
    spelled = [name for name in profiles if name not in taken and normal(name) == role]
    if spelled:
        return spelled
    return [
        name for name, one in profiles.items() if name not in taken and is_named(role, name) and can_have(role, one)
    ]


def only_one(path: str, role: str, found: list[str]) -> str | None:
    """Return the column of a role, None where there is none. Raises BadInput where several may have it."""
    if len(found) > 1:
        names = " and ".join(map(repr, found))
        others = "".join(f" or {role}={name}" for name in found[1:])
        raise BadInput(f"{path}: the columns {names} may each be the {role}: give `columns` {role}={found[0]}{others}")
    return found[0] if found else None


def check_choices(path: str, profiles: Profiles, choices: ColumnChoices, roles: Collection[str]) -> None:
    """Raise BadInput where a user names a role or a column that is not there."""
    there = ", ".join(map(repr, list(profiles)[:NAMES_SHOWN])) or "none"
    for role, name in choices.columns.items():
        if role not in roles:
            raise BadInput(f"columns has the role {role!r}: expected one of {', '.join(roles)}")
        if name and name not in profiles:
            raise BadInput(f"{path}: found no column {name!r}, which `columns` gives the role {role} (there: {there})")
    for name in choices.attributes or ():
        if name not in profiles:
            raise BadInput(f"{path}: found no column {name!r}, which `attributes` names (there: {there})")
        if name in choices.columns.values() or name in roles:
            raise BadInput(f"{path}: column {name!r} has a role of its own; leave it out of `attributes`")


def is_rated(profile: ColumnProfile, choices: ColumnChoices) -> bool:
    """Say whether a column may be a rated attribute: chosen, or numbers whose name does not say otherwise."""
    if choices.attributes is not None:
        return profile.name in choices.attributes
    return profile.name not in choices.columns.values() and profile.is_numeric and no_rating(profile.name) is None


@dataclass
class Decision:
    """The roles of a source's columns as they are decided, one after the other."""

    path: str
    shape: str
    roles: ShapeRoles
    profiles: Profiles
    choices: ColumnChoices
    earlier: EarlierReading | None = None
    found: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Column → role and reason."""

    def reading(self) -> SourceReading:
        """Return how all columns are read. Raises BadInput where that is not plain."""
        if self.earlier is not None:
            self._keep(self.earlier)
        taken = {role for role, _ in self.found.values()}
        for role in self.roles.roles:
            if role not in taken:
                self._take(role)
        if self.roles.rated:
            self._rate()
        elif self.choices.attributes is not None:
            raise BadInput(f"{self.path}: attributes has no effect on {self.shape} rows: leave it out")
        readings = tuple(self._one(profile) for profile in self.profiles.values())
        return SourceReading(self.shape, readings, self.roles.rated)

    def _keep(self, earlier: EarlierReading) -> None:
        """Take over what the data set was made with; columns that were not there then are decided now."""
        for name in self.profiles:
            if name in earlier.roles:
                self.found[name] = (earlier.roles[name].role, earlier.roles[name].reason)
            elif earlier.first_release:
                self.found[name] = (IGNORED, "no role when this data set was made")

    def _take(self, role: str) -> None:
        free = {name: one for name, one in self.profiles.items() if name not in self.found}
        names = named_columns(role, free, self.choices)
        if role not in self.choices.columns:
            if role == "context":  # a conversation is no sentence about who judges
                names = [name for name in names if conversation(self.profiles[name].first) is None]
            if role == "prompt" and role not in names and self._has_prompt_inside():
                return
            talks = [name for name in CONVERSATIONS if role == "prompt" and name in free]
            talks = [name for name in talks if conversation(self.profiles[name].first) is not None][:1]
            if talks and names and 2 * free[names[0]].rows < free[talks[0]].rows:
                names = []
            if talks and not names:
                self.found[talks[0]] = (role, "messages that no side begins with")
                return
        name = only_one(self.path, role, names)
        if name is not None:
            known = f"a known name of the {role}" if normal(name) != role else OWN_NAME
            self.found[name] = (role, CHOSEN if role in self.choices.columns else known)

    def _has_prompt_inside(self) -> bool:
        """Say whether the chosen side is a conversation that begins with its prompt."""
        chosen = [self.profiles[name].first for name, (role, _) in self.found.items() if role == "chosen"]
        return bool(chosen) and begins_with_prompt(chosen[0])

    def _rate(self) -> None:
        unclear = []
        for profile in self.profiles.values():
            if profile.name in self.found or not is_rated(profile, self.choices):
                continue
            if self.choices.attributes is None and not _on_a_scale(profile):
                unclear.append(profile)
            told = CHOSEN if self.choices.attributes is not None else "numbers"
            self.found[profile.name] = (ATTRIBUTE, f"{told}: {profile.span}" if profile.numbers else told)
        if unclear and self.earlier is None:
            self._refuse(unclear)

    def _refuse(self, unclear: list[ColumnProfile]) -> None:
        first = unclear[0]
        every = [name for name, (role, _) in self.found.items() if role == ATTRIBUTE]
        clear = [name for name in every if name not in {one.name for one in unclear}]
        ways = [",".join(names[:NAMES_SHOWN]) for names in (clear, every) if names]
        lines = f"`attributes` {ways[0]}" + (f", or {ways[1]} where it is a rating too" if len(ways) > 1 else "")
        raise BadInput(
            f"{self.path}: column {first.name!r} holds numbers from {first.span}, on no scale of ratings that is known "
            f"({SMALL[0]} to {SMALL[1]}, {LARGE[0]} to {LARGE[1]}): say which columns are ratings: {lines}"
        )

    def _one(self, profile: ColumnProfile) -> ColumnReading:
        role, reason = self.found.get(profile.name) or (IGNORED, self._why_ignored(profile))
        return ColumnReading(profile.name, role, self._type(profile, role), profile.rows, reason)

    def _type(self, profile: ColumnProfile, role: str) -> str:
        """Return what a column holds; that of a user decides whether 12.0 is the id 12, and stays as it was."""
        if role != USER:
            return profile.type
        if self.earlier is not None and profile.name in self.earlier.roles:
            return profile.type if self.earlier.first_release else self.earlier.roles[profile.name].type
        return WHOLE_NUMBERS if profile.holds_whole_numbers else profile.type

    def _why_ignored(self, profile: ColumnProfile) -> str:
        """Return why no role took a column."""
        name, taken = profile.name, {role: name for name, (role, _) in self.found.items()}
        role = next((role for role in SAID_ROLES if is_named(role, name)), None)
        if role in taken:
            return f"the {role} is read from {taken[role]!r}"
        if role is not None and role not in self.roles.roles and not self.roles.rated:
            return f"{self.shape} rows have no {role}"
        if not profile.values:
            return "it is empty"
        if MEDIA.fullmatch(normal(name)):
            return "images, sounds and films are not read"
        if name.endswith(VECTOR_ENDING):
            return "vectors are read by import-vectors"
        return self._why_not_rated(profile) if self.roles.rated else "no role of this name is known"

    def _why_not_rated(self, profile: ColumnProfile) -> str:
        """Return why a column of a ratings source is no attribute."""
        if profile.is_numeric:
            return no_rating(profile.name) or "not among the chosen attributes"
        if profile.numbers:
            return f"{profile.numbers:,} numbers among {profile.values:,} values, no number at {profile.other}"
        return "no numbers, and no role of this name is known"


def _on_a_scale(profile: ColumnProfile) -> bool:
    """Say whether a column's numbers are surely ratings, by its name or by their size."""
    scales = (SMALL, LARGE)
    return bool(RATINGS.fullmatch(normal(profile.name))) or any(
        low <= profile.low and profile.high <= high for low, high in scales
    )
