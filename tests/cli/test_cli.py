"""The real commands in a process of their own, and every mistake a user makes as one line with the right exit code."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from micropref import cli

ROOT = Path(__file__).parents[2]
Invoke = Callable[..., Result]


@pytest.fixture
def invoke(tmp_path: Path) -> Invoke:
    """Return `invoke(*words)`: a command on a store of its own; backbones are the tiny ones a test names."""

    def run(*words: str | Path) -> Result:
        arguments = [str(word) for word in words]
        return CliRunner().invoke(cli.app, [arguments[0], "--store", str(tmp_path / "store"), *arguments[1:]])

    return run


@pytest.fixture
def embedded(
    invoke: Invoke, tiny_backbone: Callable[..., Path], write_rows: Callable[..., Path], rows: list[Any]
) -> str:
    """Return the features id of a small embedded data set `mine` with a train and a test split."""
    backbone = tiny_backbone("bert")
    path = write_rows(rows)
    done = invoke("embed", path, "--name", "mine", "--split-by-prompt", "0.3", "--backbone", backbone, "--json")
    assert done.exit_code == 0, done.output
    features: str = json.loads(done.stdout)["features"]
    return features


def one_line(result: Result, code: int, *parts: str) -> None:
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    lines = [line for line in result.stderr.splitlines() if line.startswith("micropref: ")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in lines[0]


def test_the_main_job_end_to_end(invoke: Invoke, embedded: str) -> None:
    trained = invoke("train", "mine", "--k", "2", "--restarts", "2", "--epochs", "3", "--json")
    assert trained.exit_code == 0, trained.output
    run = json.loads(trained.stdout)["run"]
    evaluated = invoke("eval", run, "--json")
    assert evaluated.exit_code == 0, evaluated.output
    report = json.loads(evaluated.stdout)
    assert {row["attribute"] for row in report["mixture_accuracy"]} == {"warm", "cold"}
    assert len(report["head_accuracy"]) == 4
    query = f"SELECT attribute, head, n, accuracy FROM head_accuracy WHERE run = '{run}' ORDER BY ALL"
    found = invoke("sql", query, "--json")
    assert found.exit_code == 0, found.output
    expected = [{key: row[key] for key in ("attribute", "head", "n", "accuracy")} for row in report["head_accuracy"]]
    assert json.loads(found.stdout) == sorted(expected, key=lambda row: (row["attribute"], row["head"]))
    board = json.loads(invoke("sql", "SELECT run, test_accuracy FROM leaderboard", "--json").stdout)
    assert board == [{"run": run, "test_accuracy": report["accuracy"]}]
    listing = json.loads(invoke("ls", "--json").stdout)
    assert [row["data_changed"] for row in listing["runs"]] == [False]
    assert listing["features"][0]["features"] == embedded
    assert invoke("verify").exit_code == 0
    for words in (["ls"], ["eval", run], ["sql", query], ["sql"], ["gc", "--dry-run"], ["verify"]):
        shown = invoke(*words)
        assert shown.exit_code == 0, shown.output
        assert shown.stdout.strip()


def test_a_plan_prices_the_pass_and_writes_nothing(
    invoke: Invoke, tiny_backbone: Callable[..., Path], write_rows: Callable[..., Path], rows: list[Any], tmp_path: Path
) -> None:
    words = ["embed", write_rows(rows), "--name", "mine", "--backbone", tiny_backbone("llama"), "--plan"]
    report = json.loads(invoke(*words, "--json").stdout)
    assert {"tokens_unique", "store_bytes", "price"} <= set(report)
    assert set(report["price"]) == {"padded_tokens", "padded_batch", "utilisation", "hours"}
    assert set(report["price"]["hours"]) == {"A100", "H100 SXM", "H200", "RTX 4090"}
    shown = invoke(*words)
    assert shown.exit_code == 0, shown.output
    text = " ".join(shown.stdout.split())
    assert f"{report['tokens_unique']:,} unique tokens to forward" in text
    assert f"(batch 16, nothing reused) would forward {report['price']['padded_tokens']:,}" in text
    assert "hours at 40% of the published bf16 peak: A100 < 0.01" in text
    assert f"{report['store_bytes'] / 1e6:,.1f} MB in all" in text
    assert not (tmp_path / "store").exists()


def test_a_run_whose_training_data_changed_says_so(
    invoke: Invoke, embedded: str, write_rows: Callable[..., Path], tiny_backbone: Callable[..., Path]
) -> None:
    assert embedded
    assert invoke("train", "mine", "--k", "2", "--restarts", "1", "--epochs", "1").exit_code == 0
    more = write_rows([{"prompt": "new", "chosen": "a", "rejected": "b"}], "more.jsonl")
    assert invoke("embed", more, "--name", "mine", "--backbone", tiny_backbone("bert")).exit_code == 0
    assert [row["data_changed"] for row in json.loads(invoke("ls", "--json").stdout)["runs"]] == [True]


def test_damage_is_found_and_repaired(
    invoke: Invoke, embedded: str, rows: list[Any], write_rows: Callable[..., Path], tiny_backbone: Callable[..., Path],
    tmp_path: Path,
) -> None:  # fmt: skip
    run = json.loads(invoke("train", "mine", "--k", "2", "--restarts", "1", "--epochs", "1", "--json").stdout)["run"]
    shard = next((tmp_path / "store" / "features" / embedded / "shards").glob("*.parquet"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 4
    shard.write_bytes(data)
    found = invoke("verify")
    assert found.exit_code == 1
    assert shard.name in found.stdout
    assert run in found.stdout
    one_line(invoke("train", "mine", "--k", "3"), 1, shard.name, "changed after it was committed")
    again = ["embed", write_rows(rows), "--name", "mine", "--split-by-prompt", "0.3"]
    repaired = invoke(*again, "--backbone", tiny_backbone("bert"))
    assert repaired.exit_code == 0
    assert "embedded again" in repaired.stderr
    assert invoke("verify").exit_code == 0


def test_one_broken_run_hides_no_other(invoke: Invoke, embedded: str, tmp_path: Path) -> None:
    assert embedded
    words = ["train", "mine", "--restarts", "1", "--epochs", "1", "--json"]
    runs = [json.loads(invoke(*words, "--k", k).stdout)["run"] for k in ("2", "3")]
    (tmp_path / "store" / "runs" / runs[0] / "run.json").write_text("{")
    with (tmp_path / "store" / "runs" / runs[1] / "heads.safetensors").open("ab") as file:
        file.write(b"x")
    listing = invoke("ls")
    assert listing.exit_code == 0
    assert all(run in listing.stdout for run in runs)
    found = invoke("verify", "--json")
    assert found.exit_code == 1
    problems = json.loads(found.stdout)["problems"]
    assert len(problems) == 2
    assert all(any(run in line for line in problems) for run in runs)
    assert "2 problems; " in found.stderr
    assert "train again to repair a run" in found.stderr


GOOD = '{"prompt": "p", "chosen": "a", "rejected": "b"}\n'
BAD_FILES: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "empty.jsonl": (b"", ("empty.jsonl",)),
    "columns.jsonl": (b'{"text": "a", "label": 1}\n', ("columns.jsonl",)),
    "number.jsonl": (GOOD.encode() + b'{"prompt": "p", "chosen": 7, "rejected": "b"}\n', ("number.jsonl:2", "chosen")),
    "no-chosen.jsonl": (b'{"prompt": "p", "chosen": null, "rejected": "b"}\n', ("no-chosen.jsonl:1", "chosen")),
    "surrogate.jsonl": (b'{"prompt": "p", "chosen": "\\ud800", "rejected": "b"}\n', ("surrogate.jsonl:1",)),
    "cut.jsonl.gz": (gzip.compress(GOOD.encode() * 900)[:-20], ("cut.jsonl.gz",)),
    "cut.parquet": (b"PAR1" + b"\x00" * 40, ("cut.parquet",)),
    "no-role.jsonl": (
        b'{"prompt": [{"content": "p"}], "chosen": [{"role": "assistant", "content": "a"}], '
        b'"rejected": [{"role": "assistant", "content": "b"}]}\n',
        ("no-role.jsonl:1", "prompt"),
    ),
    "null-prompt.jsonl": (b'{"prompt": null, "chosen": "a", "rejected": "b"}\n', ("null-prompt.jsonl:1", "prompt")),
    "utf8.jsonl": (GOOD.encode() + b'{"prompt": "p\xff", "chosen": "a", "rejected": "b"}\n', ("utf8.jsonl:2",)),
    "same.jsonl": (b'{"prompt": "p", "chosen": "a", "rejected": "a"}\n', ("same.jsonl", "no usable pair")),
    "nan.jsonl": (
        b'{"prompt": "p", "response": "a", "help": NaN}\n{"prompt": "p", "response": "b", "help": 1}\n',
        ("nan.jsonl:1",),
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_stop_with_one_line_and_write_nothing(
    invoke: Invoke, tiny_backbone: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    data, parts = BAD_FILES[name]
    (tmp_path / name).write_bytes(data)
    words = ["embed", tmp_path / name, "--name", "mine", "--backbone", tiny_backbone("bert")]
    one_line(invoke(*words), 2, *parts)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["embed", "gone.jsonl", "--name", "mine"], ["gone.jsonl", "no such file"]),
        (["embed", "ROWS", "--name", "mine", "--backbone", "./nowhere/x"], ["nowhere"]),
        (["embed", "ROWS", "--name", "../up"], ["data set '../up'"]),
        (["embed", "ROWS", "--name", "mine", "--split", "a/b"], ["split 'a/b'"]),
        (["embed", "ROWS", "--name", "mine", "--split", "test", "--split-by-prompt", "0.1"], ["exclude each other"]),
        (["embed", "ROWS", "--name", "mine", "--split-by-prompt", "1.5"], ["prompt is 1.5"]),
        (["embed", "ROWS", "--name", "mine", "--limit", "0"], ["limit is 0"]),
        (["embed", "ROWS", "--name", "mine", "--tokens-per-batch", "0"], ["batch is 0"]),
        (["embed", "ROWS", "--name", "mine", "--contexts", "gone.json"], ["gone.json"]),
        (["embed", "ROWS", "--name", "mine", "--workers", "0"], ["workers is 0"]),
        (["embed", "ROWS", "--name", "mine", "--ray-address", "auto"], ["address is 'auto'", "engine"]),
        (["train", "gone"], ["unknown data set 'gone'"]),
        (["train", "gone", "--memory", "6"], ["memory is '6'", "such as 6GB"]),
        (["sweep", "gone", "--memory", "lots"], ["memory is 'lots'", "such as 6GB"]),
        (["train", "gone", "--lam", "-1"], ["lam is -1"]),
        (["train", "gone", "--method", "single", "--k", "3"], ["single with k = 3"]),
        (["train", "gone", "--epochs", "0"], ["epochs is 0"]),
        (["eval", "gone"], ["unknown run 'gone'"]),
        (["sql", "SELECT 1"], ["store"]),
        (["ls"], ["store"]),
    ],
)
def test_bad_requests_stop_with_one_line(
    invoke: Invoke, write_rows: Callable[..., Path], words: list[str], parts: list[str]
) -> None:
    path = write_rows([json.loads(GOOD)])
    one_line(invoke(*(str(path) if word == "ROWS" else word for word in words)), 2, *parts)


def test_an_unknown_choice_is_bad_input(invoke: Invoke) -> None:
    result = invoke("train", "mine", "--method", "magic")
    one_line(result, 2, "magic", "see `", "train --help`")
    assert len(result.stderr.splitlines()) == 1
    one_line(invoke("train"), 2, "Missing argument 'NAME'; see `")
    one_line(invoke("train", "mine", "--nonsense"), 2, "No such option: --nonsense")
    one_line(invoke("nonsense"), 2, "nonsense")


def test_a_sweep_without_a_seed_names_the_option_as_it_was_given(invoke: Invoke) -> None:
    one_line(invoke("sweep", "mine", "--seeds", "0"), 2, "--seeds")


def test_an_interruption_is_reported_in_one_line(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("micropref.cache.maintenance.listing.list_store", interrupted)
    one_line(invoke("ls"), 130, "interrupted")


def test_two_features_need_a_choice(
    invoke: Invoke, embedded: str, rows: list[Any], write_rows: Callable[..., Path], tiny_backbone: Callable[..., Path]
) -> None:
    other = ["--split-by-prompt", "0.3", "--backbone", tiny_backbone("llama"), "--json"]
    done = invoke("embed", write_rows(rows), "--name", "mine", *other)
    second = json.loads(done.stdout)["features"]
    one_line(invoke("train", "mine", "--k", "2"), 2, "2 features ids", embedded, second, "choose one")
    assert invoke("train", "mine", "--k", "2", "--epochs", "1", "--features", second).exit_code == 0


def test_a_process_of_its_own_keeps_stdout_for_the_result(
    tmp_path: Path, write_rows: Callable[..., Path], rows: list[Any], tiny_backbone: Callable[..., Path]
) -> None:
    words = ["embed", str(write_rows(rows)), "--name", "mine", "--backbone", str(tiny_backbone("qwen2")), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "micropref", words[0], "--store", str(tmp_path / "s"), *words[1:]],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    report = json.loads(done.stdout)
    needed = "features pairs texts texts_embedded texts_reused tokens_forwarded tokens_unique"
    assert {*needed.split(), "dropped", "trimmed", "rejected_rows"} <= set(report)
    assert re.fullmatch("[0-9a-f]{12}", report["features"])


def test_the_version_is_the_packages() -> None:
    from importlib.metadata import version

    assert CliRunner().invoke(cli.app, ["--version"]).stdout == f"micropref {version('micropref')}\n"
