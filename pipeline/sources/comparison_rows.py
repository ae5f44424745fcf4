"""The shapes of sources whose every row is a comparison: TRL preferences, HH-RLHF, reversals, strengths.

A reader of such a row returns its pairs. It raises NoPreference where the two responses are identical, or both empty.
"""

from __future__ import annotations

from micropref.pipeline.sources import field_parsing as fields
from micropref.pipeline.sources.pairs import PreferencePair, Rating, Text, is_empty
from micropref.pipeline.sources.prompt_split import behind_prompt, split_messages, split_texts, turns, with_tools
from micropref.pipeline.sources.rows import NoPreference, Row, RowError
from micropref.pipeline.sources.text_forms import tools


def preference(row: Row) -> list[PreferencePair]:
    """Read a TRL row: chosen and rejected, texts or messages, with or without their prompt."""
    chosen, rejected = fields.response(row, "chosen"), fields.response(row, "rejected")
    if type(chosen) is not type(rejected):
        raise RowError("rejected", "a text next to messages", "the form that 'chosen' has")
    _require_difference(chosen, rejected)
    if "prompt" in row.values:
        asked = fields.text(row, "prompt")
        prompt, (chosen, rejected) = behind_prompt(asked, {"chosen": chosen, "rejected": rejected}, row)
    elif isinstance(chosen, str) and isinstance(rejected, str):
        prompt, chosen, rejected = split_texts(chosen, rejected)
    else:
        assert isinstance(chosen, tuple)
        assert isinstance(rejected, tuple)
        prompt, chosen, rejected = split_messages(chosen, rejected)
    _require_difference(chosen, rejected)  # again: only one side may have repeated the prompt
    prompt, (chosen, rejected) = with_tools(prompt, [chosen, rejected], tools(row))
    return [_labelled(row, prompt, chosen, rejected)]


def hh(row: Row) -> list[PreferencePair]:
    """Read an HH-RLHF row: two transcripts, the prompt is what they have in common."""
    chosen = turns(fields.sentence(row, "chosen"), "chosen")
    rejected = turns(fields.sentence(row, "rejected"), "rejected")
    _require_difference(chosen, rejected)
    prompt, chosen, rejected = split_messages(chosen, rejected)
    _require_difference(chosen, rejected)
    return [_labelled(row, prompt, chosen, rejected)]


def reversals(row: Row) -> list[PreferencePair]:
    """Read an RPR row: criterion x prefers response a, criterion y prefers response b."""
    asked = fields.text(row, "prompt")
    said = {name: fields.response(row, name) for name in ("response_a", "response_b")}
    prompt, responses = behind_prompt(asked, said, row)
    prompt, (a, b) = with_tools(prompt, responses, tools(row))
    category_x, category_y = fields.sentence(row, "category_x"), fields.sentence(row, "category_y")
    criteria_x, criteria_y = fields.sentence(row, "criteria_x"), fields.sentence(row, "criteria_y")
    user = fields.user(row)
    _require_difference(a, b)
    return [
        _pair(row, prompt, a, b, category_x, criteria_x, user),
        _pair(row, prompt, b, a, category_y, criteria_y, user),
    ]


def strength(row: Row) -> list[PreferencePair]:
    """Read a HelpSteer row: two responses and by how much the second is better, negative where the first is."""
    asked = fields.text(row, "prompt")
    said = {name: fields.response(row, name) for name in ("response_1", "response_2")}
    prompt, responses = behind_prompt(asked, said, row)
    prompt, (a, b) = with_tools(prompt, responses, tools(row))
    lead = fields.number(row, "preference_strength")
    _require_difference(a, b)
    if lead == 0:
        raise NoPreference("tie")
    chosen, rejected = (b, a) if lead > 0 else (a, b)
    context = fields.label(row, "context")
    return [_pair(row, prompt, chosen, rejected, fields.label(row, "attribute"), context, fields.user(row), abs(lead))]


def _require_difference(first: Text, second: Text) -> None:
    if first == second:
        raise NoPreference("identical responses")
    if is_empty(first) and is_empty(second):
        raise NoPreference("both responses empty")


def ratings(row: Row, pair: PreferencePair) -> list[Rating]:
    """Return how a row rates the two responses it compares, attribute by attribute; mostly not at all."""
    rated = {"chosen_ratings": pair.chosen, "rejected_ratings": pair.rejected}
    return [
        Rating(pair.prompt, response, row.shared(attribute), rating, row.origin)
        for field, response in rated.items()
        for attribute, rating in fields.ratings(row, field).items()
    ]


def _labelled(row: Row, prompt: Text, chosen: Text, rejected: Text) -> PreferencePair:
    """Return the pair with the labels its row has."""
    return _pair(
        row,
        prompt,
        chosen,
        rejected,
        fields.label(row, "attribute"),
        fields.label(row, "context"),
        fields.user(row),
        fields.optional_number(row, "margin"),
    )


def _pair(
    row: Row,
    prompt: Text,
    chosen: Text,
    rejected: Text,
    attribute: str | None,
    context: str | None,
    user: str | None,
    margin: float | None = None,
) -> PreferencePair:
    shared = row.shared
    return PreferencePair(
        shared(prompt),
        shared(chosen),
        shared(rejected),
        shared(attribute),
        shared(context),
        shared(user),
        margin,
        origin=row.origin,
    )
