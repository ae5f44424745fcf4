"""`best-of`: the gain of choosing among n responses, by the run that chooses and by another."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import micropref
from micropref.cli import app
from micropref.heads.evaluation.best_of import best_of_values
from tests.conftest import preference_rows

PROMPTS = {f"What is thing {at}?": [f"Answer {at * word} of {word}." for word in range(1, 6)] for at in range(1, 5)}


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, tiny_backbone: Callable[..., Path]
) -> tuple[micropref.Store, str]:
    """Return a store, and a run of two heads that reads contexts."""
    opened = micropref.Store(tmp_path_factory.mktemp("best") / "store")
    fixed = {"split_by_prompt": 0.3, "device": "cpu", "dtype": "float32"}
    opened.embed(preference_rows(), "mine", backbone=tiny_backbone("llama"), **fixed)
    return opened, opened.train("mine", k=2, restarts=1, epochs=3).run


@pytest.fixture
def candidates(tmp_path: Path) -> Path:
    path = tmp_path / "candidates.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": prompt, "responses": some}) + "\n" for prompt, some in PROMPTS.items())
    )
    return path


def test_gains_are_those_of_the_rewards(trained: tuple[micropref.Store, str], candidates: Path) -> None:
    store, run = trained
    report = store.best_of_curve(run, candidates, run, weights=[1, 0], held_out_weights=[0, 1], device="cpu")
    scorer = store.run(run).scorer(device="cpu")
    heads = [torch.tensor(scorer.score(prompt, some).heads, dtype=torch.float64) for prompt, some in PROMPTS.items()]
    scorer.close()
    spread = torch.stack([one.var(0) for one in heads]).mean(0).sqrt()
    values = torch.stack([best_of_values(one[:, 0], one[:, 1], [1, 2, 4]) for one in heads])
    expected = ((values - values[:, :1]) / spread).mean(0)
    assert [one.n for one in report.sizes] == [1, 2, 4]
    assert [one.gain for one in report.sizes] == pytest.approx(expected[:, 0].tolist(), abs=1e-4)
    assert [one.held_out_gain for one in report.sizes] == pytest.approx(expected[:, 1].tolist(), abs=1e-4)
    assert report.sizes[0].gain == 0
    assert report.sizes[2].low is not None
    assert report.sizes[2].low < report.sizes[2].gain < report.sizes[2].high
    same = sum(int(one[:, 0].argmax() == one[:, 1].argmax()) for one in heads)
    assert report.agreement == same / 4


def test_texts_are_read_once_for_both_runs(
    trained: tuple[micropref.Store, str], candidates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from micropref.pipeline.forwarding.passes import PackedPass

    store, run = trained
    other = store.train("mine", k=3, restarts=1, epochs=1, method="static").run
    read: list[int] = []
    forward = PackedPass.run

    def counted(self: PackedPass, texts: Any, groups: Any) -> Any:
        read.append(len(texts))
        return forward(self, texts, groups)

    monkeypatch.setattr(PackedPass, "run", counted)
    store.best_of_curve(run, candidates, other, context="Prefer the dry answer.", device="cpu")
    assert [count for count in read if count > 1] == [20]  # else the context, and the check of the pass on it


def test_prompts_with_few_responses_are_counted(trained: tuple[micropref.Store, str], candidates: Path) -> None:
    store, run = trained
    with candidates.open("a") as file:
        file.write(json.dumps({"prompt": "p", "responses": ["a", "b"]}) + "\n")
        file.write(json.dumps({"prompt": "p", "responses": ["a", "b" * 700]}) + "\n")
    heads = {"weights": [1, 0], "held_out_weights": [0, 1], "device": "cpu"}
    report = store.best_of_curve(run, candidates, run, n=[5], **heads)
    assert (report.prompts, report.too_few, [one.n for one in report.sizes]) == (4, 2, [5])
    assert list(report.without_reward.values()) == [1]
    with pytest.raises(micropref.BadInput, match=r"no prompt has 9 responses with different rewards \(the most is 5\)"):
        store.best_of_curve(run, candidates, run, n=[9], **heads)
    with pytest.raises(micropref.BadInput, match="the run that chooses, by the same weights"):
        store.best_of_curve(run, candidates, run, device="cpu")


def test_the_command(trained: tuple[micropref.Store, str], candidates: Path) -> None:
    store, run = trained
    command = ["best-of", run, str(candidates), "--held-out", run, "--store", str(store.folder), "--device", "cpu"]
    result = CliRunner().invoke(app, [*command, "--n", "1,2,4", "--weights", "1,0", "--held-out-weights", "0,1"])
    assert result.exit_code == 0, result.output
    assert "held-out gain (95 %)" in result.stdout
    refused = CliRunner().invoke(app, [*command, "--n", "0"])
    assert refused.exit_code == 2
    assert "--n is 0: expected numbers of at least 1" in refused.stderr
