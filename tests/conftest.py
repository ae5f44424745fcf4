"""Fixtures for every test: a store in a temp folder, tiny backbones, rows on disk."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cache.store import Store


def _shared(name: str) -> ModuleType:
    """Load a module beside this one: test modules do not import one another, its builders become fixtures here."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


_models = _shared("models")
tiny_backbone = _models.tiny_backbone
make_backbone = _models.make_backbone
_stores = _shared("stores")
synthetic = _stores.synthetic
planted_run = _stores.planted_run
_planted = _shared("planted")
planted = _planted.planted
planted_people = _planted.planted_people


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return an empty store."""
    return Store(tmp_path / "store")


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., Path]:
    """Return `write(rows, name)`: a JSONL file of rows."""

    def write(rows: Iterable[dict[str, Any]], name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


def preference_rows(prompts: int = 40, per_prompt: int = 3) -> list[dict[str, Any]]:
    """Return rows of two groups with opposite tastes: `warm` likes the first response, `cold` the second."""
    contexts = {"warm": "Prefer the friendly answer.", "cold": "Prefer the dry answer."}
    rows = []
    for number in range(prompts):
        friendly, dry = f"Gladly! Thing {number} is lovely, my friend.", f"Thing {number}: see manual, page {number}."
        for turn in range(per_prompt):
            attribute = "warm" if (number + turn) % 2 else "cold"
            chosen, rejected = (friendly, dry) if attribute == "warm" else (dry, friendly)
            rows.append(
                {
                    "prompt": f"What is thing {number}?",
                    "chosen": chosen,
                    "rejected": rejected,
                    "attribute": attribute,
                    "context": contexts[attribute],
                    "user": f"u{(number + turn) % 7}",
                }
            )
    return rows


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    """Return 120 preference rows of 40 prompts and two groups."""
    return preference_rows()
