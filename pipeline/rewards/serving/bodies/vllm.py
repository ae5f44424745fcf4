"""Requests of vLLM's clients, of verl's reward loop (which asks vLLM or sglang) and of OpenAI's embeddings client."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from micropref.cache.errors import BadInput
from micropref.pipeline.rewards.scoring.candidates import Candidates
from micropref.pipeline.rewards.scoring.taste import Taste
from micropref.pipeline.rewards.serving.bodies.client import Encoding, Found, SquashedBody, encoded, written
from micropref.pipeline.rewards.serving.bodies.fields import Chat, Texts, Words, text_of

_USAGE = {"prompt_tokens": 17, "total_tokens": 17, "completion_tokens": 0}
_TEXT = "<|im_start|>user\nHow do I cook rice?<|im_end|>\n<|im_start|>assistant\nBoil it.<|im_end|>"
_MESSAGES: list[Any] = [
    {"role": "user", "content": "How do I cook rice?"},
    {"role": "assistant", "content": "Boil it."},
]


def _list_example(kind: str, **data: Any) -> dict[str, Any]:
    listed = {"id": f"{kind}-3f2a", "object": "list", "created": 1790000000, "model": "mixture-1a2b3c4d"}
    return {**listed, "data": [{"index": 0, **data}], "usage": _USAGE}


class InputBody(SquashedBody):
    """Whole texts, read as they are, or one conversation, which is rendered by the backbone's chat template."""

    input: Words | Texts | None = None
    messages: Chat | None = None

    def asked(self, taste: Taste) -> list[Candidates]:
        """Return each text by itself, or the answer that a conversation ends with."""
        if (self.input is None) == (self.messages is None):
            raise BadInput("expected either input or messages")
        if self.input is not None:
            return [written(text, taste) for text in ([self.input] if isinstance(self.input, str) else self.input)]
        assert self.messages is not None
        *prompt, last = self.messages
        if last.role != "assistant" or not prompt:
            raise BadInput(
                f"messages ends with a turn of {last.role!r} after {len(prompt)} others: expected a prompt and, at the "
                "end, the assistant's answer, which is what gets the reward"
            )
        return [Candidates(text_of(prompt), (text_of([last]),), taste)]


class ClassifyBody(InputBody):
    """The request of vLLM's classification."""

    about: ClassVar[str] = "Reward texts or a conversation, as vLLM's classification does and verl reads it."
    answers: ClassVar[Any] = _list_example("classify", label="reward", probs=[0.71], num_classes=1)
    model_config = ConfigDict(json_schema_extra={"examples": [{"input": _TEXT, "use_activation": False}]})

    def answer(self, found: Found) -> Any:
        """Return rewards as the one class's probability."""
        each = [
            {"index": at, "label": "reward", "probs": [one], "num_classes": 1} for at, one in enumerate(found.rewards)
        ]
        return found.listed("classify", each)


class PoolingBody(InputBody):
    """The request of vLLM's pooling."""

    about: ClassVar[str] = "Reward texts or a conversation, as vLLM's pooling of a reward model does."
    answers: ClassVar[Any] = _list_example("pool", object="pooling", data=[0.71])
    model_config = ConfigDict(json_schema_extra={"examples": [{"messages": _MESSAGES, "user": "ann"}]})
    task: Literal["classify", "score"] | None = None
    encoding_format: Encoding = "float"

    def answer(self, found: Found) -> Any:
        """Return rewards as pooled vectors of one value."""
        each = [encoded(one, self.encoding_format) for one in found.rewards]
        return found.listed("pool", [{"index": at, "object": "pooling", "data": one} for at, one in enumerate(each)])


class EmbeddingsBody(InputBody):
    """The request of sglang's and OpenAI's embeddings."""

    about: ClassVar[str] = "Reward texts, as sglang's embeddings of a reward model do and verl reads it."
    answers: ClassVar[Any] = _list_example("embd", object="embedding", embedding=[0.71])
    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "reward", "input": _TEXT}]})
    encoding_format: Encoding = "float"

    def answer(self, found: Found) -> Any:
        """Return rewards as embeddings of one value."""
        each = [encoded(one, self.encoding_format) for one in found.rewards]
        data = [{"index": at, "object": "embedding", "embedding": one} for at, one in enumerate(each)]
        return found.listed("embd", data)


class PairsBody(SquashedBody):
    """Prompts and responses under any of the names vLLM has for them, one prompt for all or one for each."""

    about: ClassVar[str] = "Reward pairs of a prompt and a response, as vLLM's /score does."
    answers: ClassVar[Any] = _list_example("score", object="score", score=0.71)
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"queries": "How do I cook rice?", "documents": ["Rinse it.", "Boil it."]}]}
    )
    queries: Words | Texts | None = None
    documents: Words | Texts | None = None
    items: Words | Texts | None = None
    text_1: Words | Texts | None = None
    text_2: Words | Texts | None = None
    data_1: Words | Texts | None = None
    data_2: Words | Texts | None = None

    def asked(self, taste: Taste) -> list[Candidates]:
        """Return each response behind its prompt, by itself."""
        prompts, responses = self._two()
        if len(prompts) == 1:
            prompts = prompts * len(responses)
        if len(prompts) != len(responses):
            raise BadInput(f"{len(prompts)} prompts and {len(responses)} responses: expected as many, or one prompt")
        return [Candidates(prompt, (one,), taste) for prompt, one in zip(prompts, responses, strict=True)]

    def answer(self, found: Found) -> Any:
        """Return rewards as scores."""
        return found.listed(
            "score", [{"index": at, "object": "score", "score": one} for at, one in enumerate(found.rewards)]
        )

    def _two(self) -> tuple[list[str], list[str]]:
        names = (("queries", "documents"), ("queries", "items"), ("text_1", "text_2"), ("data_1", "data_2"))
        for first, second in names:
            prompts, responses = getattr(self, first), getattr(self, second)
            if prompts is not None and responses is not None:
                return _listed(prompts), _listed(responses)
        raise BadInput(f"found no pairs of texts: expected {', '.join(f'{a} and {b}' for a, b in names)}")


class RerankBody(SquashedBody):
    """The request of vLLM, Jina and Cohere."""

    about: ClassVar[str] = "Sort responses to a prompt, the best first, as vLLM, Jina, Cohere and TEI do."
    answers: ClassVar[Any] = {
        "id": "rerank-3f2a",
        "model": "mixture-1a2b3c4d",
        "usage": _USAGE,
        "results": [{"index": 1, "document": {"text": "Boil it."}, "relevance_score": 0.71}],
    }
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"query": "How do I cook rice?", "documents": ["Rinse it.", "Boil it."], "top_n": 1}]
        }
    )
    query: Words
    documents: Texts
    top_n: Annotated[int, Field(ge=0)] | None = None

    def asked(self, taste: Taste) -> list[Candidates]:
        """Return the responses, compared with each other."""
        return [compared(self.query, self.documents, taste)]

    def answer(self, found: Found) -> Any:
        """Return the best `top_n`; all of them where it is 0, as in vLLM, or not given."""
        results = [
            {"index": at, "document": {"text": self.documents[at]}, "relevance_score": reward}
            for at, reward in best_first(found.rewards)
        ]
        whole = found.listed("rerank", [])
        return {name: whole[name] for name in ("id", "model", "usage")} | {"results": results[: self.top_n or None]}


def compared(prompt: str, responses: list[str], taste: Taste) -> Candidates:
    """Return responses to one prompt that are compared with each other."""
    return Candidates(prompt, tuple(responses), taste, together=len(responses) > 1)


def best_first(rewards: list[float]) -> list[tuple[int, float]]:
    """Return which response has which reward, the best first, the first of equals."""
    return sorted(enumerate(rewards), key=lambda one: (-one[1], one[0]))


def _listed(texts: str | list[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else texts
