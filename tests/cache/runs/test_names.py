"""Names and notes of runs: what is allowed, who gets a name, and which run a word means."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from micropref.cache.errors import BadInput, Damaged
from micropref.cache.runs.names import (
    check_run_name,
    claim_name,
    drop_name,
    find_run,
    holds_heads,
    name_new_run,
    read_names,
    read_note,
    rename,
    write_note,
)
from micropref.cache.runs.records import open_run
from micropref.cache.store import StoreFolder

FIRST, SECOND, ADAPTED = "mixture-00e03508", "mixture-0bf27c74", "adapt-hedge-8303f41b"


def make_run(store: StoreFolder, run_id: str, **record: Any) -> None:
    store.run(run_id).mkdir(parents=True)
    known = {"run": run_id, "parent": None, "data": "toy", "k": 2, "method": "mixture", **record}
    (store.run(run_id) / "run.json").write_text(json.dumps(known))


@pytest.fixture
def runs(store: StoreFolder) -> StoreFolder:
    make_run(store, FIRST)
    make_run(store, SECOND)
    make_run(store, ADAPTED, groups=["a"], parent=FIRST)
    return store


@pytest.mark.parametrize("name", ["best", "v1.2_final-x", "7", "run-20261128", "x" * 64])
def test_allowed_names(runs: StoreFolder, name: str) -> None:
    assert check_run_name(runs, name) == name


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("", "expected 1 to 64 letters"),
        ("-best", "the first a letter or digit"),
        (".hidden", "the first a letter or digit"),
        ("a b", "letters, digits"),
        ("run:best", "letters, digits"),
        ("größe", "letters, digits"),
        ("x" * 65, "1 to 64"),
        ("best\n", "letters"),
        ("mixture-1a2b3c4d", "looks like a run's id"),
        ("planted", "is the id of a run"),
    ],
)
def test_other_names_are_refused_with_what_is_allowed(runs: StoreFolder, name: str, told: str) -> None:
    make_run(runs, "planted")
    with pytest.raises(BadInput, match=told) as caught:
        claim_name(runs, name, FIRST)
    assert repr(name) in str(caught.value)
    assert not (runs.root / "names").exists()


def test_a_run_has_several_names_in_the_order_they_were_given(runs: StoreFolder) -> None:
    for name in ("zeta", "alpha"):
        assert claim_name(runs, name, FIRST).run == FIRST
    assert read_names(runs).of(FIRST) == ["zeta", "alpha"]
    assert read_names(runs).of(SECOND) == []
    before = (runs.run(FIRST) / "run.json").read_bytes()
    assert rename(runs, FIRST, remove="zeta").of(FIRST) == ["alpha"]
    assert rename(runs, FIRST, add="beta", remove="alpha").of(FIRST) == ["beta"]
    assert (runs.run(FIRST) / "run.json").read_bytes() == before


def test_the_first_has_the_name_and_the_other_is_told(runs: StoreFolder) -> None:
    claim_name(runs, "best", FIRST)
    assert claim_name(runs, "best", SECOND).run == FIRST
    assert claim_name(runs, "BEST", FIRST).name == "best"  # one file where file systems pass over capitals
    with pytest.raises(BadInput, match=f"that of run {FIRST}; `micropref name {FIRST} --remove best` frees it"):
        rename(runs, SECOND, add="best")
    told: list[str] = []
    name_new_run(runs, "best", SECOND, told.append)
    assert len(told) == 1
    assert f"run {SECOND} keeps its id: name 'best' is that of run {FIRST}" in told[0]
    assert read_names(runs).of(SECOND) == []


def test_a_name_that_a_run_lacks_cannot_be_taken_from_it(runs: StoreFolder) -> None:
    claim_name(runs, "best", FIRST)
    with pytest.raises(BadInput, match=rf"run {SECOND} has no name 'best' \(its names: none\)"):
        rename(runs, SECOND, remove="best")
    assert read_names(runs).of(FIRST) == ["best"]


RACE = """
import sys, time
from pathlib import Path
from micropref.cache.runs.names import claim_name
from micropref.cache.store import StoreFolder
root, run, start = sys.argv[1:]
print("ready", flush=True)
while not Path(start).exists(): pass
print(*[claim_name(StoreFolder(Path(root)), f"name{number}", run).run for number in range(60)])
"""


def test_of_two_processes_exactly_one_gets_a_name(runs: StoreFolder, tmp_path: Path) -> None:
    command = [sys.executable, "-c", RACE, str(runs.root)]
    start = tmp_path / "start"
    racers = [
        subprocess.Popen([*command, run, str(start)], stdout=subprocess.PIPE, text=True) for run in (FIRST, SECOND)
    ]
    for one in racers:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    start.touch()
    first, second = (one.communicate(timeout=60)[0].split() for one in racers)
    assert len(first) == 60
    assert first == second  # both were told the same owner, of every name
    names = read_names(runs)
    assert not names.damaged
    assert {one.name: one.run for one in names.entries} == {f"name{at}": run for at, run in enumerate(first)}
    assert not list((runs.root / "names").glob(".*"))


def test_names_are_claimed_where_a_file_system_has_no_hard_links(
    runs: StoreFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert claim_name(runs, "best", FIRST).run == FIRST
    assert claim_name(runs, "best", SECOND).run == FIRST
    assert not list((runs.root / "names").glob(".*"))


def test_the_name_of_a_run_that_is_gone_is_free(runs: StoreFolder) -> None:
    lost = claim_name(runs, "best", FIRST)
    (runs.run(FIRST) / "run.json").unlink()
    assert claim_name(runs, "best", SECOND).run == SECOND
    drop_name(lost)  # a slow second command that still means the old one
    assert read_names(runs).of(SECOND) == ["best"]


def test_a_damaged_name_is_told_and_hides_no_other(runs: StoreFolder) -> None:
    path = claim_name(runs, "best", FIRST).item.commit_path
    claim_name(runs, "other", FIRST)
    path.write_text(path.read_text().replace(FIRST, SECOND))
    names = read_names(runs)
    assert names.of(FIRST) == ["other"]
    assert names.of(SECOND) == []
    assert str(path) in names.damaged[0]
    with pytest.raises(Damaged, match="remove the file and name its run again"):
        find_run(runs, "best")


def test_a_note_is_written_replaced_and_removed(runs: StoreFolder) -> None:
    run = open_run(runs, FIRST)
    before = (run.folder / "run.json").read_bytes()
    assert read_note(run) is None
    write_note(run, "first\nlines ü")
    write_note(run, "second\nlines ü")
    assert read_note(run) == "second\nlines ü"
    assert (run.folder / "run.json").read_bytes() == before
    write_note(run, " ")
    assert read_note(run) is None
    assert [path.name for path in run.folder.iterdir()] == ["run.json"]
    write_note(run, "whole")
    (run.folder / "note.json").write_text("{}")
    with pytest.raises(Damaged, match="write the note again"):
        read_note(run)


def test_a_name_goes_before_an_id_and_an_id_before_the_start_of_one(runs: StoreFolder) -> None:
    make_run(runs, "mix")
    make_run(runs, "mixture")
    assert find_run(runs, "mix").id == "mix"
    claim_name(runs, "mixture-00", SECOND)
    assert find_run(runs, "mixture-00").id == SECOND
    assert find_run(runs, "mixture-00e").id == FIRST
    assert find_run(runs, "adapt").id == ADAPTED
    claim_name(runs, "favourite", FIRST)
    with pytest.raises(BadInput, match="unknown run 'favour'"):  # only ids may be begun
        find_run(runs, "favour")


def test_an_ambiguous_start_lists_its_candidates(runs: StoreFolder) -> None:
    claim_name(runs, "best", SECOND)
    with pytest.raises(BadInput) as caught:
        find_run(runs, "mixture-0")
    assert str(caught.value) == (
        f"run 'mixture-0': 2 ids begin so ({FIRST}, best = {SECOND}); give more of the id, or a name"
    )
    for number in range(10):
        make_run(runs, f"many-{number:08x}")
    with pytest.raises(BadInput, match=r"run 'm': 12 ids begin so \(.*, 6 more\)"):
        find_run(runs, "m")


def test_an_unknown_run_lists_those_that_the_command_can_use(runs: StoreFolder) -> None:
    claim_name(runs, "best", FIRST)
    with pytest.raises(BadInput) as caught:
        find_run(runs, "gone", holds_heads)
    assert str(caught.value) == (
        f"unknown run 'gone' in store {runs.root} (there: best = {FIRST}, {SECOND}, and 1 that this command cannot use)"
    )
    assert find_run(runs, ADAPTED, holds_heads).id == ADAPTED  # named in full, the command itself says what is wrong
    assert find_run(runs, "a", holds_heads).id == ADAPTED
    make_run(runs, "armo-00000000")
    assert find_run(runs, "a", holds_heads).id == "armo-00000000"


def test_an_empty_store_and_words_that_are_no_names(store: StoreFolder) -> None:
    with pytest.raises(BadInput, match=r"\(there: none yet\)"):
        find_run(store, "gone")
    for word in ("", "../up", "a b"):
        with pytest.raises(BadInput, match=r"expected 1 to 64 letters.*: a name, an id or its start"):
            find_run(store, word)


def test_the_stages_take_names(
    store: StoreFolder, synthetic: Callable[..., str], planted_run: Callable[..., str]
) -> None:
    from micropref.pipeline.evaluation.evaluate import evaluate
    from micropref.pipeline.people.frozen_run import open_frozen

    run = planted_run(store, synthetic(store, prompts=40))
    claim_name(store, "best", run)
    assert evaluate(store, "best").run == "planted"
    assert open_frozen(store, "plan", None).run.id == "planted"
