"""Sources of rated responses: every two responses to a prompt are compared, attribute by attribute."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import combinations

from micropref.cache.errors import BadInput
from micropref.pipeline.sources import field_parsing as fields
from micropref.pipeline.sources.columns import SourceReading
from micropref.pipeline.sources.pairs import Origin, PreferencePair, Rating, Text, is_empty
from micropref.pipeline.sources.prompt_split import behind_prompt, with_tools
from micropref.pipeline.sources.rows import Outcome, Row, RowError
from micropref.pipeline.sources.scalars import is_absent
from micropref.pipeline.sources.text_forms import known_form, tools

MANY_COMPARISONS = 10_000
"""Comparisons of one prompt that are worth a word."""
MOST_COMPARISONS = 5_000_000


@dataclass(frozen=True, slots=True)
class Rated:
    """One response with all its ratings."""

    response: Text
    """The response, without the prompt."""
    ratings: dict[str, float]
    """Attribute → rating, without the attributes that were not rated."""
    origin: Origin
    """The row it was read from."""


class RatingsReader:
    """Reads rated responses; rows of a prompt may lie anywhere in the source.

    The source's reading says which columns are attributes. Where rows name a user, only responses rated by the same
    user are compared; where no user rated two responses to a prompt, those of all users are, and pairs have no user.
    """

    def __init__(self, outcome: Outcome, reading: SourceReading) -> None:
        self._outcome = outcome
        self._noted = Counter[str]()
        self._attributes = reading.attributes
        self.across_users = False
        """Whether responses of different users were compared."""
        self._groups: dict[tuple[Text, str | None], list[Rated]] = {}

    def add(self, row: Row) -> None:
        """Take one rated response. Raises RowError for a malformed row."""
        self._noted = row.noted
        row = known_form(row, ("response",))
        asked = fields.text(row, "prompt")
        prompt, responses = behind_prompt(asked, {"response": fields.response(row, "response")}, row)
        prompt, (response,) = with_tools(prompt, responses, tools(row))
        user = row.shared(fields.user(row))
        ratings = self._ratings(row)
        prompt, response = row.shared(prompt), row.shared(response)
        if not ratings:
            self._outcome.drop(row.origin, "not rated")
            return
        self._groups.setdefault((prompt, user), []).append(Rated(response, ratings, row.origin))
        self._outcome.ratings.extend(
            Rating(prompt, response, attribute, rating, row.origin) for attribute, rating in ratings.items()
        )

    def finish(self) -> None:
        """Compare the responses of every prompt, prompts in order of first appearance.

        Raises BadInput where that makes more pairs than anyone wants.
        """
        self.across_users = self._needs_all_users()
        if self.across_users:
            groups = self._groups
            self._groups = {(prompt, None): [] for prompt, _ in groups}
            for (prompt, _), group in groups.items():
                self._groups[prompt, None] += group
        self._count()
        for (prompt, user), group in self._groups.items():
            if len(group) == 1:
                self._outcome.drop(group[0].origin, "only response of its prompt")
            for first, second in combinations(group, 2):
                if first.response == second.response:
                    self._outcome.drop(first.origin, "identical responses", f"the same as at {second.origin}")
                elif is_empty(first.response) and is_empty(second.response):
                    self._outcome.drop(first.origin, "both responses empty", f"as at {second.origin}")
                else:
                    self._compare(prompt, user, first, second)

    def _count(self) -> None:
        """Note where many responses to one prompt make many comparisons, and refuse far too many."""
        counts = {group[0].origin: len(group) * (len(group) - 1) // 2 for group in self._groups.values()}
        total, most = sum(counts.values()), max(counts.values(), default=0)
        if total > MOST_COMPARISONS:
            worst = max(counts, key=counts.__getitem__)
            raise BadInput(
                f"{worst}: rated responses make {total:,} comparisons of two, {most:,} of this prompt; expected at "
                f"most {MOST_COMPARISONS:,}: give fewer responses to a prompt, or a `limit`"
            )
        if most >= MANY_COMPARISONS:
            self._noted[f"comparisons of two responses, for every attribute, {most:,} of one prompt"] += total

    def _needs_all_users(self) -> bool:
        """Say whether a prompt has several responses, but none has several of one user."""
        prompts = {prompt for prompt, _ in self._groups}
        return len(prompts) < len(self._groups) and all(len(group) == 1 for group in self._groups.values())

    def _compare(self, prompt: Text, user: str | None, first: Rated, second: Rated) -> None:
        """Add a pair for every attribute on which two responses differ; ties are dropped."""
        leads = {
            name: first.ratings[name] - second.ratings[name]
            for name in self._attributes
            if name in first.ratings and name in second.ratings
        }
        firsts = sum(lead > 0 for lead in leads.values())
        seconds = sum(lead < 0 for lead in leads.values())
        unanimous = len(self._attributes) > 1 and len(self._attributes) in (firsts, seconds)
        for attribute, lead in leads.items():
            if lead == 0:
                self._outcome.drop(first.origin, "tie", f"{attribute!r} rated the same at {second.origin}")
                continue
            chosen, rejected = (first, second) if lead > 0 else (second, first)
            self._outcome.pairs.append(
                PreferencePair(
                    prompt,
                    chosen.response,
                    rejected.response,
                    attribute,
                    user=user,
                    unanimous=unanimous,
                    origin=first.origin,
                )
            )

    def _ratings(self, row: Row) -> dict[str, float]:
        """Return the attributes that a row rates. Raises RowError where it has none of their fields."""
        there = [name for name in self._attributes if name in row.values]
        if not there:
            raise RowError(None, "no rated attribute", f"at least one of {', '.join(map(repr, self._attributes))}")
        rated = [name for name in there if not is_absent(row.values[name])]
        return {name: fields.number(row, name) for name in rated}
