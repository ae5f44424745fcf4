"""Routes of other servers, so that their clients work unchanged: OpenRLHF, verl, vLLM, sglang, TEI."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import unquote

from fastapi import FastAPI, Header
from fastapi.responses import JSONResponse
from pydantic import Discriminator, Tag

from micropref.pipeline.rewards.serving.bodies.client import ClientBody, Found
from micropref.pipeline.rewards.serving.bodies.openrlhf import RemoteRewardBody
from micropref.pipeline.rewards.serving.bodies.tei import PredictBody, TextsRerankBody
from micropref.pipeline.rewards.serving.bodies.vllm import (
    ClassifyBody,
    EmbeddingsBody,
    PairsBody,
    PoolingBody,
    RerankBody,
)
from micropref.pipeline.rewards.serving.service import Service

EITHER_RERANK = Annotated[
    Annotated[RerankBody, Tag("documents")] | Annotated[TextsRerankBody, Tag("texts")],
    Discriminator(lambda body: "texts" if isinstance(body, dict) and "texts" in body else "documents"),
]
"""vLLM's and TEI's clients both ask /rerank: the one sends `documents`, the other `texts`."""

ROUTES: dict[str, tuple[type[ClientBody], Any]] = {
    "/get_reward": (RemoteRewardBody, RemoteRewardBody),
    "/classify": (ClassifyBody, ClassifyBody),
    "/pooling": (PoolingBody, PoolingBody),
    "/v1/embeddings": (EmbeddingsBody, EmbeddingsBody),
    "/score": (PairsBody, PairsBody),
    "/predict": (PredictBody, PredictBody),
    "/rerank": (RerankBody, EITHER_RERANK),
    "/v1/rerank": (RerankBody, RerankBody),
    "/v2/rerank": (RerankBody, RerankBody),
}
"""Path -> whose words describe the route, and which bodies it takes."""

UserHeader = Annotated[
    str | None,
    Header(
        alias="X-Micropref-User",
        max_length=1024,
        description="Whose taste, for clients that have no field `user`; percent-encoded where it is not ASCII.",
    ),
]


def add_client_routes(app: FastAPI, service: Service) -> None:
    """Add the routes."""
    for path, (described, body) in ROUTES.items():
        app.add_api_route(
            path,
            _endpoint(service, body),
            methods=["POST"],
            name=path.strip("/").replace("/", "_"),
            description=described.about,
            responses={200: {"content": {"application/json": {"example": described.answers}}}},
        )


def _endpoint(service: Service, body_type: Any) -> Any:
    async def answer(body: ClientBody, user: UserHeader = None) -> JSONResponse:
        return await answer_client(service, body, user)

    # FastAPI reads the body's type from here.
    answer.__annotations__ = {"body": body_type, "user": UserHeader, "return": JSONResponse}
    return answer


async def answer_client(service: Service, body: ClientBody, user: str | None) -> JSONResponse:
    """Score what a client's request asks for, `user` being of the header, and answer as the client reads it."""
    taste = body.taste(named(user))
    groups = await service.score(body.asked(taste))
    return JSONResponse(body.answer(Found(service.run, groups, body.squash)))


def named(user: str | None) -> str | None:
    """Return the name that the header has, if it has one."""
    return None if user is None else unquote(user)
