"""The texts of a pair before any template: the prompt, the context with it, and responses behind either."""

from __future__ import annotations

from dataclasses import dataclass

from micropref.pipeline.options import Responses
from micropref.pipeline.sources.pairs import PreferencePair, Text

ROLES = ("prompt", "context", "chosen", "rejected", "chosen_context", "rejected_context")
"""The texts of a pair, in the order in which they are numbered."""
SIDES = (("prompt",), ("context",), ("chosen", "rejected"), ("chosen_context", "rejected_context"))
"""Texts of a pair that have to begin with one and the same prompt."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One text of a pair."""

    prompt: Text
    """What it begins with."""
    context: str | None = None
    """What goes before the prompt."""
    response: Text | None = None
    """What follows the prompt."""


def pieces_of(pair: PreferencePair, responses: Responses) -> dict[str, Piece]:
    """Return the texts of a pair by role; `responses`: wanted behind the prompt, behind context and prompt, or both."""
    pieces = {"prompt": Piece(pair.prompt)}
    if pair.context is not None:
        pieces["context"] = Piece(pair.prompt, pair.context)
    if responses != "context":
        pieces["chosen"] = Piece(pair.prompt, None, pair.chosen)
        pieces["rejected"] = Piece(pair.prompt, None, pair.rejected)
    if responses != "plain" and pair.context is not None:
        pieces["chosen_context"] = Piece(pair.prompt, pair.context, pair.chosen)
        pieces["rejected_context"] = Piece(pair.prompt, pair.context, pair.rejected)
    return pieces
