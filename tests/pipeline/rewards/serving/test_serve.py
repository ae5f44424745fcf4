"""The server over real HTTP: its own routes, those of other servers' clients, limits, people, and a clean stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from typer.testing import CliRunner

import micropref
from micropref.cache.store import StoreFolder
from micropref.cli import app
from micropref.pipeline.rewards.scoring.options import BackboneOptions
from micropref.pipeline.rewards.serving.app import create_app
from micropref.pipeline.rewards.serving.options import ServeOptions
from micropref.pipeline.rewards.serving.service import Service
from tests.conftest import preference_rows

PROMPT = "What is thing 3?"
WARM, COLD = "Gladly! Thing 3 is lovely, my friend.", "Thing 3: see manual, page 3."


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_backbone: Callable[..., Path]) -> tuple[Path, str]:
    """Return a store, and a run of two heads whose router reads contexts."""
    opened = micropref.Store(tmp_path_factory.mktemp("served") / "store")
    fixed: dict[str, Any] = {"split_by_prompt": 0.3, "device": "cpu", "dtype": "float32"}
    opened.embed(preference_rows(), "mine", backbone=tiny_backbone("llama", chat=True), **fixed)
    return opened.folder, opened.train("mine", k=2, restarts=1, epochs=3).run


class Process:
    """A server in a process of its own, as the command starts it."""

    def __init__(self, store: Path, run: str, *options: str) -> None:
        command = [sys.executable, "-m", "micropref", "serve", run, "--store", str(store), "--device", "cpu"]
        self.process = subprocess.Popen(
            [*command, "--port", "0", *options],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert self.process.stderr is not None
        self.lines: list[str] = []
        for line in self.process.stderr:
            self.lines.append(line)
            if "serving run" in line:
                break
        told = [line for line in self.lines if "serving run" in line]
        assert told, "".join(self.lines)
        self.url = told[0].split(" at ")[1].split(",")[0]

    def stop(self, with_signal: int = signal.SIGTERM) -> str:
        self.process.send_signal(with_signal)
        _, told = self.process.communicate(timeout=60)
        return "".join(self.lines) + told


class Thread:
    """A server in a thread of this process: soon there."""

    def __init__(self, store: Path, run: str, feedback: Path, *, most_bytes: int, token: str | None = None) -> None:
        service = Service(
            StoreFolder(store), run, feedback, ServeOptions(backbone=BackboneOptions(device="cpu")), lambda _: None
        )
        app = create_app(service, most_bytes=most_bytes, token=token)
        self._server = uvicorn.Server(uvicorn.Config(app, port=0, access_log=False, log_level="warning"))
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()


Server = Process | Thread


@pytest.fixture(scope="module")
def server(trained: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Thread]:
    feedback = tmp_path_factory.mktemp("feedback") / "choices.sqlite"
    running = Thread(*trained, feedback, most_bytes=500_000)
    yield running
    running.stop()


def post(server: Server, route: str, body: Any, **options: Any) -> httpx.Response:
    return httpx.post(server.url + route, json=body, timeout=60, **options)


@pytest.fixture(scope="module")
def scorer(trained: tuple[Path, str]) -> Iterator[Any]:
    opened = micropref.Store(trained[0]).run(trained[1]).scorer(device="cpu")
    yield opened
    opened.close()


def test_rewards_are_those_of_the_scorer(server: Server, scorer: Any, trained: tuple[Path, str]) -> None:
    context = "Prefer the dry answer."
    found = post(server, "/v1/score", {"prompt": PROMPT, "responses": [WARM, COLD], "context": context}).json()
    expected = scorer.score_many([PROMPT], [[WARM, COLD]], context=context, together=True)[0]
    assert found["rewards"] == pytest.approx(list(expected.rewards), abs=1e-5)
    assert (found["best"], found["model"], found["reasons"]) == (expected.best, trained[1], [None, None])
    assert found["p_first"] == pytest.approx(expected.p_first, abs=1e-5)
    chat = [{"role": "user", "content": PROMPT}]
    same = post(server, "/v1/score", {"prompt": chat, "responses": [[{"role": "assistant", "content": WARM}]]}).json()
    assert same["rewards"][0] == pytest.approx(scorer.score(PROMPT, WARM).rewards[0], abs=1e-5)
    long = post(server, "/v1/score", {"prompt": PROMPT, "responses": [WARM, "x" * 900]}).json()
    assert long["rewards"][0] is not None
    assert long["rewards"][1] is None
    assert "too long" in long["reasons"][1]


def test_clients_of_other_servers(server: Server, scorer: Any) -> None:
    plain = [scorer.score(PROMPT, response).rewards[0] for response in (WARM, COLD)]
    text = f"<s><|user|>{PROMPT}<|end|><|assistant|>{WARM}<|end|>"
    rlhf = post(server, "/get_reward", {"query": [text], "prompts": [PROMPT], "labels": [None]}).json()
    assert rlhf["rewards"] == rlhf["scores"] == [pytest.approx(plain[0], abs=1e-5)]
    verl = post(server, "/classify", {"model": "m", "input": text, "use_activation": False}).json()
    assert verl["data"][-1]["probs"][-1] == pytest.approx(plain[0], abs=1e-5)
    vllm = post(server, "/score", {"model": "m", "text_1": PROMPT, "text_2": [WARM, COLD]}).json()
    assert [one["score"] for one in vllm["data"]] == pytest.approx(plain, abs=1e-5)
    for route in ("/rerank", "/v1/rerank", "/v2/rerank"):
        ranked = post(server, route, {"query": PROMPT, "documents": [WARM, COLD], "top_n": 1}).json()["results"]
        assert len(ranked) == 1
        assert ranked[0]["index"] == max((0, 1), key=plain.__getitem__)
        assert ranked[0]["relevance_score"] == pytest.approx(max(plain), abs=1e-5)


def test_a_person_learns_and_is_forgotten(server: Server, scorer: Any) -> None:
    asked = {"prompt": PROMPT, "responses": [WARM, COLD], "user": "ann"}
    assert post(server, "/v1/score", asked).status_code == 422
    assert httpx.get(f"{server.url}/v1/users/ann").status_code == 404
    choice = {"user": "ann", "prompt": PROMPT, "chosen": COLD, "rejected": WARM}
    for number in range(4):
        answer = post(server, "/v1/feedback", {**choice, "id": f"ann-{number}"}).json()
        assert (answer["recorded"], answer["choices"]) == (True, number + 1)
        mine = scorer.learn("ann", PROMPT, COLD, WARM)
    again = post(server, "/v1/feedback", {**choice, "id": "ann-0"}).json()
    assert (again["recorded"], again["choices"]) == (False, 4)
    found = post(server, "/v1/score", asked).json()
    assert found["weights"] == pytest.approx(list(mine), abs=1e-4)
    ranked = post(server, "/rerank", {"query": PROMPT, "documents": [WARM, COLD], "user": "ann"}).json()["results"]
    assert {one["index"]: one["relevance_score"] for one in ranked}[0] == pytest.approx(found["rewards"][0], abs=1e-5)
    assert httpx.get(f"{server.url}/v1/users/ann").json()["choices"] == 4
    assert httpx.delete(f"{server.url}/v1/users/ann").json() == {"user": "ann", "removed": 4}
    assert post(server, "/v1/score", asked).status_code == 422
    odd = "../../etc/passwd"
    assert post(server, "/v1/feedback", {**choice, "user": odd}).json()["choices"] == 1
    assert httpx.get(f"{server.url}/v1/users/..%2F..%2Fetc%2Fpasswd").json()["user"] == odd


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"prompt": "p"}, 422),
        ({"prompt": "p", "responses": []}, 422),
        ({"prompt": 5, "responses": ["a"]}, 422),
        ({"prompt": "p", "responses": ["a"], "attribute": "cosy"}, 422),
        ({"prompt": "p", "responses": ["a"], "weights": [1]}, 422),
        ({"prompt": "p", "responses": ["a"], "weights": [1, 1], "user": "ann"}, 422),
        ({"prompt": [{"role": "robot", "content": "p"}], "responses": ["a"]}, 422),
        ({"prompt": "p", "responses": ["\ud800"]}, 422),
        ({"prompt": "x" * 600_000, "responses": ["a"]}, 413),
    ],
)
def test_bad_requests(server: Server, body: Any, status: int) -> None:
    answer = httpx.post(
        server.url + "/v1/score", content=json.dumps(body).encode(), headers={"content-type": "application/json"}
    )
    assert answer.status_code == status
    assert answer.json()["error"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"null", b"[" * 5000])
def test_bodies_that_are_no_json(server: Server, content: bytes) -> None:
    answer = httpx.post(server.url + "/v1/score", content=content, headers={"content-type": "application/json"})
    assert 400 <= answer.status_code < 500


def test_a_body_without_a_length(server: Server) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 10_000

    assert (
        httpx.post(server.url + "/v1/score", content=parts(), headers={"content-type": "application/json"}).status_code
        == 413
    )


def test_many_clients_get_what_one_gets(server: Server, scorer: Any) -> None:
    prompts = [f"What is thing {number % 5}?" for number in range(40)]
    expected = [scorer.score(prompt, WARM).rewards[0] for prompt in prompts]
    with ThreadPoolExecutor(16) as pool:
        answers = pool.map(lambda prompt: post(server, "/v1/score", {"prompt": prompt, "responses": [WARM]}), prompts)
        found = [answer.json()["rewards"][0] for answer in answers]
    assert found == pytest.approx(expected, abs=1e-5)
    metrics = httpx.get(server.url + "/metrics").text
    assert 'micropref_requests_total{route="/v1/score",status="200"}' in metrics
    assert "micropref_turn_texts_count" in metrics


def test_a_token_is_asked_for(trained: tuple[Path, str], tmp_path: Path) -> None:
    running = Thread(*trained, tmp_path / "f.sqlite", most_bytes=10_000, token="0123456789abcdef")
    body = {"prompt": "p", "responses": ["a"]}
    assert post(running, "/v1/score", body).status_code == 401
    assert post(running, "/v1/score", body, headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert post(running, "/v1/score", body, headers={"Authorization": "Bearer 0123456789abcdef"}).status_code == 200
    assert httpx.get(running.url + "/health").json() == {"status": "ok"}
    running.stop()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "--host is 0.0.0.0: whoever reaches this machine"),
        (["--token-file", "short"], "found 5 characters; expected one line of at least 16"),
        (["--token-file", "missing"], "missing: cannot be read"),
        (["--port", "99999"], "--port is 99999: expected 0 to 65535"),
        (["--timeout", "0"], "--timeout is 0.0: expected a number above 0"),
    ],
)
def test_it_does_not_start_unsafely(
    trained: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short").write_text("short")
    result = CliRunner().invoke(app, ["serve", trained[1], "--store", str(trained[0]), *options])
    assert result.exit_code != 0
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_the_command_survives_a_kill_and_tells_nothing(trained: tuple[Path, str], tmp_path: Path) -> None:
    """What was answered is there afterwards; nothing of a request is in what the server prints; it stops cleanly."""
    (tmp_path / "token").write_text("0123456789abcdef\n")
    options = ("--feedback", str(tmp_path / "f.sqlite"), "--token-file", str(tmp_path / "token"))
    headers = {"Authorization": "Bearer 0123456789abcdef"}
    running = Process(*trained, *options)
    choice = {"user": "ann", "prompt": PROMPT, "chosen": COLD, "rejected": WARM}
    for number in range(3):
        assert post(running, "/v1/feedback", {**choice, "id": f"{number}"}, headers=headers).json()["recorded"]
    running.stop(signal.SIGKILL)
    again = Process(*trained, *options)
    assert httpx.get(f"{again.url}/v1/users/ann", headers=headers).json()["choices"] == 3
    secret = "Sesame-9431"
    post(again, "/v1/score", {"prompt": secret, "responses": [secret]}, headers=headers)
    post(again, "/v1/score", {"prompt": 5, "responses": [secret], "user": secret}, headers=headers)
    post(again, "/v1/feedback", {**choice, "user": secret, "prompt": secret}, headers=headers)
    httpx.get(f"{again.url}/{secret}")
    told = again.stop(signal.SIGINT)
    assert again.process.returncode == 0
    assert "stopped: every request that was taken is answered" in told
    assert secret not in told
