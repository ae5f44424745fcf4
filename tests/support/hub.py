"""A model hub on this machine: it answers what huggingface_hub's own client asks when it commits and downloads.

Files are kept in memory, one dict a commit; all are sent inside the commit, as small files are on the real one.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest


@dataclass
class Repository:
    """One repository and its commits, the newest last."""

    private: bool
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if revision == "main":
            return self.commits[-1]
        return next((one for one in self.commits if one[0] == revision), None)

    def add(self, files: dict[str, bytes]) -> str:
        before = self.commits[-1][1] if self.commits else {}
        sha = hashlib.sha1(f"{len(self.commits)} {sorted(files)}".encode()).hexdigest()
        self.commits.append((sha, {**before, **files}))
        return sha


@dataclass
class Hub:
    """All repositories, by type and name, and what was asked."""

    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    refuse_commits: bool = False


class _Server(ThreadingHTTPServer):
    """A server that knows its hub."""

    hub: Hub


class _Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: Any) -> None:
        self.server.hub.asked.append(f"{self.command} {self.path}")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif self.path == "/api/repos/create":
            self._create(json.loads(body))
        elif found := re.fullmatch(r"/api/(model|dataset)s/([^/]+/[^/]+)/(preupload|commit)/([^?]+).*", self.path):
            (self._preupload if found[3] == "preupload" else self._commit)(found[1], found[2], body)
        else:
            self._missing("NotFound")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if found := re.fullmatch(r"/api/(model|dataset)s/([^/?]+/[^/?]+)(?:/revision/([^?]+))?(?:\?.*)?", self.path):
            self._describe(found[1], found[2])
        elif found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path):
            self._file("dataset" if found[1] else "model", found[2], found[3], found[4])
        else:
            self._missing("NotFound")

    def _create(self, asked: dict[str, Any]) -> None:
        kind, name = asked.get("type", "model"), f"{asked['organization']}/{asked['name']}"
        if (kind, name) in self.server.hub.repositories:
            return self._answer(409, {"error": "there already", "url": self._url(kind, name)})
        private = bool(asked.get("private", asked.get("visibility") == "private"))
        self.server.hub.repositories[kind, name] = Repository(private)
        self.server.hub.repositories[kind, name].add({".gitattributes": b""})
        return self._answer(200, {"url": self._url(kind, name)})

    def _preupload(self, kind: str, name: str, body: bytes) -> None:
        files = json.loads(body)["files"]
        modes = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in files]
        self._answer(200, {"files": modes})

    def _commit(self, kind: str, name: str, body: bytes) -> None:
        if self.server.hub.refuse_commits:
            return self._answer(403, {"error": "no rights"}, {"X-Error-Message": "no rights"})
        values = [line["value"] for line in map(json.loads, body.splitlines()) if line["key"] == "file"]
        added = {one["path"]: base64.b64decode(one["content"]) for one in values}
        sha = self.server.hub.repositories[kind, name].add(added)
        return self._answer(200, {"commitUrl": f"{self._url(kind, name)}/commit/{sha}", "commitOid": sha})

    def _describe(self, kind: str, name: str) -> None:
        found = self.server.hub.repositories.get((kind, name))
        if found is None:
            return self._missing("RepoNotFound")
        told = {"id": name, "sha": found.commits[-1][0], "private": found.private, "siblings": []}
        return self._answer(200, told)

    def _file(self, kind: str, name: str, revision: str, path: str) -> None:
        repository = self.server.hub.repositories.get((kind, name))
        if repository is None:
            return self._missing("RepoNotFound")
        at = repository.at(revision)
        if at is None:
            return self._missing("RevisionNotFound")
        if path not in at[1]:
            return self._missing("EntryNotFound", {"X-Repo-Commit": at[0]})
        etag = hashlib.sha1(at[1][path]).hexdigest()
        return self._answer(200, at[1][path], {"X-Repo-Commit": at[0], "ETag": f'"{etag}"'})

    def _url(self, kind: str, name: str) -> str:
        return f"http://{self.headers['Host']}/{'datasets/' if kind == 'dataset' else ''}{name}"

    def _missing(self, code: str, headers: dict[str, str] | None = None) -> None:
        self._answer(404, {"error": code}, {"X-Error-Code": code, **(headers or {})})

    def _answer(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextmanager
def served(hub: Hub) -> Iterator[str]:
    """Serve a hub on a free port of the loopback."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.hub = hub
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def local_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Return an empty hub that huggingface_hub talks to, with an empty cache."""
    from huggingface_hub import close_session, constants

    hub = Hub()
    with served(hub) as url:
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        close_session()
        yield hub
        close_session()
