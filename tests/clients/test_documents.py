"""The page on trainers: its commands and code run as they stand, in the environments that their blocks name."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from micropref.pipeline.rewards.scoring.candidates import Rewarded
from tests.clients.conftest import CONTEXT, ROOT, Trained
from tests.conftest import preference_rows
from tests.support.snippets import run_snippets

pytestmark = pytest.mark.clients

PAGE = ROOT / "docs" / "trainers.md"
BLOCKS = re.findall(r"^```(\w+) (\w+)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_blocks_run(trained: Callable[[str], Trained], policy: Callable[[Trained, str], Path], tmp_path: Path) -> None:
    made = trained("tiny")
    (tmp_path / "data").symlink_to(made.store.folder)
    (tmp_path / "policy").symlink_to(policy(made, "tiny"))
    (tmp_path / "prompts").mkdir()
    rows = [{"prompt": [{"role": "user", "content": row["prompt"]}]} for row in preference_rows(8)]
    (tmp_path / "prompts" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ran = []
    for language, environment, code in BLOCKS:
        if environment == "verl":
            continue
        binaries = Path(sys.executable).parent if environment == "main" else ROOT / f".venv-clients/{environment}/bin"
        command = [binaries / "python", "-c", code] if language == "python" else ["sh", "-ec", code]
        told = {"PATH": f"{binaries}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(command, cwd=tmp_path, env=os.environ | told, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{language} {environment}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        ran.append((language, environment))
    assert ran == [("sh", "main"), ("python", "training"), ("sh", "training")]
    assert (tmp_path / "reward-model" / "micropref.json").is_file()


def test_the_reward_function_for_verl_gives_our_rewards(
    trained: Callable[[str], Trained], serve: Callable[[Trained, Path], str], tmp_path: Path
) -> None:
    """Called with the arguments that verl's reward manager gives it."""
    made = trained("tiny")
    (code,) = [code for _, environment, code in BLOCKS if environment == "verl"]
    assert code.count("http://127.0.0.1:8000") == 1
    names: dict[str, Callable[..., float]] = {}
    url = serve(made, tmp_path / "choices.sqlite")
    run_snippets([code.replace("http://127.0.0.1:8000", url)], "docs/trainers.md", names)
    scorer = made.scorer()
    prompt = "What is thing 3?"
    for extra in ({"prompt": prompt}, {"prompt": prompt, "context": CONTEXT}):
        ours: Rewarded = scorer.score(prompt, "Gladly!", context=extra.get("context"))
        told = {**extra, "num_turns": None, "rollout_reward_scores": {}}
        theirs = names["compute_score"](data_source="mine", solution_str="Gladly!", ground_truth="", extra_info=told)
        assert theirs == pytest.approx(ours.rewards[0], abs=1e-5)
    with pytest.raises(ValueError, match="too long"):
        names["compute_score"](
            data_source="mine", solution_str="x" * 900, ground_truth="", extra_info={"prompt": prompt}
        )
    scorer.close()
