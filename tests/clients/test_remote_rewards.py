"""OpenRLHF's and verl's own client code, and clients of hosted services, get our rewards from a running server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.clients.conftest import CONTEXT, Trained, run_program

pytestmark = pytest.mark.clients

WARM, COLD = "Gladly! Thing 3 is lovely, my friend.", "Thing 3: see manual, page 3."
ENDS = {"tiny": "<|end|>", "smollm2": "<|im_end|>\n"}
"""What the chat template writes behind a response."""
ENGINES = {"vllm": "/classify", "sglang": "/v1/embeddings"}
"""Engines that verl may have behind its reward worker, and the route that it asks of each."""


@pytest.mark.parametrize("name", ["tiny", "smollm2"])
def test_their_clients_get_our_rewards(
    name: str, trained: Callable[[str], Trained], serve: Callable[[Trained, Path], str], tmp_path: Path
) -> None:
    made = trained(name)
    rows = [
        {"prompt": f"What is thing {number}?", "response": response, "label": label}
        for number, (response, label) in enumerate([(WARM, None), (COLD, {"context": CONTEXT}), (WARM, "a string")])
    ]
    url = serve(made, tmp_path / "choices.sqlite")
    engines = [engine for engine, route in ENGINES.items() if offers(url, route)]
    asked = {
        "url": url, "folder": str(made.exported(tmp_path / "reward")), "rows": rows, "end": ENDS[name],
        "engines": engines,
    }  # fmt: skip
    found = run_program("training", "remote_rewards.py", asked)
    scorer = made.scorer()
    plain = [scorer.score(row["prompt"], row["response"]).rewards[0] for row in rows]
    labelled = [
        scorer.score(row["prompt"], row["response"], **(row["label"] if isinstance(row["label"], dict) else {}))
        for row in rows
    ]
    scorer.close()
    for one, ours in zip(found["openrlhf"], labelled, strict=True):
        assert one["reward"] == one["scores"] == [pytest.approx(ours.rewards[0], abs=1e-5)]
    assert "vllm" in engines
    for engine in engines:
        assert found["verl"][engine] == pytest.approx(plain, abs=1e-5), engine


def test_clients_of_hosted_services_get_our_rewards(
    trained: Callable[[str], Trained], serve: Callable[[Trained, Path], str], tmp_path: Path
) -> None:
    """Cohere's client ranks; OpenAI's reads rewards as embeddings of width 1, for one person."""
    made = trained("tiny")
    url = serve(made, tmp_path / "choices.sqlite")
    for number in range(4):
        choice = {"user": "ann", "prompt": "What is thing 1?", "chosen": COLD, "rejected": WARM, "id": str(number)}
        assert httpx.post(f"{url}/v1/feedback", json=choice, timeout=60).json()["choices"] == number + 1
    text = f"<s><|user|>What is thing 3?<|end|><|assistant|>{WARM}<|end|>"
    asked = {"url": url, "query": "What is thing 3?", "documents": [WARM, COLD, "Maybe."], "user": "ann"}
    asked["texts"] = [text, text.removeprefix("<s>")] if offers(url, "/v1/embeddings") else []
    found = run_program("http", "hosted_clients.py", asked)
    scorer = made.scorer()
    plain = scorer.score(asked["query"], asked["documents"]).rewards
    for _ in range(4):
        scorer.learn("ann", "What is thing 1?", COLD, WARM)
    (mine,) = scorer.score(asked["query"], WARM, user="ann").rewards
    scorer.close()
    best = sorted(range(3), key=lambda at: -plain[at])[:2]
    assert [at for at, _ in found["rerank"]] == best
    assert [score for _, score in found["rerank"]] == pytest.approx([plain[at] for at in best], abs=1e-5)
    if asked["texts"]:
        assert [one[-1] for one in found["embeddings"]] == pytest.approx([mine, mine], abs=1e-5)


def offers(url: str, route: str) -> bool:
    """Say whether the server has a route."""
    return route in httpx.get(f"{url}/openapi.json").json()["paths"]
