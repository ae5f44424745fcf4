"""HTTP connections: requests have to arrive in time, and there are not more than so many."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_CONNECTIONS = 900
"""Open connections at most: below the 1024 files that a process may mostly have open."""
ARRIVE_S = 60.0
"""Seconds from a request's first byte, or a connection's begin, to its last."""
FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-type: application/json\r\n"
    b'connection: close\r\ncontent-length: 35\r\n\r\n{"error": "busy: ask again in 1 s"}'
)
"""What a connection beyond that is told."""


class Connection(H11Protocol):
    """A connection that is closed where a request takes too long to arrive."""

    most = MOST_CONNECTIONS
    arrive_s = ARRIVE_S
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, or say that there are too many."""
        if len(self.connections) >= self.most:
            transport.write(FULL)
            transport.close()
            return
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take bytes."""
        if self.transport is None:  # was told that there are too many
            return
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        if self.transport is not None:
            super().connection_lost(exc)
            self._stop()

    def _watch(self) -> None:
        """Begin to count where a request is on its way, stop where it has arrived."""
        arriving = self.conn.their_state in (h11.IDLE, h11.SEND_BODY)
        if not arriving or self.transport.is_closing():
            self._stop()
        elif self._late is None:
            self._late = self.loop.call_later(self.arrive_s, self.transport.abort)

    def _stop(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


def http_config(app: Any, **options: Any) -> uvicorn.Config:
    """Return how an app is served; nothing of a request is logged, and no header says who asks."""
    return uvicorn.Config(
        app,
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        http=Connection,
        ws="none",
        loop="asyncio",
        **options,
    )
