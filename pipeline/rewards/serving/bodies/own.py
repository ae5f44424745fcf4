"""Requests and answers of our own routes, as the OpenAPI file says it too."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from micropref.pipeline.rewards.serving.bodies.fields import MOST_TEXTS, Chat, Name, Sentence, WithTaste, Words


class ScoreBody(WithTaste):
    """Responses to one prompt."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "prompt": "How do I cook rice?",
                    "responses": ["Rinse it, then simmer it.", "Boil."],
                    "context": "Be brief.",
                }
            ]
        },
    )
    prompt: Words | Chat
    responses: Annotated[list[Words | Chat], Field(min_length=1, max_length=MOST_TEXTS)]


class ScoreAnswer(BaseModel):
    """Rewards of n responses."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "mixture-1a2b3c4d",
                    "rewards": [0.71, -0.2],
                    "heads": [[0.9, 0.1], [-0.5, 0.7]],
                    "weights": [0.75, 0.25],
                    "best": 0,
                    "p_first": 0.71,
                    "reasons": [None, None],
                }
            ]
        }
    )
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
        extra="forbid",
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
        },
    )
    user: Name
    prompt: Words | Chat
    chosen: Words | Chat
    rejected: Words | Chat
    context: Sentence | None = None
    id: Name | None = None


class FeedbackAnswer(BaseModel):
    """What a choice did."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"recorded": True, "choices": 1, "weights": [0.6, 0.4]}]})
    recorded: bool
    choices: int
    weights: list[float]


class UserAnswer(BaseModel):
    """What is known of a person."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"user": "ann", "choices": 1, "weights": [0.6, 0.4]}]})
    user: str
    choices: int
    weights: list[float]


class ForgottenAnswer(BaseModel):
    """What was removed of a person."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"user": "ann", "removed": 1}]})
    user: str
    removed: int
