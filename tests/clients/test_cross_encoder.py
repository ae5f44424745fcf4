"""An exported encoder is a CrossEncoder where micropref is not installed: its scores, and its ranking as best-of-n."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.conftest import CONTEXT, Trained, run_program, train_on
from tests.conftest import preference_rows

pytestmark = pytest.mark.clients

CANDIDATES = ["Gladly!", "See the manual, page 3.", "Thing 3: see manual, page 3.", "I would not know, my friend.", ""]


@pytest.fixture(scope="module")
def encoders(
    tmp_path_factory: pytest.TempPathFactory, tiny_backbone: Callable[..., Path], trained: Callable[[str], Trained]
) -> dict[str, tuple[Trained, Path]]:
    """Return runs on a tiny encoder and on MiniLM, with their exports."""
    folder = tmp_path_factory.mktemp("encoders")
    runs = {"tiny": train_on(folder / "store", str(tiny_backbone("bert"))), "minilm": trained("minilm")}
    return {name: (run, run.exported(folder / name)) for name, run in runs.items()}


@pytest.mark.parametrize("release", [5, 6])
@pytest.mark.parametrize("name", ["tiny", "minilm"])
def test_scores_and_ranking(encoders: dict[str, tuple[Trained, Path]], name: str, release: int) -> None:
    made, folder = encoders[name]
    pairs = [(row["prompt"], row["chosen"]) for row in preference_rows(20)]
    asked = {"folder": str(folder), "pairs": pairs, "query": "What is thing 3?", "documents": CANDIDATES}
    found = run_program(f"sentence-transformers-{release}", "cross_encoder.py", asked)
    scorer = made.scorer()
    ours = [scorer.score(*pair, context=CONTEXT).rewards[0] for pair in pairs]
    ranked = scorer.score("What is thing 3?", CANDIDATES, context=CONTEXT)
    best = scorer.best_of("What is thing 3?", CANDIDATES, context=CONTEXT)
    scorer.close()
    worst = max(abs(one - other) for one, other in zip(found["scores"], ours, strict=True))
    print(f"{name}, sentence-transformers {release}: largest difference {worst:.2g}")
    assert worst <= 1e-5
    assert found["ranking"][0]["at"] == ranked.best
    assert CANDIDATES[found["ranking"][0]["at"]] == best
    assert {one["at"]: one["score"] for one in found["ranking"]} == pytest.approx(
        dict(enumerate(ranked.rewards)), abs=1e-5
    )
