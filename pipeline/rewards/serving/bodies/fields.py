"""Fields that requests have in common: texts, conversations, and by whose taste they are scored."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from micropref.pipeline.rewards.scoring.taste import Taste
from micropref.pipeline.sources.pairs import Message, Text

LONGEST_TEXT = 200_000
"""Characters of a text at most."""
MOST_TEXTS = 1024
"""Texts of a request at most."""

Words = Annotated[str, Field(max_length=LONGEST_TEXT)]
Texts = Annotated[list[Words], Field(min_length=1, max_length=MOST_TEXTS)]
Name = Annotated[str, Field(min_length=1, max_length=256)]
Sentence = Annotated[str, Field(min_length=1, max_length=10_000)]
Weight = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


class TextPart(BaseModel):
    """A piece of a message; other kinds, such as images, are refused."""

    type: Literal["text"] = "text"
    text: Words


class ChatMessage(BaseModel):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Words | Annotated[list[TextPart], Field(max_length=MOST_TEXTS)]

    @property
    def text(self) -> str:
        """Return what was said."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


Chat = Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_TEXTS)]


class WithTaste(BaseModel):
    """By whose taste responses are scored; nothing given: as the run weighs its heads for the prompt."""

    context: Sentence | None = None
    attribute: Name | None = None
    user: Name | None = None
    weights: Annotated[list[Weight], Field(min_length=1, max_length=1024)] | None = None

    def taste(self, user: str | None = None) -> Taste:
        """Return by whose taste, `user` where the request names nothing.

        Raises BadInput where it names two that exclude each other.
        """
        weights = None if self.weights is None else tuple(self.weights)
        given = Taste(self.context, self.attribute, self.user, weights)
        return given if given.user or given.attribute or given.weights else Taste(given.context, None, user)


def text_of(value: str | Chat) -> Text:
    """Return a text or a conversation as the rest of micropref has it."""
    return value if isinstance(value, str) else tuple(Message(one.role, one.text) for one in value)
