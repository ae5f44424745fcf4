"""Naming, annotating, showing and removing runs by the commands, also in a store of the first release."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from micropref import cli
from tests.support.stores import FIRST_RELEASE

Invoke = Callable[..., Result]
LORE, FIRST, SECOND, ROUTED = "lore-d45ecc72", "mixture-00e03508", "mixture-0bf27c74", "route-daffe662"
ADAPTED = "adapt-hedge-8303f41b"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with tarfile.open(FIRST_RELEASE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "s"


@pytest.fixture
def invoke(folder: Path) -> Invoke:
    """Return `invoke(*words)`: a command on a store of the first release."""

    def run(*words: str, **more: Any) -> Result:
        return CliRunner().invoke(cli.app, [words[0], "--store", str(folder), *words[1:]], **more)

    return run


def as_json(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def one_line(result: Result, code: int, *parts: str) -> None:
    assert result.exit_code == code, result.output
    assert not result.stdout
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("micropref: ")]
    for part in parts:
        assert part in line


def test_names_and_notes_of_a_first_release_store(invoke: Invoke, folder: Path) -> None:
    records = {path: path.read_bytes() for path in folder.glob("runs/*/run.json")}
    assert invoke("name", "lore", "best").stdout == f"run {LORE}: names best\n"
    assert as_json(invoke("name", "best", "final", "--json")) == {"run": LORE, "names": ["best", "final"]}
    assert invoke("name", "best").stdout == f"run {LORE}: names best, final\n"
    assert invoke("note", "best").stdout == f"run {LORE} has no note\n"
    assert invoke("note", "best", "knows people\nbut few").stdout == "knows people\nbut few\n"
    (row,) = [row for row in as_json(invoke("ls", "--json"))["runs"] if row["run"] == LORE]
    assert (row["names"], row["note"]) == (["best", "final"], "knows people\nbut few")
    listed = " ".join(line for line in invoke("ls").stdout.splitlines() if line.startswith(LORE))
    assert "best, final" in listed
    assert "knows people…" in listed
    rows = as_json(invoke("sql", "FROM runs SELECT names, note WHERE len(names) > 0", "--json"))
    assert rows == [{"names": ["best", "final"], "note": "knows people\nbut few"}]
    assert as_json(invoke("verify", "--json"))["problems"] == []
    assert as_json(invoke("eval", "final", "--json"))["run"] == LORE
    assert invoke("name", "best", "--remove", "best").stdout == f"run {LORE}: names final\n"
    assert as_json(invoke("note", "final", "", "--json")) == {"run": LORE, "note": None}
    assert {path: path.read_bytes() for path in folder.glob("runs/*/run.json")} == records


def test_a_listing_without_names_is_as_it_was(invoke: Invoke) -> None:
    header = next(line for line in invoke("ls").stdout.splitlines() if line.startswith("run  "))
    assert "names" not in header.split()
    assert "note" not in header.split()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["name", "mix", "x"], ["run 'mix': 2 ids begin so", FIRST, SECOND]),
        (["name", "lore", "-x"], ["No such option"]),
        (["name", "lore", "a b"], ["run name 'a b': expected 1 to 64 letters"]),
        (["name", "lore", "lore-1a2b3c4d"], ["looks like a run's id"]),
        (["name", "lore", "taken"], [f"name 'taken' is that of run {ROUTED}"]),
        (["name", "lore", "--remove", "taken"], [f"run {LORE} has no name 'taken'"]),
        (["note", "gone", "x"], ["unknown run 'gone'", f"taken = {ROUTED}"]),
        (["show", "gone"], ["unknown run 'gone'"]),
        (["show", "lore", "taken", "sweep"], ["3 runs: expected one, or two"]),
        (["rm", "lore", "--yes"], ["no run or data set is called 'lore'", LORE]),
        (["rm", FIRST, "--yes"], ["2 runs derive from it", ADAPTED, ROUTED]),
        (["rm", LORE], ["no terminal", "--yes"]),
        (["ask", "gone", "--user", "ann"], ["unknown run 'gone'", FIRST, "2 that this command cannot use"]),
        (["route", "gone"], ["unknown run 'gone'", "3 that this command cannot use"]),
        (["eval", ADAPTED], [f"name {FIRST} instead"]),
        (["train", "mine", "--run-name", "a b"], ["run name 'a b'"]),
        (["sweep", "mine", "--run-name", "-"], ["run name '-'"]),
        (["route", FIRST, "--run-name", FIRST], ["run name"]),
        (["adapt", FIRST, "--by", "user", "--run-name", "x/y"], ["run name 'x/y'"]),
        (["adapt", FIRST, "--by", "user", "--online", "--run-name", "x/y"], ["run name 'x/y'"]),
    ],
)
def test_mistakes_are_one_line(invoke: Invoke, words: list[str], parts: list[str]) -> None:
    assert invoke("name", "route", "taken").exit_code == 0
    one_line(invoke(*words), 2, *parts)


def test_ask_lists_only_runs_it_can_use(invoke: Invoke) -> None:
    done = invoke("ask", "gone", "--user", "ann")
    assert ADAPTED not in done.stderr
    assert "sweep-" not in done.stderr  # of one head


FIT = ["--k", "2", "--restarts", "1", "--epochs", "1", "--json"]


def test_a_run_is_named_as_it_is_made(invoke: Invoke) -> None:
    done = invoke("train", "mine", *FIT, "--run-name", "best")
    run = as_json(done)["run"]
    assert f"run {run} has the name best" in done.stderr
    assert as_json(invoke("train", "mine", *FIT, "--run-name", "best"))["run"] == run  # the same run: still its name
    other = invoke("train", "mine", *FIT, "--seed", "1", "--run-name", "best")
    assert f"warning: run {as_json(other)['run']} keeps its id: name 'best' is that of run {run}" in other.stderr
    for name, words in {
        "swept": ["sweep", "mine", "--k", "1,2", "--lam", "0.1", "--seeds", "1", "--epochs", "1"],
        "user-weights": ["train", "mine", "--method", "lore", "--k", "2"],
        "routed": ["route", "best", "--budget", "2"],
        "adapted": ["adapt", "best", "--by", "attribute", "--shots", "1"],
        "online": ["adapt", "best", "--by", "attribute", "--online"],
    }.items():
        made = as_json(invoke(*words, "--run-name", name, "--json"))["run"]
        assert as_json(invoke("name", name, "--json"))["run"] == made


def test_show_prints_one_run(invoke: Invoke) -> None:
    invoke("name", FIRST, "best")
    invoke("note", FIRST, "a note")
    shown = as_json(invoke("show", "best", "--json"))
    (run,) = shown["runs"]
    assert shown["differences"] == []
    assert (run["run"], run["names"], run["note"], run["method"]) == (FIRST, ["best"], "a note", "mixture")
    assert run["derived"] == [ADAPTED, ROUTED]
    parts = run["sections"]
    assert (parts["settings"]["k"], parts["settings"]["lam"], parts["settings"]["latent"]) == (2, 0.1, "pair")
    assert (parts["data"]["data"], parts["data"]["train_pairs"], parts["data"]["now"]) == ("mine", 78, "as it was")
    assert (parts["features"]["features"], parts["features"]["width"]) == ("8a4b23c8baea", 32)
    assert parts["chosen on"]["validation_nll"] == pytest.approx(0.691566, abs=1e-6)
    accuracy = "FROM mixture_accuracy SELECT sum(accuracy * n) / sum(n) AS a WHERE part = 'test' AND run = "
    (row,) = as_json(invoke("sql", f"{accuracy} '{FIRST}'", "--json"))
    assert parts["evaluations"]["mine, test"] == {"accuracy": pytest.approx(row["a"]), "pairs": 30}


def test_show_prints_only_what_two_runs_differ_in(invoke: Invoke, folder: Path) -> None:
    shown = as_json(invoke("show", FIRST, SECOND, "--json"))
    found = {(one["section"], one["name"]): (one["first"], one["second"]) for one in shown["differences"]}
    first, second = (json.loads((folder / "runs" / run / "run.json").read_text()) for run in (FIRST, SECOND))
    names = {*first["settings"], *second["settings"]}
    differing = {name for name in names if first["settings"].get(name) != second["settings"].get(name)}
    assert {name for section, name in found if section == "settings"} == differing > set()
    assert found["chosen on", "validation_nll"] == (first["validation_nll"], second["validation_nll"])
    assert ("settings", "k") not in found
    assert ("features", "width") not in found
    assert invoke("show", FIRST, FIRST).stdout == f"runs {FIRST} and {FIRST} do not differ\n"


@pytest.mark.parametrize("runs", [(LORE,), ("sweep",), (ADAPTED,), (FIRST, SECOND), (LORE, "sweep")])
def test_show_fits_a_terminal(invoke: Invoke, runs: tuple[str, ...]) -> None:
    done = invoke("show", *runs)
    assert done.exit_code == 0
    assert all(len(line) <= 80 for line in done.stdout.splitlines())


def test_rm_says_what_goes_and_goes(invoke: Invoke, folder: Path) -> None:
    invoke("name", LORE, "best")
    gone = as_json(invoke("rm", "best", "--yes", "--json"))
    assert (gone["kind"], gone["id"], gone["names"], gone["removed"]) == ("run", LORE, ["best"], True)
    assert not (folder / "runs" / LORE).exists()
    done = invoke("rm", "data:mine", "--yes")
    assert done.stdout.startswith("removed data set mine: 8 files, ")
    assert "5 runs learned from it and stay, marked by `ls`" in done.stdout
    assert all(row["data_changed"] for row in as_json(invoke("ls", "--json"))["runs"])
    assert as_json(invoke("verify", "--json"))["problems"] == []
    assert "gone" in invoke("show", FIRST).stdout
    one_line(invoke("eval", FIRST), 2, "unknown data set 'mine'")


@pytest.mark.parametrize(("answer", "there"), [("y\n", False), ("n\n", True), ("\n", True)])
def test_rm_asks_at_a_terminal(
    invoke: Invoke, folder: Path, monkeypatch: pytest.MonkeyPatch, answer: str, there: bool
) -> None:
    monkeypatch.setattr(cli, "_can_answer", lambda: True)
    done = invoke("rm", LORE, "--json", input=answer)
    assert as_json(done)["removed"] is not there
    assert f"will remove run {LORE}: 11 files" in done.stderr
    assert (folder / "runs" / LORE).exists() is there


@pytest.mark.slow
def test_doctor_runs_where_there_is_no_store(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "micropref", "doctor", "--store", str(tmp_path / "none"), "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert found["store"]["holds"] == "no store there"
    assert found["versions"]["pyarrow"][0].isdigit()
