"""What is scored: candidate responses to one prompt, and what became of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from micropref.pipeline.rewards.scoring.taste import Taste
from micropref.pipeline.sources.pairs import Origin, Text

HERE = Origin("here", 1)
"""Origin of texts that come from no file."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Responses to one prompt."""

    prompt: Text
    """What they answer."""
    responses: tuple[Text, ...]
    """The responses, without the prompt."""
    taste: Taste = field(default_factory=Taste)
    """By whose taste they are scored."""
    together: bool = False
    """Whether they are compared: where one does not fit, the prompt is cut to the same text for all."""
    origin: Origin = HERE
    """Where they were read."""
    written: bool = False
    """Whether each response is a whole text, prompt, template and special tokens included, which is read as it is; the
    prompt is then such a text too, empty where it is not known."""


@dataclass(frozen=True)
class Rewarded:
    """The rewards of n candidates by K heads."""

    rewards: tuple[float | None, ...]
    """[n] Σ_k π_k w_k · e; None where there is none, for the reason next to it."""
    heads: tuple[tuple[float, ...] | None, ...]
    """[n][K] each head's reward."""
    weights: tuple[float, ...] | None
    """[K] π: what heads weigh, the same for all candidates."""
    reasons: tuple[str | None, ...]
    """[n] why a candidate has no reward."""
    trimmed: tuple[bool, ...]
    """[n] whether the prompt was cut from the left for it to fit."""
    p_first: float | None = None
    """Probability that the first of two candidates is preferred, by the run's scale; None: not two, or one has none."""
    tokens: tuple[int, ...] = ()
    """[n] tokens of each text, prompt and template included; 0: it could not be read."""

    @property
    def best(self) -> int | None:
        """Return which candidate has the highest reward, the first of equals; None where none has one."""
        there = [at for at, reward in enumerate(self.rewards) if reward is not None]
        return max(there, key=lambda at: (self.rewards[at], -at), default=None)


@dataclass
class ResponseCounts:
    """What became of the responses that were scored."""

    responses: int = 0
    rewarded: int = 0
    """Those that have a reward."""
    trimmed: int = 0
    """Of these, those whose prompt was cut."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Why others have none -> how many."""

    def add(self, found: Rewarded) -> None:
        """Count the responses of a group."""
        there = [reward is not None for reward in found.rewards]
        self.responses += len(there)
        self.rewarded += sum(there)
        self.trimmed += sum(cut and one for cut, one in zip(found.trimmed, there, strict=True))
        self.reasons.update(reason for reason in found.reasons if reason is not None)

    def told(self) -> dict[str, Any]:
        """Return the counts by the names that reports have for them, the commonest reason first."""
        return {
            "responses": self.responses,
            "rewarded": self.rewarded,
            "trimmed": self.trimmed,
            "without_reward": dict(self.reasons.most_common()),
        }


def without_reward(count: int, reason: str) -> Rewarded:
    """Return what candidates are that cannot be scored at all."""
    return Rewarded((None,) * count, (None,) * count, None, (reason,) * count, (False,) * count, tokens=(0,) * count)
