"""Fixtures for every test: a store in a temp folder, tiny backbones, rows on disk."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import typer.testing

from micropref.cache.store import StoreFolder
from tests.support.backbones import loaded_once, make_backbone, tiny_backbone
from tests.support.hub import local_hub
from tests.support.populations import planted, planted_people
from tests.support.query_processes import forked_queries, query_server
from tests.support.stores import planted_run, synthetic

__all__ = [
    "forked_queries",
    "loaded_once",
    "local_hub",
    "make_backbone",
    "planted",
    "planted_people",
    "planted_run",
    "query_server",
    "synthetic",
    "tiny_backbone",
]  # fixtures

# What tests read is remembered for no one.
os.environ["MICROPREF_CACHE"] = tempfile.mkdtemp(prefix="micropref-tests-")
atexit.register(shutil.rmtree, os.environ["MICROPREF_CACHE"], ignore_errors=True)
# No test outlives a loss of power; that the disk is waited for, and where, is proved by embedding/test_crash.py.
os.fsync = lambda _: None
# CliRunner makes all commands anew from their signatures at each call; like a process, the tests make them once.
typer.testing._get_command = functools.cache(typer.testing._get_command)


@pytest.fixture
def store(tmp_path: Path) -> StoreFolder:
    """Return an empty store."""
    return StoreFolder(tmp_path / "store")


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
