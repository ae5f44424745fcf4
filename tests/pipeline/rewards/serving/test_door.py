"""What is let in and what is not, over real sockets; nothing hangs, nothing of a request gets into a log."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
import uvicorn

from micropref.pipeline.rewards.serving.connections import Connection, http_config
from micropref.pipeline.rewards.serving.door import BODIES_HELD, GONE, Door, Rules

SECRET = "Sesame-9431"
CLIENT = httpx.Client(timeout=10)
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module", autouse=True)
def _close_client() -> Iterator[None]:
    yield
    CLIENT.close()


class Echo:
    """An app that says what reached it, fails, or is slow, by path."""

    def __init__(self) -> None:
        self.begun, self.stopped = threading.Event(), threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        body = (await receive())["body"]
        if scope["path"] == "/boom":
            raise ValueError(f"cannot read {body.decode()}")
        if scope["path"] == "/slow":
            self.begun.set()
            try:
                await asyncio.sleep(30)
            finally:
                self.stopped.set()
        said = json.dumps({"bytes": len(body), "client": scope["client"][0], "scheme": scope["scheme"]}).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": said})


class Running:
    """A door in front of an app, at a port of this machine."""

    def __init__(self, rules: Rules, connection: type[Connection] = Connection) -> None:
        self.app, self.counted = Echo(), []  # type: tuple[Echo, list[tuple[str, int]]]
        door = Door(self.app, rules, lambda route, status, _: self.counted.append((route, status)))
        config = http_config(door, port=0, lifespan="off")
        config.http = connection
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def say(self, text: bytes, *, then_close: bool = False) -> bytes:
        """Send bytes as they are, and return all that comes until the server closes."""
        with self.connect() as one:
            one.sendall(text)
            if then_close:
                one.shutdown(socket.SHUT_WR)
            return all_of(one)


def all_of(one: socket.socket) -> bytes:
    found = b""
    while part := one.recv(65536):
        found += part
    return found


Start = Callable[..., Running]


@pytest.fixture
def start() -> Iterator[Start]:
    running: list[Running] = []

    def begin(rules: Rules | None = None, connection: type[Connection] = Connection) -> Running:
        running.append(Running(rules or Rules(1000), connection))
        return running[-1]

    yield begin
    for one in running:
        one.stop()


def head(*more: str, path: str = "/", method: str = "POST") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *more, "", ""]).encode()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (JSON, 200),
        ({"content-type": "application/json; charset=utf-8"}, 200),
        ({}, 415),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        (JSON | {"content-encoding": "gzip"}, 415),
        (JSON | {"host": "localhost:80"}, 200),
        (JSON | {"host": "[::1]:80"}, 200),
        (JSON | {"host": "evil.example"}, 403),
        (JSON | {"host": "127.0.0.1.evil.example"}, 403),
        (JSON | {"host": "[::1"}, 403),
        (JSON | {"host": "evil.example", "x-forwarded-host": "localhost"}, 403),
        (JSON | {"host": "localhost:8000", "origin": "http://localhost:8000"}, 200),
        (JSON | {"origin": "http://evil.example"}, 403),
        (JSON | {"origin": "null"}, 403),
    ],
)
def test_only_programs_of_this_machine_ask_a_server_without_a_token(headers: dict[str, str], status: int) -> None:
    scope = {"type": "http", "path": "/", "method": "POST", "headers": [(b"host", b"127.0.0.1")]}
    scope["headers"] += [(name.encode(), value.encode()) for name, value in headers.items()]
    refusal = Rules(1000).refuse(scope)
    assert (200 if refusal is None else refusal.status) == status


@pytest.mark.parametrize(
    ("given", "path", "status"),
    [
        (b"Bearer 0123456789abcdef", "/v1/score", 200),
        (b"bearer 0123456789abcdef", "/v1/score", 200),
        (b"Bearer 0123456789abcde", "/v1/score", 401),
        (b"Basic 0123456789abcdef", "/v1/score", 401),
        (b"Bearer \xff\xfe", "/v1/score", 401),
        (b"", "/v1/score", 401),
        (b"", "/metrics", 401),
        (b"", "/health", 200),
    ],
)
def test_a_token_is_asked_for(given: bytes, path: str, status: int) -> None:
    scope = {"path": path, "method": "GET", "headers": [(b"authorization", given), (b"host", b"public.example")]}
    refusal = Rules(1000, "0123456789abcdef").refuse(scope)
    assert (200 if refusal is None else refusal.status) == status


def test_bodies_are_read_whole_and_up_to_a_size(start: Start) -> None:
    running = start()
    forwarded = {"x-forwarded-for": "10.0.0.1", "x-forwarded-proto": "https"}
    answer = CLIENT.post(running.url, content=b"x" * 1000, headers=JSON | forwarded)
    assert answer.json() == {"bytes": 1000, "client": "127.0.0.1", "scheme": "http"}
    assert "server" not in answer.headers
    assert CLIENT.post(running.url, content=b"x" * 1001, headers=JSON).status_code == 413
    parts = iter([b"x" * 400] * 3)
    assert CLIENT.post(running.url, content=parts, headers=JSON).status_code == 413
    assert CLIENT.get(running.url).json()["bytes"] == 0
    twice = head("Content-Type: application/json", "Content-Length: 2") + b"{}"
    found = running.say(twice + twice.replace(b"Length: 2\r\n", b"Length: 2\r\nConnection: close\r\n"))
    assert found.count(b"200 OK") == 2, "pipelined requests are answered in turn"
    assert ("other", 413) in running.counted


@pytest.mark.parametrize(
    "said",
    [
        f"{SECRET}\r\n\r\n".encode(),
        f"POST /{SECRET} HTTP/9.9\r\n\r\n".encode(),
        f"GET /{SECRET}\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(),
        head(f"X: {SECRET * 9000}"),
        head("Content-Type: application/json", "Content-Length: -1"),
        head("Content-Type: application/json", "Content-Length: " + "9" * 5000),
        head("Content-Type: application/json", "Content-Length: 2", "Content-Length: 3") + b"{}",
        head("Content-Type: application/json", "Transfer-Encoding: chunked") + f"{SECRET}\r\n".encode(),
        head("Content-Type: application/json", "Content-Length: 2") + b"{}" + f"{SECRET} / ???\r\n\r\n".encode(),
        head("Content-Type: application/json", "Content-Length: 99") + SECRET.encode(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + SECRET.encode(),
    ],
)
def test_what_is_no_request_ends_and_is_not_logged(
    start: Start, capfd: pytest.CaptureFixture[str], said: bytes
) -> None:
    running = start()
    found = running.say(said, then_close=True)
    assert b" 500 " not in found
    assert CLIENT.post(running.url, content=b"{}", headers=JSON).status_code == 200
    assert SECRET not in capfd.readouterr().err


class Quick(Connection):
    arrive_s = 0.2
    most = 3


@pytest.mark.parametrize(
    "said", [b"", b"POST / HTT", head("Content-Type: application/json", "Content-Length: 9") + b"x"]
)
def test_slow_requests_and_silent_connections_are_closed(start: Start, said: bytes) -> None:
    running = start(connection=Quick)
    with running.connect() as one:
        one.sendall(said)
        with suppress(ConnectionResetError):
            assert all_of(one) == b""
    assert CLIENT.post(running.url, content=b"{}", headers=JSON).status_code == 200


def test_connections_beyond_the_most_are_told_to_come_again(start: Start) -> None:
    class Few(Connection):
        most = 2

    running = start(connection=Few)
    others = [running.connect() for _ in range(2)]
    time.sleep(0.1)
    answer = CLIENT.get(running.url)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"].startswith("busy")
    for one in others:
        one.close()


def test_bodies_that_wait_hold_only_so_much_memory(start: Start) -> None:
    running = start()
    said = head("Content-Type: application/json", "Content-Length: 1000") + b"x" * 999
    others = [running.connect() for _ in range(BODIES_HELD)]
    for one in others:
        one.sendall(said)
    time.sleep(0.2)
    answer = CLIENT.post(running.url, content=b"x" * 500, headers=JSON)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    for one in others:
        one.sendall(b"x")
        assert b"200 OK" in one.recv(1000)
        one.close()
    assert CLIENT.post(running.url, content=b"x" * 500, headers=JSON).status_code == 200


def test_work_stops_for_a_client_that_has_gone(start: Start) -> None:
    running = start()
    with running.connect() as one:
        one.sendall(head("Content-Type: application/json", "Content-Length: 2", path="/slow") + b"{}")
        assert running.app.begun.wait(5)
    assert running.app.stopped.wait(5)
    for _ in range(100):
        if running.counted:
            break
        time.sleep(0.01)
    assert running.counted == [("other", GONE)]


def test_an_error_of_the_program_tells_its_place_and_nothing_else(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    running = start()
    answer = CLIENT.post(f"{running.url}/boom", content=SECRET.encode(), headers=JSON)
    assert answer.status_code == 500
    assert "error of the program" in answer.json()["error"]
    told = capfd.readouterr().err
    assert "ValueError at" in told
    assert "test_door.py" in told
    assert SECRET not in answer.text + told
