"""Data sets by name, from hand-made caches and copies, and rows from standard input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from micropref import cli

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
Invoke = Callable[..., Result]


def rated(prompt: str) -> list[dict[str, Any]]:
    return [
        {"prompt": prompt, "response": response, **dict(zip(ATTRIBUTES, ratings, strict=True))}
        for response, ratings in ((f"Yes, {prompt}", (4, 3, 0, 2, 1)), (f"No {prompt}", (2, 3, 1, 2, 0)))
    ]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of HelpSteer2 by hand."""
    return write_copy(tmp_path / "copy")


def write_copy(folder: Path) -> Path:
    preferred = {"prompt": "p", "response_1": "a", "response_2": "b", "preference_strength": 2, "split": "train"}
    files = {"train": rated("first"), "validation": rated("second"), "preference/preference": [preferred]}
    for name, rows in files.items():
        file = folder / f"{name}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_backbone: Callable[..., Path]) -> Invoke:
    """Return `invoke(*words)`: a command offline, on a store of its own, `embed` with a tiny backbone."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    backbone = str(tiny_backbone("llama"))

    def run(*words: str | Path, stdin: str | bytes | None = None) -> Result:
        more = ["--backbone", backbone, "--dtype", "float32"] if words[0] == "embed" else []
        given = [str(words[0]), "--store", str(tmp_path / "store"), *more, *map(str, words[1:])]
        return CliRunner().invoke(cli.app, given, input=stdin)

    return run


def report(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def refusal(result: Result) -> str:
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("micropref: ")]
    return line


def test_a_data_set_is_embedded_by_its_name(invoke: Invoke, tmp_path: Path) -> None:
    repository = tmp_path / "hub/datasets--nvidia--HelpSteer2"
    write_copy(repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(COMMIT)
    done = invoke("embed", "nvidia/HelpSteer2", "--json")
    found = report(done)
    assert (found["data"], found["splits"]) == ("HelpSteer2", {"train": 3, "test": 3})
    assert f"nvidia/HelpSteer2: revision {COMMIT}" in done.stderr
    assert f"nvidia/HelpSteer2@{COMMIT}: its split validation becomes test" in done.stderr
    parts = list((tmp_path / "store/datasets/HelpSteer2/pairs").glob("*.json"))
    records = [json.loads(part.read_text())["record"] for part in parts]
    assert {record["source"] for record in records} == {f"nvidia/HelpSteer2@{COMMIT}"}
    again = report(invoke("embed", f"nvidia/HelpSteer2@{COMMIT}", "--json"))
    assert (again["texts_embedded"], again["splits"]) == (0, {"train": 3, "test": 3})
    listed = report(invoke("datasets", "nvidia/helpsteer2", "--json"))
    assert listed["datasets"][0]["embedded_as"] == ["HelpSteer2"]
    assert "in this store: HelpSteer2" in invoke("datasets").stdout


def test_a_copy_by_hand_is_read_by_the_name_and_config(invoke: Invoke, copy: Path) -> None:
    words = ["embed", "nvidia/HelpSteer2", "--from", copy, "--config", "preference", "--name", "strength"]
    found = report(invoke(*words, "--json"))
    assert (found["data"], found["pairs"]) == ("strength", 1)
    one = report(invoke("embed", "nvidia/HelpSteer2", "--from", copy / "train.jsonl", "--name", "one", "--json"))
    assert one["splits"] == {"train": 3}
    line = refusal(invoke("embed", "nvidia/HelpSteer2", "--from", copy, "--config", "x"))
    assert "nvidia/HelpSteer2: found no config 'x' (there: default, preference)" in line


def test_a_config_of_the_readme_has_its_adapter(invoke: Invoke, tmp_path: Path) -> None:
    areas = ("Art_and_Entertainment", "Society_and_Culture")
    folder = tmp_path / "copy"
    folder.mkdir()
    for area in areas:
        (folder / f"{area}.jsonl").write_text(json.dumps({"question": area, "chosen": "a", "rejected": "b"}) + "\n")
    configs = "".join(
        f"- config_name: {area}\n  data_files:\n  - split: test\n    path: {area}.jsonl\n" for area in areas
    )
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    words = ["embed", "QiyaoMa/Personalized-RewardBench", "--from", folder, "--name", "mine", "--json"]
    assert report(invoke(*words))["splits"] == {"test": 1}
    assert report(invoke(*words, "--config", areas[1]))["splits"] == {"test": 1}
    found = invoke("sql", "SELECT attribute, prompt, split FROM pairs ORDER BY ALL", "--json")
    assert json.loads(found.stdout) == [{"attribute": area, "prompt": area, "split": "test"} for area in areas]
    one = folder / f"{areas[1]}.jsonl"
    alone = report(invoke("embed", words[1], "--from", one, "--config", areas[1], "--name", "one", "--json"))
    assert alone["splits"] == {"test": 1}


def test_a_path_of_the_same_name_wins(invoke: Invoke, copy: Path, tmp_path: Path) -> None:
    (tmp_path / "here/nvidia").mkdir()
    (tmp_path / "here/nvidia/HelpSteer2").symlink_to(copy / "train.jsonl")
    assert "a file of another kind" in refusal(invoke("embed", "nvidia/HelpSteer2", "--name", "mine"))


def test_which_split_is_read_and_what_it_becomes(invoke: Invoke, copy: Path) -> None:
    (copy / "preference/preference.jsonl").unlink()
    words = ["embed", copy, "--name", "mine", "--json"]
    assert report(invoke(*words, "--read-split", "validation", "--split", "train"))["splits"] == {"train": 3}
    assert "found the splits train, validation" in refusal(invoke(*words, "--split", "test"))
    assert "found no split 'dev2' (there: train, validation)" in refusal(invoke(*words, "--read-split", "dev2"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nobody/knows"], "nobody/knows: no such path here, not in the hub's cache, and the hub cannot be reached"),
        (["nvidia/HelpSteer2@v9"], "not in the hub's cache at revision 'v9'"),
        (["pairs.jsonl"], "--name is missing: expected what to call the data set"),
        (["pairs.jsonl", "--name", "m", "--from", "x"], "pairs.jsonl: --from is for names on the hub"),
        (["pairs.jsonl", "--name", "m", "--adapter", "no.py"], "adapter no.py: cannot be read"),
        (["nvidia/HelpSteer2", "--from", "nowhere"], "nowhere: no such file or folder"),
        (["-", "--name", "m"], "found nothing on standard input"),
    ],
)
def test_mistakes_are_one_line(invoke: Invoke, words: list[str], expected: str) -> None:
    assert expected in refusal(invoke("embed", *words))


def test_an_adapter_of_ones_own_is_run_only_where_it_is_given(invoke: Invoke, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"q": "p", "good": "a", "bad": "b"}) + "\n")
    (tmp_path / "here/rows.py").write_text("raise SystemExit('run unasked')\n")
    own = tmp_path / "my.py"
    own.write_text('def rows(row):\n    return {"prompt": row["q"], "chosen": row["good"], "rejected": row["bad"]}\n')
    assert "found the columns 'q', 'good', 'bad'" in refusal(invoke("embed", rows, "--name", "mine"))
    assert report(invoke("embed", rows, "--name", "mine", "--adapter", own, "--json"))["pairs"] == 1
    own.write_text(own.read_text() + "# another\n")
    line = refusal(invoke("embed", rows, "--name", "mine", "--adapter", own))
    assert "already in data set 'mine', split 'train', with another --adapter" in line


PAIR = '{"prompt": "p", "chosen": "c", "rejected": "r"}'


@pytest.mark.parametrize("text", [PAIR, f"[{PAIR}]", "prompt,chosen,rejected\np,c,r\n"], ids=["lines", "array", "csv"])
def test_rows_come_from_standard_input(invoke: Invoke, text: str) -> None:
    words = ["embed", "-", "--name", "mine", "--json"]
    assert report(invoke(*words, stdin=text))["pairs"] == 1
    assert report(invoke(*words, stdin=text))["texts_embedded"] == 0


def test_known_data_sets_are_listed(invoke: Invoke) -> None:
    found = report(invoke("datasets", "--json"))["datasets"]
    names = [one["name"] for one in found]
    assert {"nvidia/HelpSteer2", "microsoft/rpr", "allenai/multipref", "THU-KEG/RM-Bench"} <= set(names)
    assert all(
        one[field] for one in found for field in ("licence", "size", "labels", "attributes", "contexts", "users")
    )
    shown = invoke("datasets").stdout
    assert all(name in shown for name in names)
    assert max(map(len, shown.splitlines())) <= 80
    one = " ".join(invoke("datasets", "microsoft/rpr").stdout.split())
    assert "without the context every method is at chance" in one
    assert "5.8K train samples" in one
    assert "next: micropref embed microsoft/rpr" in one
    assert "no adapter is known by that name (there: nvidia/HelpSteer2" in refusal(invoke("datasets", "x"))
