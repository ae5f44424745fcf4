"""OpenRLHF's and verl's own client code gets our rewards from a running server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.conftest import CONTEXT, Trained, run_program

pytestmark = pytest.mark.clients

WARM, COLD = "Gladly! Thing 3 is lovely, my friend.", "Thing 3: see manual, page 3."
ENDS = {"tiny": "<|end|>", "smollm2": "<|im_end|>\n"}
"""What the chat template writes behind a response."""


@pytest.mark.parametrize("name", ["tiny", "smollm2"])
def test_their_clients_get_our_rewards(
    name: str, trained: Callable[[str], Trained], serve: Callable[[Trained, Path], str], tmp_path: Path
) -> None:
    made = trained(name)
    rows = [
        {"prompt": f"What is thing {number}?", "response": response, "label": label}
        for number, (response, label) in enumerate([(WARM, None), (COLD, {"context": CONTEXT}), (WARM, "a string")])
    ]
    asked = {
        "url": serve(made, tmp_path / "choices.sqlite"), "folder": str(made.exported(tmp_path / "reward")),
        "rows": rows, "end": ENDS[name], "engines": ["vllm"],
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
    assert found["verl"]["vllm"] == pytest.approx(plain, abs=1e-5)
