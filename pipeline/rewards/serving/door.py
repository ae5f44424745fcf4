"""What every request passes before it is parsed, and what its answer passes on the way out.

Nothing of a request gets into a log, whatever goes wrong.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from micropref.pipeline.rewards.serving.options import is_loopback

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
OPEN = ("/health",)
"""Routes that need no token."""
BODIES_HELD = 8
"""Largest bodies that are held in memory at a time; whoever comes with more is asked to come again."""
GONE = 499
"""Status in /metrics of a request whose client did not wait for the answer."""


@dataclass(frozen=True)
class Refusal:
    """Why a request is not let in."""

    status: int
    """HTTP status."""
    reason: str
    """What was expected; nothing of what the request said."""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    """Of the answer."""


@dataclass(frozen=True)
class Rules:
    """Who is let in."""

    most_bytes: int
    """Size of a body at most."""
    token: str | None = None
    """What `Authorization: Bearer` has to bring; None: nothing, and then only this machine's own programs ask."""

    def refuse(self, scope: Scope) -> Refusal | None:
        """Return why a request's head is reason enough not to read on; None: it is let in."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        return (self._stranger(scope["path"], headers) or self._unreadable(scope["method"], headers)) or None

    def _stranger(self, path: str, headers: dict[bytes, bytes]) -> Refusal | None:
        if self.token is not None:
            scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
            known = scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), self.token.encode())
            challenge = ((b"www-authenticate", b"Bearer"),)
            reason = "expected the header Authorization: Bearer with the server's token"
            return None if known or path in OPEN else Refusal(401, reason, challenge)
        # A page in a browser on this machine may post here, and may give this address a name of its own.
        host, origin = (headers.get(name, b"").decode("latin-1") for name in (b"host", b"origin"))
        if host and not is_loopback(_name_of(host)):
            return Refusal(
                403, "the header Host names another machine: ask for localhost or 127.0.0.1, or start with a token file"
            )
        if origin and origin.partition("://")[2] != host:
            return Refusal(403, "the header Origin says that a web page of another place asks: start with a token file")
        return None

    def _unreadable(self, method: str, headers: dict[bytes, bytes]) -> Refusal | None:
        if method == "POST":
            kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
            if kind != b"application/json":
                return Refusal(415, "expected the header Content-Type: application/json")
            if headers.get(b"content-encoding", b"identity").strip().lower() != b"identity":
                return Refusal(415, "compressed bodies are not read: send it without Content-Encoding")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 18 or int(length) > self.most_bytes:
            return self.too_large()
        return None

    def too_large(self) -> Refusal:
        """Refuse a body beyond the size."""
        return Refusal(413, f"the body is larger than {self.most_bytes} bytes")


class Door:
    """Lets requests in by rules, reads their bodies whole, and stops work for clients that have gone."""

    def __init__(self, app: App, rules: Rules, count: Callable[[str, int, float], None]) -> None:
        """Take the app, the rules, and who is told of each request's route, status and seconds."""
        self._app, self._rules, self._count = app, rules, count
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or say why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.monotonic()
        visit = _Visit(send)
        body = bytearray()
        try:
            refusal = self._rules.refuse(scope) or await self._read(body, receive)
            if refusal is not None:
                await _answer(visit.send, refusal)
            else:
                await self._answered(scope, bytes(body), receive, visit)
        except _Gone:
            visit.status = GONE
        finally:
            self._held -= len(body)
            route = getattr(scope.get("route"), "path", "other")
            self._count(route, visit.status, time.monotonic() - start)

    async def _read(self, body: bytearray, receive: Receive) -> Refusal | None:
        """Read a body whole, or say why not."""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            part = message.get("body", b"")
            body += part
            self._held += len(part)
            if len(body) > self._rules.most_bytes:
                return self._rules.too_large()
            if self._held > BODIES_HELD * self._rules.most_bytes:
                return Refusal(503, "busy: ask again in 1 s", ((b"retry-after", b"1"),))
            more = message.get("more_body", False)
        return None

    async def _answered(self, scope: Scope, body: bytes, receive: Receive, visit: _Visit) -> None:
        """Have the app answer; it is stopped where the client goes first."""
        gone = asyncio.create_task(_gone(receive))
        given = [body]

        async def once() -> Message:
            if given:
                return {"type": "http.request", "body": given.pop(), "more_body": False}
            await asyncio.shield(gone)
            return {"type": "http.disconnect"}

        work = asyncio.ensure_future(self._app(scope, once, visit.send))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and not visit.complete:
                raise _Gone
            await work
        except asyncio.CancelledError:  # told to stop, and the time for that is over
            if not visit.started:
                await _answer(visit.send, Refusal(503, "the server stops: ask again", ((b"retry-after", b"10"),)))
        except Exception as error:
            if isinstance(error, _Gone):
                raise
            _log(error)
            if not visit.started:
                await _answer(visit.send, Refusal(500, "an error of the program; its place is in the server's log"))
        finally:
            gone.cancel()
            if not work.done():
                work.cancel()
                await asyncio.wait((work,))


class _Gone(Exception):  # noqa: N818 - the client's right
    """The client does not wait any more."""


class _Visit:
    """How far the answer to a request is."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 500
        self.started = self.complete = False

    async def send(self, message: Message) -> None:
        """Pass a part of the answer on."""
        if message["type"] == "http.response.start":
            self.started, self.status = True, message["status"]
        elif not message.get("more_body", False):
            self.complete = True
        await self._send(message)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _name_of(host: str) -> str:
    """Return the name in a Host header, without the port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _log(error: BaseException) -> None:
    """Say where an error came from; its message may quote the request."""
    places = [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    logging.getLogger("uvicorn.error").error("%s at %s", type(error).__name__, "; ".join(places[-8:]))


async def _answer(send: Send, refusal: Refusal) -> None:
    body = json.dumps({"error": refusal.reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *refusal.headers]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
