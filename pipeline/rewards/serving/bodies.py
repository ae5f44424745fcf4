"""What requests and answers look like, as the OpenAPI file says it too."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

LONGEST_TEXT = 200_000
"""Characters of a text at most."""
MOST_TEXTS = 1024
"""Texts of a request at most."""

Words = Annotated[str, Field(max_length=LONGEST_TEXT)]
Name = Annotated[str, Field(min_length=1, max_length=256)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ChatMessage(BaseModel):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Words


Chat = Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_TEXTS)]


class WithTaste(BaseModel):
    """By whose taste responses are scored."""

    context: Annotated[str, Field(min_length=1, max_length=10_000)] | None = None
    attribute: Name | None = None
    user: Name | None = None
    weights: Annotated[list[Weight], Field(min_length=1, max_length=1024)] | None = None


class ScoreBody(WithTaste):
    """Responses to one prompt."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "prompt": "How do I cook rice?",
                    "responses": ["Rinse it, then simmer it.", "Boil."],
                    "context": "Be brief.",
                }
            ]
        }
    )
    prompt: Words | Chat
    responses: Annotated[list[Words | Chat], Field(min_length=1, max_length=MOST_TEXTS)]


class ScoreAnswer(BaseModel):
    """Rewards of n responses."""

    model: str
    rewards: list[float | None]
    heads: list[list[float] | None]
    weights: list[float] | None
    best: int | None
    p_first: float | None
    reasons: list[str | None]


class FeedbackBody(BaseModel):
    """One choice of a person."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "user": "ann",
                    "prompt": "How do I cook rice?",
                    "chosen": "Boil.",
                    "rejected": "Rinse it, then simmer it.",
                    "id": "ann-1",
                }
            ]
        }
    )
    user: Name
    prompt: Words | Chat
    chosen: Words | Chat
    rejected: Words | Chat
    context: Annotated[str, Field(min_length=1, max_length=10_000)] | None = None
    id: Name | None = None


class FeedbackAnswer(BaseModel):
    """What a choice did."""

    recorded: bool
    choices: int
    weights: list[float]


class UserAnswer(BaseModel):
    """What is known of a person."""

    user: str
    choices: int
    weights: list[float]


class ForgottenAnswer(BaseModel):
    """What was removed of a person."""

    user: str
    removed: int


class RlhfBody(BaseModel):
    """OpenRLHF's request: decoded texts with their special tokens, read without a template."""

    model_config = ConfigDict(extra="ignore")
    query: Annotated[list[Words], Field(min_length=1, max_length=MOST_TEXTS)]
    prompts: Annotated[list[Words], Field(max_length=MOST_TEXTS)] | None = None
    labels: Annotated[list[Any], Field(max_length=MOST_TEXTS)] | None = None
    user: Name | None = None


class ClassifyBody(BaseModel):
    """The request of verl and of vLLM's clients: decoded texts, read without a template."""

    model_config = ConfigDict(extra="ignore")
    model: str | None = None
    input: Words | Annotated[list[Words], Field(min_length=1, max_length=MOST_TEXTS)]
    use_activation: bool = False
    user: Name | None = None


class PairScoreBody(BaseModel):
    """vLLM's /score: prompts and responses, one prompt for all or one for each."""

    model_config = ConfigDict(extra="ignore")
    model: str | None = None
    queries: Words | list[Words] | None = None
    documents: Words | list[Words] | None = None
    text_1: Words | list[Words] | None = None
    text_2: Words | list[Words] | None = None
    user: Name | None = None


class RerankBody(BaseModel):
    """vLLM's, Jina's and Cohere's /rerank: the best responses to a prompt first."""

    model_config = ConfigDict(extra="ignore")
    model: str | None = None
    query: Words
    documents: Annotated[list[Words], Field(min_length=1, max_length=MOST_TEXTS)]
    top_n: Annotated[int, Field(ge=0)] | None = None
    user: Name | None = None
