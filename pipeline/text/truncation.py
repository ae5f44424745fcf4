"""Cutting a prompt from the left, inside the user's own words, until the texts it begins fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from micropref.pipeline.sources.pairs import Text

TokenStarts = Callable[[str], Sequence[int]]
"""Character at which each token of a text begins, the text tokenized alone."""


def truncate_prompt(prompt: Text, excess: Callable[[Text], int], starts: TokenStarts) -> Text | None:
    """Return the longest tail of the prompt found to fit, or None where not one token of it can stay.

    A conversation loses its oldest words first, message by message; system messages, roles and the (then empty)
    messages themselves stay, so that the template finds the conversation it expects.

    `excess` tells by how many tokens the longest text that begins with a given prompt is too long (<= 0: it fits).
    """
    while (surplus := excess(prompt)) > 0:
        shorter = _cut(prompt, surplus, starts)
        if shorter is None:
            return None
        prompt = shorter
    return prompt


def size(text: Text) -> int:
    """Return how many characters a text has."""
    return len(text) if isinstance(text, str) else sum(len(message.content) + len(message.more) for message in text)


def last_characters(prompt: Text, most: int) -> Text | None:
    """Return a prompt without its oldest words beyond the last `most` characters.

    White space behind the words goes first. None: nothing of the words would stay.
    """
    parts = [part.rstrip() for part in _user_words(prompt)]
    left = most - (size(prompt) - sum(map(len, _user_words(prompt))))
    for at in reversed(range(len(parts))):
        parts[at] = parts[at][-left:] if left > 0 else ""
        left -= len(parts[at])
    return _with_user_words(prompt, parts) if any(parts) else None


def _cut(prompt: Text, tokens: int, starts: TokenStarts) -> Text | None:
    """Return the prompt without about `tokens` of its first tokens, always shorter; None: nothing would stay."""
    parts = _user_words(prompt)
    begins = [list(starts(part)) for part in parts]
    # What templates and merges add makes `tokens` an estimate: the last token is left to the next round.
    tokens = min(tokens, sum(map(len, begins)) - 1)
    if tokens < 1:
        return None
    for at, begin in enumerate(begins):
        if tokens == 0:
            break
        if tokens < len(begin):
            parts[at] = parts[at][_character(begin, tokens, len(parts[at])) :]
            break
        tokens -= len(begin)
        parts[at] = ""
    return _with_user_words(prompt, parts) if any(parts) else None


def _character(begin: Sequence[int], token: int, end: int) -> int:
    """Return where the first token from `token` on that starts a later character begins.

    Several byte tokens may share one character: cutting between them would cut nothing.
    """
    return next((character for character in begin[token:] if character > 0), end)


def _user_words(prompt: Text) -> list[str]:
    if isinstance(prompt, str):
        return [prompt]
    return [message.content for message in prompt if message.role != "system"]


def _with_user_words(prompt: Text, parts: Sequence[str]) -> Text:
    if isinstance(prompt, str):
        return parts[0]
    words = iter(parts)
    return tuple(m if m.role == "system" else replace(m, content=next(words)) for m in prompt)
