"""The HTTP app: routes of our own, and those that clients of other servers call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import FastAPI, Path, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import Discriminator, Tag
from starlette.exceptions import HTTPException

from micropref.cache.errors import BadInput, Failure
from micropref.pipeline.rewards.scoring.candidates import Candidates
from micropref.pipeline.rewards.serving.batching import Busy
from micropref.pipeline.rewards.serving.bodies.fields import text_of
from micropref.pipeline.rewards.serving.bodies.own import (
    FeedbackAnswer,
    FeedbackBody,
    ForgottenAnswer,
    ScoreAnswer,
    ScoreBody,
    UserAnswer,
)
from micropref.pipeline.rewards.serving.bodies.vllm import PairsBody
from micropref.pipeline.rewards.serving.client_routes import UserHeader, add_client_routes, answer_client, named
from micropref.pipeline.rewards.serving.door import Door, Rules
from micropref.pipeline.rewards.serving.service import Service

OWN_OR_PAIRS = Annotated[
    Annotated[ScoreBody, Tag("own")] | Annotated[PairsBody, Tag("pairs")],
    Discriminator(lambda body: "own" if isinstance(body, dict) and body.keys() & {"prompt", "responses"} else "pairs"),
]
"""vLLM's older clients ask /v1/score too, with other fields."""
User = Annotated[str, Path(description="The person's name, percent-encoded.", examples=["ann"])]
ANSWERS: dict[int | str, dict[str, Any]] = {
    400: {"description": "the body is no JSON"},
    401: {"description": "the token is missing or wrong"},
    403: {"description": "without a token: the request is not from a program of this machine"},
    413: {"description": "the body is too large"},
    415: {"description": "the body is not JSON, or is compressed"},
    422: {"description": "the request is malformed, or names a taste that the run does not know"},
    503: {"description": "too much waits: ask again after Retry-After seconds"},
}
"""What every route may answer besides 200."""


def create_app(service: Service, *, most_bytes: int, token: str | None) -> Any:
    """Return the ASGI app of a loaded run."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await service.stop()

    # FastAPI's pages of the routes load scripts from elsewhere; the routes themselves are in /openapi.json.
    app = FastAPI(
        title="micropref", version=version("micropref"), lifespan=life, responses=ANSWERS, docs_url=None, redoc_url=None
    )
    _answer_errors(app)
    _add_own_routes(app, service)
    add_client_routes(app, service)
    return Door(app, Rules(most_bytes, token), service.counts.request)


def _add_own_routes(app: FastAPI, service: Service) -> None:
    @app.post("/v1/score", response_model=ScoreAnswer | dict[str, Any])
    async def score(body: OWN_OR_PAIRS, user: UserHeader = None) -> Any:
        """Reward responses to one prompt, for nobody, a context, an attribute, a person or given weights."""
        if isinstance(body, PairsBody):
            return await answer_client(service, body, user)
        responses = tuple(text_of(one) for one in body.responses)
        (found,) = await service.score(
            [Candidates(text_of(body.prompt), responses, body.taste(named(user)), together=True)]
        )
        return ScoreAnswer(
            model=service.run,
            rewards=list(found.rewards),
            heads=[None if one is None else list(one) for one in found.heads],
            weights=None if found.weights is None else list(found.weights),
            best=found.best,
            p_first=found.p_first,
            reasons=list(found.reasons),
        )

    @app.post("/v1/feedback")
    async def feedback(body: FeedbackBody) -> FeedbackAnswer:
        """Learn from a choice. It is on disk when this is answered; one with a known id changes nothing."""
        responses = text_of(body.chosen), text_of(body.rejected)
        new, count, weights = await service.learn(body.user, text_of(body.prompt), responses, body.context, body.id)
        return FeedbackAnswer(recorded=new, choices=count, weights=list(weights))

    @app.get("/v1/users/{user:path}", responses={404: {"description": "nothing is known of this person"}})
    async def known(user: User) -> UserAnswer:
        """Say what is known of a person."""
        try:
            count, weights = await asyncio.to_thread(service.known, user)
        except BadInput as error:
            return JSONResponse({"error": str(error)}, 404)  # type: ignore[return-value]
        return UserAnswer(user=user, choices=count, weights=list(weights))

    @app.delete("/v1/users/{user:path}")
    async def forget(user: User) -> ForgottenAnswer:
        """Remove all that a person chose, and hide what the run itself knows of the person."""
        return ForgottenAnswer(user=user, removed=await asyncio.to_thread(service.forget, user))

    @app.get("/v1/models", responses=example({"object": "list", "data": [{"id": "mixture-1a2b3c4d"}]}))
    async def models() -> dict[str, Any]:
        """Name the run."""
        return {"object": "list", "data": [{"id": service.run, "object": "model", "owned_by": "micropref"}]}

    @app.get("/info", responses=example({"model_id": "mixture-1a2b3c4d", "max_input_length": 512}))
    async def info() -> dict[str, Any]:
        """Describe the server, as TEI does."""
        return service.info()

    @app.get("/health", responses=example({"status": "ok"}))
    async def health() -> JSONResponse:
        """Say whether texts are scored: 503 with the reason where they are not."""
        trouble = service.trouble
        return JSONResponse(
            {"status": "ok"} if trouble is None else {"status": "failing", "error": trouble},
            200 if trouble is None else 503,
        )

    @app.get(
        "/metrics", response_class=PlainTextResponse, responses=example("micropref_choices_total 3.0\n", "text/plain")
    )
    async def metrics() -> PlainTextResponse:
        """Return counts and times for Prometheus."""
        return PlainTextResponse(generate_latest(service.counts.registry), media_type=CONTENT_TYPE_LATEST)


def example(value: Any, kind: str = "application/json") -> dict[int | str, dict[str, Any]]:
    """Return what the OpenAPI file says of a right answer."""
    return {200: {"content": {kind: {"example": value}}}}


def _answer_errors(app: FastAPI) -> None:
    """Answer errors in one line; what the request said is not repeated."""

    @app.exception_handler(BadInput)
    async def bad(_: Request, error: BadInput) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 422)

    @app.exception_handler(Failure)
    async def failed(_: Request, error: Failure) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 503, {"Retry-After": "10"})

    @app.exception_handler(Busy)
    async def busy(_: Request, error: Busy) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 503, {"Retry-After": str(error.seconds)})

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        found = [{"field": ".".join(map(str, one["loc"])), "expected": one["msg"]} for one in error.errors()]
        return JSONResponse({"error": "malformed request", "fields": found[:20]}, 422)
