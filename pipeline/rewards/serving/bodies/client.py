"""What requests of other servers' clients have in common: what they ask to be scored, and how they read the answer.

n texts.
"""

from __future__ import annotations

import base64
import math
import struct
import time
import uuid
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

from micropref.cache.errors import BadInput
from micropref.pipeline.rewards.scoring.candidates import Candidates, Rewarded
from micropref.pipeline.rewards.scoring.taste import Taste
from micropref.pipeline.rewards.serving.bodies.fields import WithTaste

Encoding = Literal["float", "base64"]


@dataclass(frozen=True)
class Found:
    """What a request's texts came to."""

    run: str
    """The run that scored them."""
    groups: Sequence[Rewarded]
    """Rewards of what was asked, in order."""
    squash: bool = False
    """Whether the client wants σ(reward), between 0 and 1."""

    @property
    def rewards(self) -> list[float]:
        """Return the reward of each text [n]. Raises BadInput with the reason where one has none.

        These clients know no missing reward, and a number in its place would be learned from.
        """
        each = [pair for one in self.groups for pair in zip(one.rewards, one.reasons, strict=True)]
        found = []
        for at, (reward, reason) in enumerate(each):
            if reward is None:
                raise BadInput(f"text {at} has no reward: {reason}")
            found.append(_sigmoid(reward) if self.squash else reward)
        return found

    @property
    def usage(self) -> dict[str, int]:
        """Return how many tokens the texts have."""
        tokens = sum(sum(one.tokens) for one in self.groups)
        return {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}

    def listed(self, kind: str, data: list[dict[str, Any]]) -> dict[str, Any]:
        """Return an answer in the form of OpenAI's lists."""
        return {
            "id": f"{kind}-{uuid.uuid4().hex}",
            "object": "list",
            "created": int(time.time()),
            "model": self.run,
            "data": data,
            "usage": self.usage,
        }


class ClientBody(WithTaste):
    """A request of another server's client. Fields that would change no reward, such as `model`, are passed over."""

    model_config = ConfigDict(extra="ignore")
    about: ClassVar[str]
    """What the route does, for the OpenAPI file."""
    answers: ClassVar[Any]
    """An example of the answer."""

    @abstractmethod
    def asked(self, taste: Taste) -> list[Candidates]:
        """Return what is to be scored. Raises BadInput where the texts do not fit together."""

    @abstractmethod
    def answer(self, found: Found) -> Any:
        """Return the answer as the client reads it. Raises BadInput where a text has no reward."""

    @property
    def squash(self) -> bool:
        """Say whether the client asks for σ(reward)."""
        return False


class SquashedBody(ClientBody):
    """A request that may ask for scores between 0 and 1, in vLLM's words or in TEI's."""

    use_activation: bool | None = None
    raw_scores: bool | None = None

    @property
    def squash(self) -> bool:
        """Say whether σ(reward), the activation of a model with one label, is asked for by name."""
        return self.use_activation is True or self.raw_scores is False


def written(text: str, taste: Taste, prompt: str | None = None) -> Candidates:
    """Return a text that a client wrote whole: it is read as it is, template and special tokens included."""
    return Candidates(prompt or "", (text,), taste, written=True)


def encoded(value: float, encoding: Encoding) -> list[float] | str:
    """Return a vector of one value as a client asked for it; base64 is of float32, the lowest byte first."""
    return [value] if encoding == "float" else base64.b64encode(struct.pack("<f", value)).decode()


def _sigmoid(value: float) -> float:
    return 0.5 * (1 + math.tanh(value / 2))
