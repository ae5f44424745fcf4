"""Requests of clients of text-embeddings-inference (TEI)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field

from micropref.pipeline.rewards.scoring.candidates import Candidates
from micropref.pipeline.rewards.scoring.taste import Taste
from micropref.pipeline.rewards.serving.bodies.client import Found, SquashedBody, written
from micropref.pipeline.rewards.serving.bodies.fields import MOST_TEXTS, Texts, Words
from micropref.pipeline.rewards.serving.bodies.vllm import best_first, compared

Sequence = Annotated[list[Words], Field(min_length=1, max_length=2)]


class PredictBody(SquashedBody):
    """A whole text, a pair of prompt and response, or a batch of lists with one or two texts."""

    about: ClassVar[str] = "Reward a text, a pair of prompt and response, or a batch of both, as TEI's /predict does."
    answers: ClassVar[Any] = [{"score": 0.71, "label": "reward"}]
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"inputs": ["How do I cook rice?", "Boil it."], "raw_scores": True}]}
    )
    inputs: Words | Sequence | Annotated[list[Sequence], Field(min_length=1, max_length=MOST_TEXTS)]

    def asked(self, taste: Taste) -> list[Candidates]:
        """Return each text or pair by itself."""
        return [
            written(sequence[0], taste) if len(sequence) == 1 else Candidates(sequence[0], (sequence[1],), taste)
            for sequence in self._sequences()
        ]

    def answer(self, found: Found) -> Any:
        """Return the one label's score; of a batch, a list for each of its items."""
        each = [[{"score": one, "label": "reward"}] for one in found.rewards]
        return each if self._batch() else each[0]

    def _batch(self) -> bool:
        return isinstance(self.inputs, list) and isinstance(self.inputs[0], list)

    def _sequences(self) -> list[list[str]]:
        if isinstance(self.inputs, str):
            return [[self.inputs]]
        pair = [one for one in self.inputs if isinstance(one, str)]
        return [pair] if pair else [one for one in self.inputs if isinstance(one, list)]


class TextsRerankBody(SquashedBody):
    """The request of TEI's /rerank."""

    about: ClassVar[str] = "Sort texts that answer a prompt, the best first, as TEI does."
    answers: ClassVar[Any] = [{"index": 1, "text": "Boil it.", "score": 0.71}, {"index": 0, "score": -0.2}]
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"query": "How do I cook rice?", "texts": ["Rinse it.", "Boil it."]}]}
    )
    query: Words
    texts: Texts
    return_text: bool = False

    def asked(self, taste: Taste) -> list[Candidates]:
        """Return the texts, compared with each other."""
        return [compared(self.query, self.texts, taste)]

    def answer(self, found: Found) -> Any:
        """Return a plain list."""
        return [
            {"index": at, **({"text": self.texts[at]} if self.return_text else {}), "score": reward}
            for at, reward in best_first(found.rewards)
        ]
