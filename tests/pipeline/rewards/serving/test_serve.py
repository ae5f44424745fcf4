"""The server over real HTTP: its own routes, those of other servers' clients, limits, people, and a clean stop."""

from __future__ import annotations

import base64
import json
import math
import os
import shutil
import signal
import struct
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
from micropref.pipeline.rewards.serving.connections import http_config
from micropref.pipeline.rewards.serving.options import ServeOptions
from micropref.pipeline.rewards.serving.service import Service
from tests.conftest import preference_rows

PROMPT = "What is thing 3?"
CLIENT = httpx.Client(timeout=60)
WARM, COLD = "Gladly! Thing 3 is lovely, my friend.", "Thing 3: see manual, page 3."


@pytest.fixture(scope="module", autouse=True)
def _close_client() -> Iterator[None]:
    yield
    CLIENT.close()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_backbone: Callable[..., Path]) -> tuple[Path, str]:
    """Return a store, and a run of two heads whose router reads contexts."""
    opened = micropref.Store(tmp_path_factory.mktemp("served") / "store")
    fixed: dict[str, Any] = {"split_by_prompt": 0.3, "device": "cpu", "dtype": "float32"}
    opened.embed(preference_rows(20, 2), "mine", backbone=tiny_backbone("llama", chat=True), **fixed)
    return opened.folder, opened.train("mine", k=2, restarts=1, epochs=30, lr=0.02).run


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
        _, told = self.process.communicate(timeout=120)
        return "".join(self.lines) + told


class Thread:
    """A server in a thread of this process: soon there."""

    def __init__(self, store: Path, run: str, feedback: Path, *, most_bytes: int, token: str | None = None) -> None:
        service = Service(
            StoreFolder(store), run, feedback, ServeOptions(backbone=BackboneOptions(device="cpu")), lambda _: None
        )
        app = create_app(service, most_bytes=most_bytes, token=token)
        self._server = uvicorn.Server(http_config(app, port=0))
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
    return CLIENT.post(server.url + route, json=body, **options)


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


TEXT = f"<s><|user|>{PROMPT}<|end|><|assistant|>{WARM}<|end|>"
MESSAGES = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": [{"type": "text", "text": WARM}]}]
CLIENTS: list[tuple[str, dict[str, Any], Callable[[Any], float]]] = [
    ("/get_reward", {"query": [TEXT], "prompts": [PROMPT], "labels": [None]}, lambda said: said["rewards"][-1]),
    ("/get_reward", {"query": [TEXT], "labels": [{"answer": "4"}]}, lambda said: said["scores"][-1]),
    ("/classify", {"model": "m", "input": TEXT, "use_activation": False}, lambda said: said["data"][-1]["probs"][-1]),
    ("/classify", {"messages": MESSAGES}, lambda said: said["data"][-1]["probs"][-1]),
    ("/pooling", {"model": "m", "input": [COLD, TEXT]}, lambda said: said["data"][-1]["data"][-1]),
    ("/pooling", {"messages": MESSAGES, "task": "classify"}, lambda said: said["data"][-1]["data"][-1]),
    ("/v1/embeddings", {"model": "m", "input": TEXT}, lambda said: said["data"][-1]["embedding"][-1]),
    (
        "/v1/embeddings",
        {"model": "m", "input": [TEXT], "encoding_format": "base64"},
        lambda said: struct.unpack("<f", base64.b64decode(said["data"][-1]["embedding"]))[0],
    ),
    ("/score", {"model": "m", "text_1": PROMPT, "text_2": [COLD, WARM]}, lambda said: said["data"][1]["score"]),
    ("/score", {"queries": [PROMPT, PROMPT], "documents": [COLD, WARM]}, lambda said: said["data"][1]["score"]),
    ("/score", {"queries": PROMPT, "items": WARM}, lambda said: said["data"][0]["score"]),
    ("/v1/score", {"data_1": PROMPT, "data_2": WARM}, lambda said: said["data"][0]["score"]),
    ("/rerank", {"query": PROMPT, "documents": [WARM, COLD]}, lambda said: by_index(said["results"])[0]),
    ("/v1/rerank", {"query": PROMPT, "documents": [WARM], "top_n": 0}, lambda said: by_index(said["results"])[0]),
    ("/v2/rerank", {"query": PROMPT, "documents": [COLD, WARM]}, lambda said: by_index(said["results"])[1]),
    ("/rerank", {"query": PROMPT, "texts": [COLD, WARM], "raw_scores": True}, lambda said: by_index(said)[1]),
    ("/predict", {"inputs": [PROMPT, WARM], "raw_scores": True}, lambda said: said[0]["score"]),
    ("/predict", {"inputs": TEXT}, lambda said: said[0]["score"]),
    ("/predict", {"inputs": [[COLD], [PROMPT, WARM], [TEXT]]}, lambda said: said[2][0]["score"]),
]
"""Route, what a client sends, and where in the answer it reads the reward of WARM."""


def by_index(results: list[dict[str, Any]]) -> dict[int, float]:
    return {one["index"]: one.get("relevance_score", one.get("score")) for one in results}


@pytest.fixture(scope="module")
def bob(server: Server) -> str:
    """Return a person who prefers COLD."""
    for number in range(3):
        choice = {"user": "bob", "prompt": PROMPT, "chosen": COLD, "rejected": WARM, "id": f"bob-{number}"}
        assert post(server, "/v1/feedback", choice).json()["recorded"]
    return "bob"


@pytest.mark.parametrize(("route", "body", "read"), CLIENTS)
def test_clients_of_other_servers(
    server: Server, scorer: Any, bob: str, route: str, body: dict[str, Any], read: Callable[[Any], float]
) -> None:
    plain = scorer.score(PROMPT, WARM).rewards[0]
    answer = post(server, route, body).json()
    assert read(answer) == pytest.approx(plain, abs=1e-5)
    if isinstance(answer, dict) and "usage" in answer and "rerank" not in route and COLD not in str(body):
        (expected,) = scorer.score(PROMPT, WARM).tokens
        assert answer["usage"] == {"prompt_tokens": expected, "total_tokens": expected, "completion_tokens": 0}
    personal = post(server, "/v1/score", {"prompt": PROMPT, "responses": [WARM], "user": bob}).json()["rewards"][0]
    assert personal != pytest.approx(plain, abs=1e-3)
    assert read(post(server, route, {**body, "user": bob}).json()) == pytest.approx(personal, abs=1e-5)
    header = {"X-Micropref-User": "%62ob"}
    assert read(post(server, route, body, headers=header).json()) == pytest.approx(personal, abs=1e-5)


def test_what_clients_ask_for_besides(server: Server, scorer: Any, bob: str, trained: tuple[Path, str]) -> None:
    plain = [scorer.score(PROMPT, response).rewards[0] for response in (WARM, COLD)]
    squashed = [1 / (1 + math.exp(-one)) for one in plain]
    pairs = {"queries": PROMPT, "documents": [WARM, COLD]}
    found = post(server, "/score", pairs | {"use_activation": True}).json()["data"]
    assert [one["score"] for one in found] == pytest.approx(squashed, abs=1e-5)
    texts = {"query": PROMPT, "texts": [WARM, COLD], "raw_scores": False, "return_text": True}
    ranked = post(server, "/rerank", texts).json()
    assert [one["score"] for one in ranked] == pytest.approx(sorted(squashed, reverse=True), abs=1e-5)
    assert [one["text"] for one in ranked] == [(WARM, COLD)[one["index"]] for one in ranked]
    for asked in ({"use_activation": True}, {"raw_scores": False}):
        ranked = post(server, "/v2/rerank", {"query": PROMPT, "documents": [WARM, COLD], **asked}).json()["results"]
        scores = [one["relevance_score"] for one in ranked]
        assert scores == pytest.approx(sorted(squashed, reverse=True), abs=1e-5)
    best = post(server, "/rerank", {"query": PROMPT, "documents": [WARM, COLD], "top_n": 1}).json()["results"]
    assert [one["index"] for one in best] == [max((0, 1), key=plain.__getitem__)]
    mine = post(
        server, "/get_reward", {"query": [TEXT, TEXT], "labels": [{"user": bob}, {"context": "Be dry."}]}
    ).json()
    assert mine["rewards"][0] != pytest.approx(mine["rewards"][1], abs=1e-3)
    info = CLIENT.get(f"{server.url}/info").json()
    assert (info["model_id"], info["model_type"]["reranker"]["id2label"]) == (trained[1], {"0": "reward"})


@pytest.mark.parametrize(
    ("route", "body", "message"),
    [
        ("/classify", {"input": [TEXT, "x" * 900]}, "text 1 has no reward: too long"),
        ("/rerank", {"query": PROMPT, "documents": [WARM, "x" * 900]}, "text 1 has no reward: too long"),
        ("/classify", {}, "expected either input or messages"),
        ("/pooling", {"input": TEXT, "messages": MESSAGES}, "expected either input or messages"),
        ("/pooling", {"messages": MESSAGES[:1]}, "messages ends with a turn of 'user'"),
        ("/pooling", {"input": TEXT, "task": "token_embed"}, "malformed request"),
        ("/score", {"queries": [PROMPT, PROMPT], "documents": [WARM] * 3}, "2 prompts and 3 responses"),
        ("/v1/score", {"text_1": PROMPT}, "found no pairs of texts"),
        ("/get_reward", {"query": [TEXT], "prompts": [PROMPT, PROMPT]}, "1 queries and 2 prompts"),
        ("/get_reward", {"query": [TEXT], "labels": [{"user": "\ud800"}]}, "labels[0].user"),
        ("/predict", {"inputs": ["a", "b", "c"]}, "malformed request"),
        ("/rerank", {"query": PROMPT, "texts": []}, "malformed request"),
        ("/score", {"queries": PROMPT, "documents": WARM, "user": "nobody"}, "no weights for user 'nobody'"),
    ],
)
def test_clients_are_told_why_not(server: Server, route: str, body: dict[str, Any], message: str) -> None:
    answer = CLIENT.post(server.url + route, content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert message in answer.json()["error"]


def test_no_page_loads_anything_from_elsewhere(server: Server) -> None:
    for path in ("/docs", "/redoc", "/docs/oauth2-redirect", "/"):
        assert CLIENT.get(server.url + path).status_code == 404, path


def test_every_route_has_examples_that_hold(server: Server) -> None:
    """The OpenAPI file's example requests are answered, in the form of its example answers."""
    described = CLIENT.get(f"{server.url}/openapi.json").json()

    def followed(schema: dict[str, Any]) -> dict[str, Any]:
        for part in [schema, *schema.get("oneOf", []), *schema.get("anyOf", [])]:
            if "$ref" in part:
                return followed(described["components"]["schemas"][part["$ref"].rpartition("/")[2]])
        return schema

    for path, methods in described["paths"].items():
        for method, route in methods.items():
            assert route.get("description"), path
            ((kind, answered),) = route["responses"]["200"]["content"].items()
            expected = answered.get("example") or followed(answered["schema"])["examples"][0]
            if method != "post":
                continue
            body = followed(route["requestBody"]["content"]["application/json"]["schema"])["examples"][0]
            body = {name: value for name, value in body.items() if name not in ("user", "labels")}
            body |= {"user": "somebody", "id": "somebody-1"} if path == "/v1/feedback" else {}
            answer = post(server, path, body)
            assert (answer.status_code, kind) == (200, "application/json"), (path, answer.text)
            assert form_of(answer.json()) == form_of(expected), path


def form_of(value: Any) -> Any:
    """Return the names in an answer; of a list, those of its first item."""
    if isinstance(value, dict):
        return {name: form_of(each) for name, each in value.items()}
    return [form_of(value[0])] if isinstance(value, list) and value and not isinstance(value[0], float) else None


def test_a_person_learns_and_is_forgotten(server: Server, scorer: Any) -> None:
    asked = {"prompt": PROMPT, "responses": [WARM, COLD], "user": "ann"}
    assert post(server, "/v1/score", asked).status_code == 422
    assert CLIENT.get(f"{server.url}/v1/users/ann").status_code == 404
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
    assert CLIENT.get(f"{server.url}/v1/users/ann").json()["choices"] == 4
    assert CLIENT.delete(f"{server.url}/v1/users/ann").json() == {"user": "ann", "removed": 4}
    assert post(server, "/v1/score", asked).status_code == 422
    odd = "../../etc/passwd"
    assert post(server, "/v1/feedback", {**choice, "user": odd}).json()["choices"] == 1
    assert CLIENT.get(f"{server.url}/v1/users/..%2F..%2Fetc%2Fpasswd").json()["user"] == odd


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
        ({"prompt": "p", "responses": ["a"], "user": "\ud800"}, 422),
        ({"prompt": "p", "responses": ["a"], "user": "a\0b"}, 422),
        ({"prompt": "p", "responses": ["a"], "user": "x" * 257}, 422),
        ({"prompt": "p", "responses": ["a"], "weights": [math.nan, 1]}, 422),
        ({"prompt": "p", "responses": ["a"], "weights": [1e308, 1e308]}, 422),
        ({"prompt": "p", "responses": ["a"], "weights": [0, 0]}, 422),
        ({"prompt": "p", "responses": ["a"] * 1025}, 422),
        ({"prompt": "p", "responses": ["\0"]}, 200),
        ({"prompt": "p", "responses": ["a"], "\ud800": 1}, 422),
        ({"prompt": "p", "responses": ["a"], "conttext": "Be brief."}, 422),
        ({"prompt": "p" * 200_001, "responses": ["a"]}, 422),
        ({"prompt": "x" * 600_000, "responses": ["a"]}, 413),
    ],
)
def test_bad_requests(server: Server, body: Any, status: int) -> None:
    answer = CLIENT.post(
        server.url + "/v1/score", content=json.dumps(body).encode(), headers={"content-type": "application/json"}
    )
    assert answer.status_code == status
    assert status == 200 or answer.json()["error"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"null", b"[" * 5000, b"[" * 99_999 + b"]" * 99_999, b"9" * 5000, b'{"prompt": NaN}'],
)
def test_bodies_that_are_no_json(server: Server, content: bytes) -> None:
    answer = CLIENT.post(server.url + "/v1/score", content=content, headers={"content-type": "application/json"})
    assert 400 <= answer.status_code < 500
    assert answer.json()["error"]


def test_a_body_without_a_length(server: Server) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 10_000

    assert (
        CLIENT.post(server.url + "/v1/score", content=parts(), headers={"content-type": "application/json"}).status_code
        == 413
    )


def test_many_clients_get_what_one_gets(server: Server, scorer: Any) -> None:
    prompts = [f"What is thing {number % 5}?" for number in range(40)]
    expected = [scorer.score(prompt, WARM).rewards[0] for prompt in prompts]
    with ThreadPoolExecutor(16) as pool:
        answers = pool.map(lambda prompt: post(server, "/v1/score", {"prompt": prompt, "responses": [WARM]}), prompts)
        found = [answer.json()["rewards"][0] for answer in answers]
    assert found == pytest.approx(expected, abs=1e-5)
    metrics = CLIENT.get(server.url + "/metrics").text
    assert 'micropref_requests_total{route="/v1/score",status="200"}' in metrics
    assert "micropref_turn_texts_count" in metrics


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


SECRET = "Sesame-9431"


def test_the_command_answers_what_it_took_and_tells_nothing(trained: tuple[Path, str], tmp_path: Path) -> None:
    """Told to stop under load it answers every request that it took; nothing of a request is in what it prints."""
    (tmp_path / "token").write_text("0123456789abcdef\n")
    headers = {"Authorization": "Bearer 0123456789abcdef"}
    options = ("--feedback", str(tmp_path / "f.sqlite"), "--token-file", str(tmp_path / "token"))
    running = Process(*trained, *options)
    assert post(running, "/v1/score", {"prompt": "p", "responses": ["a"]}).status_code == 401
    choice = {"user": SECRET, "prompt": SECRET, "chosen": COLD, "rejected": WARM}
    assert post(running, "/v1/feedback", choice, headers=headers).json()["recorded"]
    post(running, "/v1/score", {"prompt": 5, "responses": [SECRET], "user": SECRET}, headers=headers)
    CLIENT.get(f"{running.url}/{SECRET}", headers=headers)
    bodies = [{"prompt": f"{SECRET} {at}", "responses": [f"{at} {turn}" for turn in range(24)]} for at in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(post, running, "/v1/score", body, headers=headers) for body in bodies]
        until = time.monotonic() + 60
        while 'requests_total{route="/v1/score",status="200"}' not in metrics_of(running, headers):
            assert time.monotonic() < until
            time.sleep(0.005)
        told = running.stop(signal.SIGINT)
        taken = [answer.result() for answer in answers if not isinstance(answer.exception(), httpx.ConnectError)]
    assert len(taken) > 1
    assert {answer.status_code for answer in taken} == {200}
    assert running.process.returncode == 0
    assert "stopped: every request that was taken is answered" in told
    assert SECRET not in told


def metrics_of(server: Server, headers: dict[str, str]) -> str:
    found = CLIENT.get(f"{server.url}/metrics", headers=headers).text
    assert SECRET not in found
    return found


@pytest.mark.slow
def test_choices_survive_a_kill(trained: tuple[Path, str], tmp_path: Path) -> None:
    options = ("--feedback", str(tmp_path / "f.sqlite"))
    running = Process(*trained, *options)
    choice = {"user": "ann", "prompt": PROMPT, "chosen": COLD, "rejected": WARM}
    for number in range(3):
        assert post(running, "/v1/feedback", {**choice, "id": f"{number}"}).json()["recorded"]
    running.stop(signal.SIGKILL)
    again = Process(*trained, *options)
    assert CLIENT.get(f"{again.url}/v1/users/ann").json()["choices"] == 3
    again.stop()


@pytest.mark.slow
def test_the_openapi_file_holds(server: Server) -> None:
    """Requests made from the OpenAPI file, right and wrong ones, meet no error of the server: `make test-openapi`."""
    tool = os.environ.get("SCHEMATHESIS") or shutil.which("schemathesis")
    if tool is None:
        pytest.skip("schemathesis is not installed: `make test-openapi` installs it aside")
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    options = ["--checks", checks, "--seed", "1", "--max-examples", "60", "--no-color"]
    done = subprocess.run(
        [tool, "run", f"{server.url}/openapi.json", *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert 'status="500"' not in CLIENT.get(f"{server.url}/metrics").text
