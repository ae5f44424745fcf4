"""A model hub on this machine: what huggingface_hub's own client asks for when it makes a repository, commits, downloads.

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


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            hub.asked.append(f"{self.command} {self.path}")

        def answer(self, status: int, value: Any = None, headers: dict[str, str] | None = None) -> None:
            data = value if isinstance(value, bytes) else json.dumps(value or {}).encode()
            self.send_response(status)
            for name, text in {"Content-Length": str(len(data)), **(headers or {})}.items():
                self.send_header(name, text)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path == "/api/validate-yaml":
                return self.answer(200, {"errors": [], "warnings": []})
            if self.path == "/api/repos/create":
                return self.create(json.loads(body))
            found = re.fullmatch(r"/api/(model|dataset)s/([^/]+/[^/]+)/(preupload|commit)/([^?]+).*", self.path)
            assert found, self.path
            kind, name, what, _ = found.groups()
            if what == "preupload":
                files = json.loads(body)["files"]
                modes = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in files]
                return self.answer(200, {"files": modes})
            if hub.refuse_commits:
                return self.answer(403, {"error": "no rights"}, {"X-Error-Message": "no rights"})
            lines = [json.loads(line) for line in body.splitlines()]
            added = {
                one["value"]["path"]: base64.b64decode(one["value"]["content"]) for one in lines if one["key"] == "file"
            }
            sha = hub.repositories[kind, name].add(added)
            return self.answer(200, {"commitUrl": f"{self.url(kind, name)}/commit/{sha}", "commitOid": sha})

        def create(self, asked: dict[str, Any]) -> None:
            kind = asked.get("type", "model")
            name = f"{asked['organization']}/{asked['name']}"
            private = asked.get("private", asked.get("visibility") == "private")
            if (kind, name) in hub.repositories:
                return self.answer(409, {"error": "there already", "url": self.url(kind, name)})
            hub.repositories[kind, name] = Repository(bool(private))
            hub.repositories[kind, name].add({".gitattributes": b""})
            return self.answer(200, {"url": self.url(kind, name)})

        def url(self, kind: str, name: str) -> str:
            return f"http://{self.headers['Host']}/{'datasets/' if kind == 'dataset' else ''}{name}"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            found = re.fullmatch(r"/api/(model|dataset)s/([^/?]+/[^/?]+)(?:/revision/([^?]+))?(?:\?.*)?", self.path)
            if found:
                repository = hub.repositories.get((found[1], found[2]))
                if repository is None:
                    return self.missing("RepoNotFound")
                sha = repository.commits[-1][0]
                return self.answer(200, {"id": found[2], "sha": sha, "private": repository.private, "siblings": []})
            found = re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
            if found is None:
                return self.missing("NotFound")
            repository = hub.repositories.get(("dataset" if found[1] else "model", found[2]))
            if repository is None:
                return self.missing("RepoNotFound")
            at = repository.at(found[3])
            if at is None:
                return self.missing("RevisionNotFound")
            if found[4] not in at[1]:
                return self.missing("EntryNotFound", {"X-Repo-Commit": at[0]})
            data = at[1][found[4]]
            etag = hashlib.sha1(data).hexdigest()
            return self.answer(200, data or b"", {"X-Repo-Commit": at[0], "ETag": f'"{etag}"'})

        def missing(self, code: str, headers: dict[str, str] | None = None) -> None:
            self.answer(404, {"error": code}, {"X-Error-Code": code, **(headers or {})})

    return Handler


@contextmanager
def served(hub: Hub) -> Iterator[str]:
    """Serve a hub on a free port of the loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
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
