"""The benchmarks run at small sizes and write what they promise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "bench_train",
        "bench_cache",
        "bench_eval",
        "bench_embed",
        "bench_score",
        "theory",
        "latent",
        "wordings",
        "bench_sql",
        "bench_report",
        "bench_growth",
    ],
)
def test_a_quick_run_writes_rows_and_bars(name: str, tmp_path: Path) -> None:
    script = ROOT / "tests" / "benchmarks" / f"{name}.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), "--quick", "--out", str(tmp_path / "figures.json")]
    subprocess.run(command, check=True, capture_output=True, env=environment, cwd=tmp_path)
    record = json.loads((tmp_path / "figures.json").read_text())
    assert record["machine"]["cores"]
    assert record["rows"]
    for bar in record["bars"]:
        assert set(bar) == {"figure", "value", "bar", "holds"}
