"""What every request passes before it is read: its size, its token; and no word of it in any answer or log."""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
OPEN = ("/health",)
"""Routes that need no token."""


class TooLarge(Exception):  # noqa: N818 - the request is at fault
    """The body is larger than allowed."""


class Limited:
    """Refuses bodies beyond a size, and requests without the token, before anything of them is parsed."""

    def __init__(self, app: App, most_bytes: int, token: str | None) -> None:
        """Take the app, the largest body, and the token that requests have to bring; None: none."""
        self._app, self._most = app, most_bytes
        self._token = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer 401 or 413."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"authorization", b"")
        if self._token is not None and scope["path"] not in OPEN and not hmac.compare_digest(given, self._token):
            await _answer(send, 401, "expected the header Authorization: Bearer with the server's token")
            return
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._most:
            await _answer(send, 413, f"the body is larger than {self._most} bytes")
            return
        read, over, started = 0, False, False

        async def counted() -> Message:
            nonlocal read, over
            message = await receive()
            read += len(message.get("body", b""))
            if over := read > self._most:
                raise TooLarge
            return message

        async def watched(message: Message) -> None:
            nonlocal started
            if over and not started:  # what the app makes of a body that ended early
                return
            started = True
            await send(message)

        with suppress(TooLarge):
            await self._app(scope, counted, watched)
        if over and not started:
            await _answer(send, 413, f"the body is larger than {self._most} bytes")


async def _answer(send: Send, status: int, message: str) -> None:
    body = json.dumps({"error": message}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
