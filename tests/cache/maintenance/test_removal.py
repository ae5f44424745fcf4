"""`rm`: what goes, what is refused, and a store that is whole after a crash at any step."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from micropref.cache.errors import BadInput, Failure
from micropref.cache.maintenance import removal
from micropref.cache.maintenance.gc import collect
from micropref.cache.maintenance.listing import list_store
from micropref.cache.maintenance.removal import plan_removal, remove, removed_folders
from micropref.cache.maintenance.uses import hold, hold_alone, holds
from micropref.cache.maintenance.verify import verify
from micropref.cache.runs.names import claim_name, find_run, read_names, write_note
from micropref.cache.runs.records import open_run
from micropref.cache.sql.query import run_query
from micropref.cache.store import StoreFolder


@pytest.fixture
def filled(store: StoreFolder, synthetic: Callable[..., str], planted_run: Callable[..., str]) -> StoreFolder:
    """Return a store with the data set `toy` and the run `planted`, which has two names and a note."""
    planted_run(store, synthetic(store, prompts=20))
    for name in ("best", "final"):
        claim_name(store, name, "planted")
    write_note(open_run(store, "planted"), "a note")
    return store


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_run_goes_with_its_names_and_nothing_else(filled: StoreFolder) -> None:
    there = files_below(filled.run("planted"))
    others = set(files_below(filled.root / "datasets")) | set(files_below(filled.root / "features"))
    planned = plan_removal(filled, "best")
    assert (planned.kind, planned.id, planned.names) == ("run", "planted", ["best", "final"])
    assert (planned.files, planned.bytes) == (len(there), sum(path.stat().st_size for path in there))
    assert filled.run("planted").is_dir()
    remove(filled, planned)
    assert set(files_below(filled.root)) == others
    assert list_store(filled).runs == []
    assert verify(filled).problems == []
    assert run_query(filled.root, "FROM runs").num_rows == 0


def test_a_data_set_goes_and_its_runs_are_marked(filled: StoreFolder) -> None:
    planned = plan_removal(filled, "toy")
    assert (planned.kind, planned.trained) == ("data", ["planted"])
    remove(filled, planned)
    assert filled.names("datasets") == []
    listing = list_store(filled)
    assert [(row["run"], row["data_changed"]) for row in listing.runs] == [("planted", True)]
    assert listing.datasets == []
    assert listing.features[0]["vectors"] > 0
    assert verify(filled).problems == []
    assert run_query(filled.root, "FROM pairs").num_rows == 0
    assert run_query(filled.root, "FROM runs SELECT names").to_pylist() == [{"names": ["best", "final"]}]
    assert collect(filled, min_age_s=-1).vectors == listing.features[0]["vectors"]


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("plan", "no run or data set is called 'plan' .*a run begins so, planted: give its full id"),
        ("gone", "`micropref ls` lists what there is"),
        ("", "no run or data set"),
        ("run:other", "no run is called 'other'"),
        ("data:planted", "no data set is called 'planted'"),
        ("features:toy", "expected run:NAME or data:NAME"),
        ("toy", r"'toy' is a run \(planted\) and a data set; say run:toy or data:toy"),
        ("FEATURES", "`micropref gc` removes vectors"),
        ("../up", "no run or data set"),
    ],
)
def test_only_one_exact_thing_is_removed(filled: StoreFolder, word: str, told: str) -> None:
    claim_name(filled, "toy", "planted")
    word = filled.names("features")[0] if word == "FEATURES" else word
    with pytest.raises(BadInput, match=told):
        plan_removal(filled, word)


def test_a_name_that_both_have_is_told_apart(filled: StoreFolder) -> None:
    claim_name(filled, "toy", "planted")
    assert plan_removal(filled, "run:toy").id == "planted"
    remove(filled, plan_removal(filled, "data:toy"))
    assert (filled.names("datasets"), filled.names("runs")) == ([], ["planted"])
    assert plan_removal(filled, "toy").kind == "run"


def test_a_run_that_others_derive_from_stays(filled: StoreFolder, planted_run: Callable[..., str]) -> None:
    features = open_run(filled, "planted").record["features"]
    planned = plan_removal(filled, "planted")
    shutil.copytree(filled.run("planted"), filled.run("kept"))
    planted_run(filled, features, parent="kept")  # `planted` derives from `kept` now
    (filled.run("kept") / "run.json").write_text(
        (filled.run("kept") / "run.json").read_text().replace('"planted"', '"kept"')
    )
    with pytest.raises(BadInput, match="run kept: 1 run derives from it: planted; remove those first"):
        plan_removal(filled, "kept")
    remove(filled, planned)
    assert plan_removal(filled, "kept").id == "kept"


def test_what_a_command_is_at_work_on_stays(filled: StoreFolder) -> None:
    code = (
        "import sys, pathlib\n"
        "from micropref.cache.maintenance.uses import hold\n"
        "with hold(pathlib.Path(sys.argv[1])):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    for word, folder in (("planted", filled.run("planted")), ("toy", filled.dataset("toy"))):
        planned = plan_removal(filled, word)
        holder = subprocess.Popen(
            [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        told = rf"{word} is in use by (process {holder.pid} |another command)" if sys.platform == "linux" else "in use"
        with pytest.raises(BadInput, match=told):
            remove(filled, planned)
        assert folder.is_dir()
        holder.kill()  # what is killed holds nothing
        holder.communicate()
        remove(filled, planned)
        assert not folder.exists()


def test_what_a_stopped_sweep_left_goes_unless_one_may_be_at_work(filled: StoreFolder) -> None:
    left = filled.run("sweep-1a2b3c4d") / "chunks" / "x.json"
    left.parent.mkdir(parents=True)
    left.write_text("{}")
    with pytest.raises(BadInput, match=r"run sweep-1a2b3c4d is not finished: .*`micropref rm sweep-1a2b3c4d` removes"):
        find_run(filled, "sweep-1a2b3c4d")
    planned = plan_removal(filled, "sweep-1a2b3c4d")
    assert (planned.finished, planned.files) == (False, 1)
    with hold(filled.dataset("toy")), pytest.raises(BadInput, match="run sweep-1a2b3c4d may be in use by"):
        remove(filled, planned)
    assert left.is_file()
    remove(filled, planned)
    assert [path.name for path in (filled.root / "runs").iterdir()] == ["planted"]


def test_stages_hold_their_run_and_its_data(filled: StoreFolder) -> None:
    def in_use() -> list[bool]:
        found = []
        for folder in (filled.run("planted"), filled.dataset("toy")):
            with hold_alone(folder) as holders:
                found.append(bool(holders))
        return found

    @holds(run="run_id", data="data")
    def with_run(store: StoreFolder, run_id: str, data: str | None = None) -> list[bool]:
        return in_use()

    @holds(data="name")
    def with_data(store: StoreFolder, name: str) -> list[bool]:
        return in_use()

    assert with_run(filled, "best") == [True, True]
    assert with_run(filled, run_id="plan", data="other") == [True, False]
    assert with_data(filled, "toy") == [False, True]
    assert with_data(filled, "not there") == [False, False]
    assert in_use() == [False, False]


def test_the_stages_are_those_that_hold(filled: StoreFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    from micropref.pipeline.evaluation import evaluate as stage

    def try_to_remove(*_: Any) -> Any:
        remove(filled, plan_removal(filled, "planted"))

    monkeypatch.setattr(stage, "score_missing", try_to_remove)
    with pytest.raises(BadInput, match="planted is in use"):
        stage.evaluate(filled, "best")


def test_what_is_being_removed_cannot_be_used(filled: StoreFolder) -> None:
    folder, told = filled.dataset("toy"), "another command is removing it"
    with hold_alone(folder), pytest.raises(BadInput, match=told), hold(folder):
        pass


@pytest.mark.parametrize("step", ["hide", "drop_name", "delete"])
@pytest.mark.parametrize("word", ["planted", "toy"])
def test_a_crash_leaves_a_store_that_is_read_and_gc_finishes(
    filled: StoreFolder, monkeypatch: pytest.MonkeyPatch, step: str, word: str
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: Any) -> None:
        raise Killed

    planned = plan_removal(filled, word)
    with monkeypatch.context() as patched:
        patched.setattr(removal, step, killed)
        if not (step == "drop_name" and word == "toy"):
            with pytest.raises(Killed):
                remove(filled, planned)
    problems = verify(filled).problems
    if (step, word) == ("drop_name", "planted"):
        assert problems == [f"name {name!r}: its run planted is gone; `micropref gc` removes the name" for name in
                            ("best", "final")]  # fmt: skip
    else:
        assert problems == []
    list_store(filled)
    run_query(filled.root, "FROM runs")
    if not removed_folders(filled):
        return
    before = len(files_below(filled.root))
    told = collect(filled, dry_run=True)
    gone = collect(filled)
    assert told == gone
    assert gone.files == before - len(files_below(filled.root)) > 0
    assert removed_folders(filled) == []
    assert verify(filled).problems == []
    assert collect(filled).files == 0


def test_a_store_that_cannot_be_written_says_so(filled: StoreFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(Failure, match=r"cannot be removed \(Permission denied\); nothing was changed"):
        remove(filled, plan_removal(filled, "planted"))
    monkeypatch.undo()
    assert read_names(filled).of("planted") == ["best", "final"]
    assert verify(filled).problems == []
