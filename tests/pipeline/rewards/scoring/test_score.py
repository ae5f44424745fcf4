"""The command `score`: every row in, every row out, with its reward or the reason why not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

import micropref
from micropref.cli import app
from micropref.pipeline.rewards.scoring import rows as stage


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_backbone: Callable[..., Path]) -> tuple[Path, str]:
    """Return a store and a run of two heads whose router reads contexts."""
    from tests.conftest import preference_rows

    opened = micropref.Store(tmp_path_factory.mktemp("scored") / "store")
    opened.embed(
        preference_rows(), "mine", backbone=tiny_backbone("llama"), split_by_prompt=0.3, device="cpu", dtype="float32"
    )
    return opened.folder, opened.train("mine", k=2, restarts=1, epochs=3, run_name="mine").run


def score(trained: tuple[Path, str], source: Path | str, *options: str, text: str | None = None) -> Any:
    folder, run = trained
    command = ["score", run, str(source), "--store", str(folder), "--device", "cpu", *options]
    return CliRunner().invoke(app, command, input=text)


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_shape_of_row(trained: tuple[Path, str], write_rows: Callable[..., Path], tmp_path: Path) -> None:
    source = write_rows(
        [
            {"id": 7, "prompt": "p", "response": "a", "context": "Be dry."},
            {"id": 8, "prompt": "p", "responses": ["a", "b", ""], "context": "Be dry."},
            {"id": 9, "prompt": "p", "chosen": "a", "rejected": "b", "context": "Be dry."},
            {
                "id": 10,
                "prompt": [{"role": "user", "content": "p"}],
                "response": [{"role": "assistant", "content": "a"}],
            },
        ]
    )
    out = tmp_path / "scored.jsonl"
    result = score(trained, source, "-o", str(out))
    assert result.exit_code == 0, result.output
    one, several, pair, messages = written(out)
    assert [row["id"] for row in (one, several, pair, messages)] == [7, 8, 9, 10]
    assert one["reward"] == pytest.approx(sum(w * r for w, r in zip(one["weights"], one["heads"], strict=True)))
    assert several["reward"][:2] == pytest.approx([one["reward"], pair["reward"][1]], abs=1e-5)
    assert several["best"] == max(range(3), key=several["reward"].__getitem__)
    assert (pair["p_chosen"] > 0.5) == (pair["reward"][0] > pair["reward"][1]) == (pair["best"] == 0)
    assert messages["reward"] is not None
    assert "4 rows to" in result.output
    assert "7 of 7 responses have a reward" in result.output


def test_rows_that_cannot_be_scored_are_written_with_a_reason(trained: tuple[Path, str], tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    lines = [
        '{"prompt": "p", "response": "a"}',
        '{"prompt": "p", "response": 5}',
        "not json",
        '{"prompt": "p", "response": "' + "x" * 600 + '"}',
        '{"prompt": "p"}',
        '{"prompt": "p", "response": "a", "user": "nobody"}',
    ]
    source.write_text("\n".join(lines))
    out = tmp_path / "scored.jsonl"
    result = score(trained, source, "-o", str(out), "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    rows = written(out)
    assert [row["reward"] is None for row in rows] == [False, True, True, True, True, False]
    assert "found the number 5" in rows[1]["reason"]
    assert "too long" in rows[3]["reason"]
    assert "found the columns 'prompt'" in rows[4]["reason"]
    assert (report["rows"], report["rewarded"], sum(report["without_reward"].values())) == (6, 2, 4)
    assert report["users_unused"] == 1  # this run knows nobody
    assert "warning: 1 rows have a user" in result.stderr


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_files_in_and_out(trained: tuple[Path, str], tmp_path: Path, suffix: str) -> None:
    table = pl.DataFrame({"prompt": ["p", "q"], "response": ["a, b", 'with "quotes"\nand lines'], "n": [1, 2]})
    table.write_csv(tmp_path / "in.csv")
    table.write_parquet(tmp_path / "in.parquet")
    table.write_ndjson(tmp_path / "in.jsonl")
    out = tmp_path / f"out{suffix}"
    assert score(trained, tmp_path / f"in{suffix}", "-o", str(out)).exit_code == 0
    read = {".jsonl": pl.read_ndjson, ".csv": pl.read_csv, ".parquet": pl.read_parquet}[suffix](out)
    assert read["response"].to_list() == table["response"].to_list()
    assert read["reward"].null_count() == 0
    assert read.columns[:3] == ["prompt", "response", "n"]


def test_standard_input_and_output(trained: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stdin").write_text('{"prompt": "p", "response": "a"}\n\n{"prompt": "p", "response": "a"}\n')
    monkeypatch.setattr(stage, "STDIN_FILE", tmp_path / "stdin")
    done = score(trained, "-")
    assert done.exit_code == 0, done.output
    first, second = (json.loads(row) for row in done.stdout.splitlines())
    assert first == second
    assert "2 rows to standard output" in done.stderr


def test_best_of(trained: tuple[Path, str], write_rows: Callable[..., Path], tmp_path: Path) -> None:
    several = [{"prompt": "p", "responses": ["a", "b", "c"]}]
    apart = [{"prompt": "p", "response": response} for response in "abc"] + [{"prompt": "q", "response": "z"}]
    all_rewards = tmp_path / "all.jsonl"
    score(trained, write_rows(several, "several.jsonl"), "-o", str(all_rewards))
    rewards = written(all_rewards)[0]["reward"]
    best = max(range(3), key=rewards.__getitem__)
    for name, rows, count in (("several", several, 1), ("apart", apart, 2)):
        out = tmp_path / f"{name}-best.jsonl"
        result = score(trained, write_rows(rows, f"{name}.jsonl"), "-o", str(out), "--best-of")
        assert result.exit_code == 0, result.output
        found = written(out)
        assert len(found) == count
        assert (found[0]["response"], found[0]["best"]) == ("abc"[best], best)
        assert found[0]["reward"] == pytest.approx(rewards[best], abs=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--weights", "1,2,3"], "--weights is 1,2,3: run mixture-.* has 2 heads"),
        (["--weights", "1,-1"], "--weights is 1,-1: expected numbers of at least 0"),
        (["--user", "nobody"], "has no weights for user 'nobody'"),
        (["--context", "c", "--attribute", "warm"], "--context|context and attribute are both given"),
        (["-o", "x.txt"], "--out is 'x.txt': expected .jsonl, .csv or .parquet"),
        (["-o", "nowhere/x.jsonl"], "nowhere/x.jsonl: there is no folder .*/nowhere; make it first"),
        (["--json"], "--out is -"),
    ],
)
def test_mistakes_are_one_line(
    trained: tuple[Path, str], write_rows: Callable[..., Path], options: list[str], message: str
) -> None:
    result = score(trained, write_rows([{"prompt": "p", "response": "a"}]), *options)
    assert result.exit_code == 2, result.output
    assert re.search(message, result.stderr), result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_files_without_responses(trained: tuple[Path, str], write_rows: Callable[..., Path], tmp_path: Path) -> None:
    result = score(trained, write_rows([{"question": "p"}]), "-o", str(tmp_path / "out.jsonl"))
    assert result.exit_code == 2
    assert "found the columns 'question'; expected prompt with response" in result.stderr
    assert not (tmp_path / "out.jsonl").exists()
    again = score(trained, write_rows([{"prompt": "p", "response": "a", "reward": 1}]))
    assert again.exit_code == 2
    assert "has a column 'reward' already" in again.stderr


def test_from_python(trained: tuple[Path, str]) -> None:
    scorer = micropref.Store(trained[0]).run("mine").scorer(device="cpu")
    found = scorer.score("p", ["a", "b"], context="Be dry.")
    assert scorer.score([{"role": "user", "content": "p"}], "a").rewards[0] is not None
    assert scorer.best_of("p", ["a", "b"], context="Be dry.") == "ab"[found.best or 0]
    both = scorer.score_many(["p", "p"], ["a", "b"], context=["Be dry.", None])
    assert both[0].rewards[0] == pytest.approx(found.rewards[0], abs=1e-5)
    with pytest.raises(micropref.BadInput, match="2 prompts and 1 lists"):
        scorer.score_many(["p", "p"], ["a"])
    with pytest.raises(micropref.BadInput, match="found the number 5"):
        scorer.score("p", [5])  # type: ignore[list-item]
    scorer.close()
