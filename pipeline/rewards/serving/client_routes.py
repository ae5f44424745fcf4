"""Routes of other servers, so that their clients work unchanged: OpenRLHF, verl, vLLM.

Texts that these clients decoded hold their template and special tokens already: they are read as they are.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from micropref.cache.errors import BadInput
from micropref.pipeline.rewards.scoring.candidates import Candidates, Rewarded
from micropref.pipeline.rewards.scoring.taste import Taste
from micropref.pipeline.rewards.serving.bodies import ClassifyBody, PairScoreBody, RerankBody, RlhfBody
from micropref.pipeline.rewards.serving.service import Service, candidates_of


def add_client_routes(app: FastAPI, service: Service) -> None:
    """Add the routes."""

    @app.post("/get_reward")
    async def get_reward(body: RlhfBody) -> dict[str, Any]:
        """Reward decoded texts, as OpenRLHF's remote reward model does."""
        prompts: list[str | None] = [None] * len(body.query) if body.prompts is None else list(body.prompts)
        if len(prompts) != len(body.query):
            raise BadInput(f"{len(body.query)} queries and {len(prompts)} prompts: expected as many")
        tastes = [_of_label(label, body.user) for label in body.labels or [None] * len(body.query)]
        if len(tastes) != len(body.query):
            raise BadInput(f"{len(body.query)} queries and {len(tastes)} labels: expected as many")
        asked = [written(*each) for each in zip(prompts, body.query, tastes, strict=True)]
        rewards = [_reward(one) for one in await service.score(asked)]
        return {"rewards": rewards, "scores": rewards, "extra_logs": {}}

    @app.post("/classify")
    async def classify(body: ClassifyBody) -> dict[str, Any]:
        """Reward decoded texts, as vLLM's classification does and verl reads it."""
        texts = [body.input] if isinstance(body.input, str) else body.input
        found = await service.score([written(None, text, Taste(user=body.user)) for text in texts])
        data = [
            {"index": at, "label": "reward", "probs": [_reward(one)], "num_classes": 1} for at, one in enumerate(found)
        ]
        return {"id": "classify-0", "object": "list", "model": service.run, "data": data, "usage": _usage()}

    @app.post("/score")
    async def pair_score(body: PairScoreBody) -> dict[str, Any]:
        """Reward pairs of a prompt and a response, one prompt for all or one for each."""
        first = body.queries if body.queries is not None else body.text_1
        second = body.documents if body.documents is not None else body.text_2
        if first is None or second is None:
            raise BadInput("found no texts: expected queries and documents, or text_1 and text_2")
        responses = [second] if isinstance(second, str) else second
        prompts = [first] * len(responses) if isinstance(first, str) else first
        if len(prompts) == 1:
            prompts = prompts * len(responses)
        if not responses or len(prompts) != len(responses):
            raise BadInput(f"{len(prompts)} queries and {len(responses)} documents: expected as many, or one query")
        taste = Taste(user=body.user)
        pairs = zip(prompts, responses, strict=True)
        found = await service.score([Candidates(prompt, (response,), taste) for prompt, response in pairs])
        data = [{"index": at, "object": "score", "score": _reward(one)} for at, one in enumerate(found)]
        return {"id": "score-0", "object": "list", "model": service.run, "data": data, "usage": _usage()}

    @app.post("/rerank")
    @app.post("/v1/rerank")
    @app.post("/v2/rerank")
    async def rerank(body: RerankBody) -> dict[str, Any]:
        """Return responses to a prompt, the best first."""
        (found,) = await service.score([candidates_of(body.query, body.documents, Taste(user=body.user))])
        known = [(reward, at) for at, reward in enumerate(found.rewards) if reward is not None]
        known.sort(key=lambda one: (-one[0], one[1]))
        kept = known if body.top_n is None else known[: body.top_n]
        results = [
            {"index": at, "document": {"text": body.documents[at]}, "relevance_score": reward} for reward, at in kept
        ]
        return {"id": "rerank-0", "model": service.run, "usage": _usage(), "results": results}


def written(prompt: str | None, text: str, taste: Taste) -> Candidates:
    """Return a text that is read as it is, template and special tokens included."""
    return Candidates("" if prompt is None else prompt, (text,), taste, written=True)


def _of_label(label: Any, user: str | None) -> Taste:
    """Return the taste that a label names: OpenRLHF passes on what the data set has there."""
    if not isinstance(label, dict):
        return Taste(user=user)
    named = {name: value for name, value in label.items() if name in ("context", "user") and isinstance(value, str)}
    return Taste(named.get("context"), None, named.get("user", user))


def _reward(one: Rewarded) -> float:
    """Return the reward of the one response. Raises BadInput with the reason where it has none.

    These clients know no missing reward, and a number in its place would be learned from.
    """
    reward = one.rewards[0]
    if reward is None:
        raise BadInput(f"a text has no reward: {one.reasons[0]}")
    return reward


def _usage() -> dict[str, int]:
    return {"prompt_tokens": 0, "total_tokens": 0, "completion_tokens": 0}
