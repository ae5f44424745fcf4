"""The HTTP app: routes of our own, and those that clients of other servers call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from micropref.cache.errors import BadInput, Failure
from micropref.pipeline.rewards.scoring.taste import Taste
from micropref.pipeline.rewards.serving.batching import Busy
from micropref.pipeline.rewards.serving.bodies import (
    Chat,
    ChatMessage,
    FeedbackAnswer,
    FeedbackBody,
    ForgottenAnswer,
    ScoreAnswer,
    ScoreBody,
    UserAnswer,
    WithTaste,
)
from micropref.pipeline.rewards.serving.client_routes import add_client_routes
from micropref.pipeline.rewards.serving.limits import Limited
from micropref.pipeline.rewards.serving.service import Service, candidates_of
from micropref.pipeline.sources.pairs import Message, Text

ANSWERS: dict[int | str, dict[str, Any]] = {
    401: {"description": "the token is missing or wrong"},
    413: {"description": "the body is too large"},
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

    app = FastAPI(title="micropref", version=version("micropref"), lifespan=life, responses=ANSWERS)
    _count_requests(app, service)
    _answer_errors(app)
    _add_own_routes(app, service)
    add_client_routes(app, service)
    return Limited(app, most_bytes, token)


def _add_own_routes(app: FastAPI, service: Service) -> None:
    @app.post("/v1/score")
    async def score(body: ScoreBody) -> ScoreAnswer:
        """Reward responses to one prompt, for nobody, a context, an attribute, a person or given weights."""
        taste = taste_of(body)
        responses = [text_of(one) for one in body.responses]
        (found,) = await service.score([candidates_of(text_of(body.prompt), responses, taste)])
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
    async def known(user: str) -> UserAnswer:
        """Say what is known of a person."""
        try:
            count, weights = await asyncio.to_thread(service.known, user)
        except BadInput as error:
            return JSONResponse({"error": str(error)}, 404)  # type: ignore[return-value]
        return UserAnswer(user=user, choices=count, weights=list(weights))

    @app.delete("/v1/users/{user:path}")
    async def forget(user: str) -> ForgottenAnswer:
        """Remove all that a person chose, and hide what the run itself knows of the person."""
        return ForgottenAnswer(user=user, removed=await asyncio.to_thread(service.forget, user))

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """Name the run."""
        return {"object": "list", "data": [{"id": service.run, "object": "model", "owned_by": "micropref"}]}

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Say that the server is up."""
        return {"status": "ok"}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        """Return counts and times for Prometheus."""
        return PlainTextResponse(generate_latest(service.counts.registry), media_type=CONTENT_TYPE_LATEST)


def text_of(value: str | Chat) -> Text:
    """Return a text or a conversation as the rest of micropref has it."""
    if isinstance(value, str):
        return value
    return tuple(Message(one.role, one.content) for one in value if isinstance(one, ChatMessage))


def taste_of(body: WithTaste) -> Taste:
    """Return by whose taste a request wants rewards. Raises BadInput where it names two that exclude each other."""
    weights = None if body.weights is None else tuple(body.weights)
    return Taste(body.context, body.attribute, body.user, weights)


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

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        found = [{"field": ".".join(map(str, one["loc"])), "expected": one["msg"]} for one in error.errors()]
        return JSONResponse({"error": "malformed request", "fields": found[:20]}, 422)


def _count_requests(app: FastAPI, service: Service) -> None:
    @app.middleware("http")
    async def count(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        start = time.monotonic()
        status = 500
        try:
            answer = await call(request)
            status = answer.status_code
            return answer
        finally:
            route = request.scope.get("route")
            name = getattr(route, "path", "other")
            service.counts.requests.labels(name, str(status)).inc()
            service.counts.seconds.labels(name).observe(time.monotonic() - start)
