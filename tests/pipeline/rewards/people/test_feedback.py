"""Choices of people: on disk before they are acknowledged, each once; learned from as `adapt` does; forgotten whole."""

from __future__ import annotations

import json
import math
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import micropref
from micropref.cache.runs.people import Answer, Person, write_person
from micropref.pipeline.rewards.people.feedback import Choice, Feedback
from micropref.pipeline.rewards.people.feedback_file import MEMORY
from micropref.pipeline.rewards.people.personal import People, learned_of
from micropref.pipeline.rewards.scoring.taste import RewardHeads
from tests.conftest import preference_rows

A_CHOICE = Choice((1.0, -1.0), (math.log(0.5), math.log(0.5)))


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, tiny_backbone: Callable[..., Path]
) -> tuple[micropref.Store, str]:
    opened = micropref.Store(tmp_path_factory.mktemp("people") / "store")
    fixed: dict[str, Any] = {"split_by_prompt": 0.3, "device": "cpu", "dtype": "float32"}
    opened.embed(preference_rows(), "mine", backbone=tiny_backbone("llama"), **fixed)
    return opened, opened.train("mine", k=2, restarts=1, epochs=3, router_input="prompt").run


def test_a_choice_is_kept_once(tmp_path: Path) -> None:
    opened = Feedback(tmp_path / "f.sqlite", "run", 2)
    assert opened.add("ann", A_CHOICE, "1")
    assert not opened.add("ann", A_CHOICE, "1")
    assert opened.add("ann", A_CHOICE)
    assert opened.add("ann", A_CHOICE)  # without an id each is its own
    assert (opened.count(), len(opened.of("ann")), opened.of("bob"), opened.users()) == (3, 3, [], ["ann"])
    assert opened.of("ann")[0] == A_CHOICE
    opened.close()
    again = Feedback(tmp_path / "f.sqlite", "run", 2)
    assert again.count() == 3
    with pytest.raises(micropref.BadInput, match="holds choices about run run, not other"):
        Feedback(tmp_path / "f.sqlite", "other", 2)
    (tmp_path / "text").write_text("no database at all, but a text that is long enough to be looked at")
    with pytest.raises(micropref.BadInput, match="found no file of choices"):
        Feedback(tmp_path / "text", "run", 2)


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    """Each acknowledged id is there afterwards, and none twice."""
    script = (
        "import sys; from pathlib import Path\n"
        "from micropref.pipeline.rewards.people.feedback import Choice, Feedback\n"
        "kept = Feedback(Path(sys.argv[1]), 'run', 2)\n"
        "for number in range(10**6):\n"
        "    kept.add('ann', Choice((1.0, 2.0), (0.0, 0.0)), f'{sys.argv[2]}-{number}')\n"
        "    print(f'{sys.argv[2]}-{number}', flush=True)\n"
    )
    path, told = tmp_path / "f.sqlite", []
    for round_ in range(3):
        command = [sys.executable, "-c", script, str(path), str(round_)]
        running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert running.stdout is not None
        told += [running.stdout.readline().strip() for _ in range(20 + round_)]
        running.send_signal(signal.SIGKILL)
        told += [line.strip() for line in running.communicate()[0].splitlines()]
    ids = [row[0] for row in sqlite3.connect(path).execute("SELECT id FROM choices")]
    assert set(told) <= set(ids)
    assert len(ids) == len(set(ids))


@pytest.mark.slow
def test_ten_thousand_choices_survive_fifty_kills(tmp_path: Path) -> None:
    """Two programs write 5,000 choices each and are killed at random, 50 times in all; what was refused is sent again.

    No choice that was acknowledged is lost, and none is there twice.
    """
    script = (
        "import sys; from pathlib import Path\n"
        "from micropref.pipeline.rewards.people.feedback import Choice, Feedback\n"
        "kept, name, start = Feedback(Path(sys.argv[1]), 'run', 2), sys.argv[2], int(sys.argv[3])\n"
        "for number in range(start, 5000):\n"
        "    kept.add(f'{name}-{number % 40}', Choice((1.0, 2.0), (0.0, 0.0)), f'{name}-{number}')\n"
        "    print(number, flush=True)\n"
    )
    path, chance = tmp_path / "f.sqlite", random.Random(16)
    acknowledged: dict[str, set[int]] = {"a": set(), "b": set()}
    kills = 0

    def write(name: str) -> None:
        nonlocal kills
        while len(acknowledged[name]) < 5000:
            start = max(acknowledged[name], default=-1)  # the last one is sent again: its answer may have been lost
            command = [sys.executable, "-c", script, str(path), name, str(max(start, 0))]
            running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            assert running.stdout is not None
            for _ in range(chance.randint(1, 370)):
                line = running.stdout.readline()
                if line:
                    acknowledged[name].add(int(line))
            if len(acknowledged[name]) < 5000 and kills < 50:
                kills += 1
                running.send_signal(signal.SIGKILL)
            acknowledged[name] |= {int(line) for line in running.communicate()[0].split()}

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, acknowledged))
    assert kills == 50
    rows = sqlite3.connect(path).execute("SELECT user, id FROM choices").fetchall()
    expected = [(f"{name}-{number % 40}", f"{name}-{number}") for name in "ab" for number in range(5000)]
    assert sorted(rows) == sorted(expected)


def test_forgetting_leaves_no_byte(tmp_path: Path) -> None:
    path = tmp_path / "f.sqlite"
    opened = Feedback(path, "run", 2)
    for number in range(50):
        opened.add("Annabella Unforgettable", A_CHOICE, f"{number}")
        opened.add("bob", A_CHOICE)
    assert opened.forgotten_at("Annabella Unforgettable") is None
    assert opened.forget("Annabella Unforgettable") == 50
    assert opened.forgotten_at("Annabella Unforgettable") is not None
    assert (opened.of("Annabella Unforgettable"), len(opened.of("bob"))) == ([], 50)
    for file in tmp_path.iterdir():
        assert b"Unforgettable" not in file.read_bytes()
    opened.close()


def test_weights_are_those_of_adapt(trained: tuple[micropref.Store, str]) -> None:
    """The same choices, read from the store's vectors and from new texts, give the same weights."""
    opened, run = trained
    adapted = opened.adapt(run, "user", shots=[2], method="shrunk", shots_from="train", seed=1)
    from micropref.cache.runs.records import open_run

    kept = open_run(opened._store, adapted.run)
    strength = kept.record["settings"]["strength"]
    opened.adapt(run, "user", shots=[2], method="shrunk", shots_from="train", seed=1, out=opened.folder / "people")
    from micropref.cache.runs.people import read_person

    pairs = {row["pair_id"]: row for row in opened.sql("FROM pairs").to_dicts()}
    heads = RewardHeads(opened._store, run)
    scorer = opened.run(run).scorer(device="cpu")
    for place, file in enumerate(sorted((opened.folder / "people").iterdir())):
        person = read_person(file)
        assert person is not None
        choices = []
        for answer in person.answers:
            row = pairs[answer.pair_id]
            found = scorer.score(row["prompt"], [row["chosen"], row["rejected"]])
            first, second = found.heads
            assert first is not None
            assert second is not None
            margins = tuple(a - b for a, b in zip(first, second, strict=True))
            choices.append(Choice(margins, tuple(map(math.log, found.weights or ()))))
        learned = learned_of([choices], strength)[0]
        assert learned.log_weights[0].exp().tolist() == pytest.approx(list(person.weights), abs=1e-6)
        assert place < 100
    assert heads.k == 2
    scorer.close()


def test_learning_changes_a_person_and_nobody_else(trained: tuple[micropref.Store, str], tmp_path: Path) -> None:
    opened, run = trained
    scorer = opened.run(run).scorer(device="cpu", feedback=tmp_path / "f.sqlite")
    texts = ("What is thing 3?", "Gladly! Thing 3 is lovely, my friend.", "Thing 3: see manual, page 3.")
    with pytest.raises(micropref.BadInput, match="no weights for user 'ann'"):
        scorer.score(texts[0], texts[1], user="ann")
    before = scorer.score(texts[0], list(texts[1:]))
    for _ in range(8):
        weights = scorer.learn("ann", *texts)
    after = scorer.score(texts[0], list(texts[1:]), user="ann")
    assert after.weights == pytest.approx(weights)
    gap = [one.rewards[0] - one.rewards[1] for one in (before, after) if one.rewards[0] and one.rewards[1]]
    assert gap[1] > gap[0]
    assert scorer.score(texts[0], list(texts[1:])).rewards == before.rewards
    scorer.close()
    again = opened.run(run).scorer(device="cpu", feedback=tmp_path / "f.sqlite")
    assert again.score(texts[0], texts[1], user="ann").weights == pytest.approx(weights)
    again.close()


def test_a_forgotten_person_stays_forgotten(trained: tuple[micropref.Store, str], tmp_path: Path) -> None:
    """What the run's own file says of a person is hidden, until the person chooses again."""
    opened, run = trained
    heads = RewardHeads(opened._store, run)
    write_person(
        heads.run.folder / "people",
        Person(
            "ann", "user", run, heads.fitted.features.id, "mine", "test", "d", "ask", 1.0, (Answer("p", "chosen"),),
            (0.9, 0.1), None, True, "probability", "2026-01-01T00:00:00+00:00",
        ),
    )  # fmt: skip
    people = People(heads, Feedback(MEMORY, run, 2), 0.3)
    found = people("ann")
    assert found is not None
    assert found.log_weights.exp().tolist() == [pytest.approx([0.9, 0.1])]
    assert people.forget("ann") == 0
    assert people("ann") is None
    people.learn("ann", A_CHOICE)
    assert people("ann") is not None
    assert people.count("ann") == 1


def unerased(folder: Path, words: set[str]) -> set[str]:
    """Return which words are in a file of a folder."""
    found = b"".join(path.read_bytes() for path in folder.iterdir())
    return {word for word in words if word.encode() in found}


def a_named_choice(number: float) -> Choice:
    return Choice((number, 2.0), (math.log(0.5), math.log(0.5)))


def test_no_byte_is_left_of_people_who_come_and_go(tmp_path: Path) -> None:
    """SQLite's secure_delete alone leaves copies of rows that it moved before they were deleted."""
    opened = Feedback(tmp_path / "f.sqlite", "run", 2)
    chance, living, gone = random.Random(3), dict[str, list[str]](), set[str]()
    for step in range(600):
        if chance.random() < 0.97 or not living:
            old = living and chance.random() < 0.7
            name = chance.choice(list(living)) if old else f"name{step:05}" + "x" * chance.choice([0, 9, 150])
            number = chance.random()
            opened.add(name, a_named_choice(number), f"id-of-{step:05}" if chance.random() < 0.7 else None)
            living.setdefault(name, [name]).extend([repr(number), f"id-of-{step:05}"])
        else:
            name = chance.choice(list(living))
            opened.forget(name)
            gone |= set(living.pop(name))
            assert not unerased(tmp_path, gone)
    assert len(gone) > 50
    assert opened.count() == sum(len(words) // 2 for words in living.values())
    opened.close()


def test_erasing_waits_for_readers_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that reads the file keeps its log alive: forgetting is done, erasing is told and comes later."""
    monkeypatch.setattr("micropref.pipeline.rewards.people.feedback.RETRY_S", 0.05)
    path, secret = tmp_path / "f.sqlite", {"Unforgettable"}
    opened = Feedback(path, "run", 2)
    for ending in ("another choice", "the same call", "opening it"):
        opened.add("Unforgettable", A_CHOICE)
        reader = Feedback(path, "run", 2, read_only=True)
        with pytest.raises(micropref.Failure, match="another program reads the file"):
            opened.forget("Unforgettable")
        assert opened.of("Unforgettable") == []
        assert opened.forgotten_at("Unforgettable") is not None
        opened.add("bob", A_CHOICE)  # is kept, and erases nothing yet
        reader.close()
        assert unerased(tmp_path, secret) == secret
        if ending == "another choice":
            opened.add("bob", A_CHOICE)
        elif ending == "the same call":
            assert opened.forget("Unforgettable") == 0
        else:
            killed = sqlite3.connect(path)  # keeps the log from being removed by the last who closes
            killed.execute("SELECT count(*) FROM about").fetchall()
            opened.close()
            opened = Feedback(path, "run", 2)
            killed.close()
        assert not unerased(tmp_path, secret), ending
    assert opened.count() == 4
    opened.close()


def test_an_id_is_a_persons_own(tmp_path: Path) -> None:
    opened = Feedback(tmp_path / "f.sqlite", "run", 2)
    assert opened.add("ann", A_CHOICE, "1")
    assert opened.add("bob", A_CHOICE, "1")
    assert not opened.add("bob", a_named_choice(5.0), "1")
    assert opened.of("bob") == [A_CHOICE]
    for name in ("", "x" * 257, "\ud800"):
        with pytest.raises(micropref.BadInput, match="user"):
            opened.add(name, A_CHOICE)
    for ask in (opened.forget, opened.of, opened.extent):
        with pytest.raises(micropref.BadInput, match="user is no text"):
            ask("\ud800")
    assert (opened.forget("x" * 257), opened.count()) == (0, 2)
    opened.close()


def test_choices_after_forgetting_are_newer_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Feedback(tmp_path / "f.sqlite", "run", 2)
    for now in (2000.0, 1000.0):
        monkeypatch.setattr("time.time", lambda now=now: now)
        opened.add("ann", A_CHOICE)
        opened.forget("ann")
    opened.add("ann", A_CHOICE)
    at = opened.forgotten_at("ann")
    assert at is not None
    assert len(opened.of("ann", at)) == 1
    opened.close()


@pytest.mark.parametrize("content", ["a text that is long enough to be looked at " * 9, "other program", ""])
def test_a_file_of_another_program_is_not_touched(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other"
    path.write_text(content)
    if content == "other program":
        path.unlink()
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE about (name TEXT)")
    before = path.read_bytes()
    if content:
        with pytest.raises(micropref.BadInput, match=r"another program|no file of choices"):
            Feedback(path, "run", 2)
        assert path.read_bytes() == before
    else:
        Feedback(path, "run", 2).close()  # an empty file becomes one
    assert [file.name for file in tmp_path.iterdir()] == ["other"]


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    """Refused choices are told and not kept; afterwards all goes on. The limit of file sizes stands for the disk."""
    script = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from micropref.cache.errors import Failure\n"
        "from micropref.pipeline.rewards.people.feedback import Choice, Feedback\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "kept, choice = Feedback(Path(sys.argv[1]), 'run', 2), Choice((1.0, 2.0), (0.0, 0.0))\n"
        "kept.add('ann', choice, 'first')\n"
        "_, most = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, most))\n"
        "told, number = [], 0\n"
        "while len(told) < 3:\n"
        "    try: number += kept.add('ann', choice, f'{number}')\n"
        "    except Failure as error: told.append(str(error))\n"
        "assert kept.count() == number + 1, (kept.count(), number)\n"
        "try: kept.forget('ann')\n"
        "except Failure as error: told.append(str(error))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))\n"
        "assert kept.add('bob', choice, f'{number}')\n"
        "print(number, len(kept.of('bob')), told)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "f.sqlite")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "nothing was changed by this" in done.stdout
    Feedback(tmp_path / "f.sqlite", "run", 2).close()


def test_what_stands_in_the_way_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("micropref.pipeline.rewards.people.feedback_file.WAIT_S", 0.05)
    path = tmp_path / "f.sqlite"
    opened = Feedback(path, "run", 2)
    opened.add("ann", A_CHOICE, "1")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for attempt in (lambda: opened.add("ann", A_CHOICE, "2"), lambda: opened.forget("ann")):
        with pytest.raises(micropref.Failure, match=r"database is locked.*nothing was changed by this"):
            attempt()
    assert len(opened.of("ann")) == 1  # reading goes on
    other.execute("ROLLBACK")
    other.close()
    assert opened.add("ann", A_CHOICE, "2")
    opened.close()
    with pytest.raises(micropref.Failure, match="give a file in a folder that is there"):
        Feedback(tmp_path / "nowhere" / "f.sqlite", "run", 2)
    with pytest.raises(micropref.Failure, match="f"):
        Feedback(tmp_path, "run", 2)
    content = bytearray(path.read_bytes())
    content[4096:] = b"\7" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(micropref.Failure, match="damaged"):
        Feedback(path, "run", 2).add("ann", A_CHOICE)
    assert path.read_bytes()[4096:] == content[4096:]


def test_a_run_never_learns_from_equal_responses(trained: tuple[micropref.Store, str]) -> None:
    opened, run = trained
    scorer = opened.run(run).scorer(device="cpu")
    with pytest.raises(micropref.BadInput, match="every head rewards both responses alike"):
        scorer.learn("ann", "What is thing 3?", "Thing 3: see manual.", "Thing 3: see manual.")
    scorer.close()


def test_imported_people_score_as_they_were_served(trained: tuple[micropref.Store, str], tmp_path: Path) -> None:
    """`people --import`, then `score --user`, `export --user` and a scorer without the file: the server's weights."""
    opened, run = trained
    texts = ("What is thing 3?", "Gladly! Thing 3 is lovely, my friend.", "Thing 3: see manual, page 3.")
    scorer = opened.run(run).scorer(device="cpu", feedback=tmp_path / "f.sqlite")
    for _ in range(4):
        scorer.learn("zoe", *texts)
    served = scorer.score(texts[0], list(texts[1:]), user="zoe")
    found = opened.people(run, import_=tmp_path / "f.sqlite")
    assert "zoe" in [one.user for one in found.people]
    assert "zoe" in repr(found)
    later = opened.run(run).scorer(device="cpu")
    again = later.score(texts[0], list(texts[1:]), user="zoe")
    assert again.weights == pytest.approx(served.weights, abs=1e-12)
    assert again.rewards == pytest.approx(served.rewards, abs=1e-6)
    row = {"prompt": texts[0], "responses": list(texts[1:]), "user": "zoe"}
    (tmp_path / "in.jsonl").write_text(json.dumps(row) + "\n")
    opened.score(run, tmp_path / "in.jsonl", tmp_path / "out.jsonl", device="cpu")
    assert json.loads((tmp_path / "out.jsonl").read_text())["reward"] == pytest.approx(list(served.rewards), abs=1e-6)
    exported = opened.export(run, tmp_path / "model", user="zoe", device="cpu")
    assert "zoe" in (tmp_path / "model" / "micropref.json").read_text()
    assert len(exported.weights) == 2
    later.close()
    scorer.close()
