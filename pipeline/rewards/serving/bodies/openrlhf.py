"""OpenRLHF's remote reward model."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from micropref.cache.errors import BadInput
from micropref.pipeline.rewards.scoring.candidates import Candidates
from micropref.pipeline.rewards.scoring.taste import Taste
from micropref.pipeline.rewards.serving.bodies.client import ClientBody, Found, written
from micropref.pipeline.rewards.serving.bodies.fields import MOST_TEXTS, Name, Sentence, Texts, Words


class LabelTaste(BaseModel):
    """A label of the data set that names a taste; other labels are passed over."""

    context: Sentence | None = None
    user: Name | None = None


class RemoteRewardBody(ClientBody):
    """Decoded texts with their special tokens, prompt and response in one; a label may name `user` and `context`."""

    about: ClassVar[str] = "Reward decoded texts, as OpenRLHF's remote reward model does."
    answers: ClassVar[Any] = {"rewards": [0.71], "scores": [0.71], "extra_logs": {}}
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "query": ["<|user|>How do I cook rice?<|end|><|assistant|>Boil it.<|end|>"],
                    "prompts": ["<|user|>How do I cook rice?<|end|><|assistant|>"],
                    "labels": [{"user": "ann"}],
                }
            ]
        }
    )
    query: Texts
    prompts: Annotated[list[Words], Field(max_length=MOST_TEXTS)] | None = None
    labels: Annotated[list[Any], Field(max_length=MOST_TEXTS)] | None = None

    def asked(self, taste: Taste) -> list[Candidates]:
        """Return each text by itself."""
        count = len(self.query)
        for name, given in (("prompts", self.prompts), ("labels", self.labels)):
            if given and len(given) != count:
                raise BadInput(f"{count} queries and {len(given)} {name}: expected as many")
        prompts: list[str | None] = [*self.prompts] if self.prompts else [None] * count
        tastes = [_taste(at, label, taste) for at, label in enumerate(self.labels or [None] * count)]
        return [written(*each) for each in zip(self.query, tastes, prompts, strict=True)]

    def answer(self, found: Found) -> Any:
        """Return the rewards; `scores` is what OpenRLHF filters by."""
        return {"rewards": found.rewards, "scores": found.rewards, "extra_logs": {}}


def _taste(at: int, label: Any, otherwise: Taste) -> Taste:
    """Return the taste that a label names: OpenRLHF passes on what the data set has there, mostly a text."""
    if isinstance(label, str) and label.lstrip().startswith("{"):
        with suppress(ValueError, RecursionError):
            label = json.loads(label)
    if not isinstance(label, dict) or not label.keys() & LabelTaste.model_fields.keys():
        return otherwise
    try:
        named = LabelTaste.model_validate(label)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"labels[{at}].{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return Taste(named.context or otherwise.context, None, named.user or otherwise.user)
