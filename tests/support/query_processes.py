"""Processes for queries, forked from one that has the worker's imports done: starting Python is most of a query's time.

Only the start is another: a query's files, environment, limits and deadline are what `run_query` gives it, and the
process ends with it. The mark `fresh_process` leaves a test the start that users have.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from threading import Lock
from types import SimpleNamespace
from typing import IO

import pytest

WORKER = ["-P", "-m", "micropref.cache.sql.worker"]
FILES = 3
"""Standard input, output and error."""


def serve(line: socket.socket) -> None:
    """Fork for each request, an environment with three files; answer the fork's id, then its exit code."""
    from micropref.cache.sql import worker

    while True:
        environment, files, *_ = socket.recv_fds(line, 1 << 16, FILES)
        if not environment:
            return
        child = os.fork()
        if child == 0:
            for place, file in enumerate(files):
                os.dup2(file, place)
            os.closerange(FILES, 256)
            os.environ.clear()
            os.environ.update(json.loads(environment))
            os._exit(run(worker.main))
        for file in files:
            os.close(file)
        line.sendall(child.to_bytes(8, "big"))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        line.sendall(code.to_bytes(8, "big", signed=True))


def run(main):  # type: ignore[no-untyped-def]
    """Return the exit code that Python would end with."""
    try:
        return main()
    except BaseException:  # noqa: BLE001 - as Python does at its end
        traceback.print_exc()
        return 1
    finally:
        sys.stderr.flush()


class Server:
    """The process that forks, started by the first query. It serves one query at a time."""

    def __init__(self) -> None:
        self.busy = Lock()
        self.line, self._theirs = socket.socketpair()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, environment: dict[str, str]) -> None:
        if self._process is None:
            command = [sys.executable, "-P", __file__, str(self._theirs.fileno())]
            keep = [self._theirs.fileno()]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=keep, env=environment)
            self._theirs.close()

    def close(self) -> None:
        self.line.close()
        self._theirs.close()
        if self._process is not None:
            self._process.wait(10)


class Forked:
    """What `subprocess.Popen` is to a query."""

    def __init__(
        self, command: list[str], *, stdin: IO[bytes], stdout: IO[bytes], stderr: IO[bytes], env: dict[str, str],
        server: Server,
    ) -> None:  # fmt: skip
        assert command == [sys.executable, *WORKER]
        self._server = server
        self._server.busy.acquire()
        self._server.start(env)
        files = [file.fileno() for file in (stdin, stdout, stderr)]
        socket.send_fds(self._server.line, [json.dumps(env).encode()], files)
        self._id = int.from_bytes(self._server.line.recv(8), "big")
        self._code: int | None = None

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.busy.release()

    def wait(self, timeout: float | None = None) -> int:
        self._server.line.settimeout(timeout)
        try:
            self._code = int.from_bytes(self._server.line.recv(8), "big", signed=True)
        except TimeoutError:
            raise subprocess.TimeoutExpired("query", timeout or 0) from None
        finally:
            self._server.line.settimeout(None)
        return self._code

    def kill(self) -> None:
        if self._code is None:
            os.kill(self._id, signal.SIGKILL)
            self.wait()


@pytest.fixture(scope="session")
def query_server() -> Iterator[Server]:
    """Return the server of this process's tests."""
    server = Server()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def forked_queries(request: pytest.FixtureRequest, query_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork the processes of queries, except in tests marked `fresh_process`."""
    if request.node.get_closest_marker("fresh_process") is None:
        forked = SimpleNamespace(
            Popen=lambda *words, **options: Forked(*words, **options, server=query_server),
            TimeoutExpired=subprocess.TimeoutExpired,
        )
        monkeypatch.setattr("micropref.cache.sql.query.subprocess", forked)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as given:
        serve(given)
