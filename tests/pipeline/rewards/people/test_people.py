"""A server's choices become the run's people; who was forgotten stays so, whatever older data comes in what order."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import micropref
from micropref.cache.errors import BadInput, Damaged, Failure
from micropref.cache.maintenance.verify import verify
from micropref.cache.runs import forgotten as tombstones
from micropref.cache.runs.people import Answer, Person, person_path, read_person, utc, write_person
from micropref.cache.store import StoreFolder
from micropref.cli import app
from micropref.heads.adaptation.few_shot import GRIDS
from micropref.pipeline.people.adapt import AdaptOptions, adapt
from micropref.pipeline.people.ask import AskOptions, _known
from micropref.pipeline.rewards.people.feedback import Choice, Feedback
from micropref.pipeline.rewards.people.people import RunPeople, people
from micropref.pipeline.rewards.people.personal import People
from micropref.pipeline.rewards.people.variance import choose_variance
from micropref.pipeline.rewards.scoring.taste import RewardHeads, Taste
from micropref.pipeline.show.people import show_people

LONG_AGO = 1_500_000_000.0
"""In 2017: a time before the choices of these tests."""
HOSTILE = ["../../etc/passwd", "nul\0byte", "\u202eevil", "\x1b[31mred", "x" * 256, " ", "people", "Ⅷ", "é", "e\u0301"]


def choice(*margins: float) -> Choice:
    return Choice(margins, (math.log(0.5), math.log(0.3), math.log(0.2)))


@pytest.fixture
def run(store: StoreFolder, synthetic: Callable[..., str], planted_run: Callable[..., str]) -> str:
    """Return a run of three heads and static weights, on data of 16 users."""
    features = synthetic(store, prompts=60, users=8)
    return planted_run(store, features, created="2017-01-01T00:00:00+00:00")


def feedback(path: Path, chosen: dict[str, int]) -> Feedback:
    """Return an open file with as many choices of each person."""
    opened = Feedback(path, "planted", 3)
    for user, count in chosen.items():
        for number in range(count):
            opened.add(user, choice(1.0 + number, -0.5, 0.25 * number), f"{number}")
    return opened


def imported(store: StoreFolder, path: Path, strength: float | None = 0.3) -> RunPeople:
    return people(store, "planted", path, strength)


def known(found: RunPeople) -> dict[str, int | None]:
    return {one.user: one.choices for one in found.people}


def interviewed(heads: RewardHeads, user: str, created: str) -> Path:
    """Write what `ask` keeps of a person, as the first release wrote it."""
    return write_person(
        heads.run.folder / "people",
        Person(
            user, "user", heads.run.id, heads.fitted.features.id, "toy", "test", "d", "ask", 1.0,
            (Answer("p", "chosen"), Answer("q", "neither")), (0.8, 0.1, 0.1), None, True, "probability", created,
        ),
    )  # fmt: skip


def test_imported_people_have_the_servers_weights(
    store: StoreFolder, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(GRIDS, "shrunk", (0.1, 1.0))
    opened = feedback(tmp_path / "f.sqlite", {"ann": 8, "bob": 3, "cleo": 8, **dict.fromkeys(HOSTILE, 2)})
    heads = RewardHeads(store, run)
    strength, chosen_on = choose_variance(store, heads)
    assert chosen_on == "validation users of toy"
    served = People(heads, opened, strength)
    found = imported(store, tmp_path / "f.sqlite", None)
    assert found.imported is not None
    assert (found.imported.written, found.imported.strength) == (13, strength)
    assert known(found) == {"ann": 8, "bob": 3, "cleo": 8, **dict.fromkeys(HOSTILE, 2)}
    later = RewardHeads(store, run)
    for user in ("ann", "bob", *HOSTILE[:2]):
        learned, kept = served(user), later.kept(user)
        assert learned is not None
        assert kept is not None
        assert torch.allclose(learned.log_weights.exp(), kept.log_weights.exp(), rtol=0, atol=1e-12)
        router = torch.zeros(1, 0)
        heads.people = served
        (ours,), (theirs,) = (each.weigh([Taste(user=user)], router) for each in (later, heads))
        assert torch.allclose(ours.log_weights, theirs.log_weights, rtol=0, atol=1e-12)
        assert ours.combine == theirs.combine == "linear"
    person = read_person(person_path(heads.run.folder / "people", "ann"))
    assert person is not None
    assert (person.answers, person.data, person.choices) == ((), None, 8)
    assert person.recorded is not None
    assert person.recorded.source == "f.sqlite"
    assert {path.parent for path in heads.run.folder.rglob("*.json")} == {heads.run.folder, heads.run.folder / "people"}
    before = {path: path.read_bytes() for path in heads.run.folder.rglob("*.json")}
    again = imported(store, tmp_path / "f.sqlite", None)
    assert again.imported is not None
    assert (again.imported.written, again.imported.unchanged) == (0, 13)
    assert {path: path.read_bytes() for path in heads.run.folder.rglob("*.json")} == before
    assert not verify(store).problems
    opened.close()


def test_the_newest_wins_in_either_order(store: StoreFolder, run: str, tmp_path: Path) -> None:
    heads = RewardHeads(store, run)
    interviewed(heads, "ann", "2026-01-01T00:00:00+00:00")
    interviewed(heads, "bob", "2999-01-01T00:00:00+00:00")
    first, second = feedback(tmp_path / "1.sqlite", {"ann": 2, "bob": 2}), feedback(tmp_path / "2.sqlite", {"ann": 5})
    served = People(RewardHeads(store, run), second, 0.3)
    assert served.count("ann") == 5
    kept = heads.kept("bob")
    for order in itertools.permutations(("1.sqlite", "2.sqlite")):
        for name in order:
            found = imported(store, tmp_path / name)
        assert known(found) == {"ann": 5, "bob": 1}
        assert {one.user: one.method for one in found.people} == {"ann": "shrunk", "bob": "ask"}
        shown = show_people(found, store.root)
        assert "ann" in shown
        assert "people folder" in shown
    assert kept is not None
    first.add("bob", choice(1.0, 2.0, 3.0))
    assert served("bob") is not None
    assert People(RewardHeads(store, run), first, 0.3)("bob").log_weights.tolist() == kept.log_weights.tolist()  # type: ignore[union-attr]
    first.close()
    second.close()


def test_whom_the_server_forgets_every_command_hides(store: StoreFolder, run: str, tmp_path: Path) -> None:
    """At once, before anything is imported: the run keeps the tombstone next to the server's file."""
    heads = RewardHeads(store, run)
    interviewed(heads, "ann", "2020-01-01T00:00:00+00:00")
    interviewed(heads, "bob", "2020-01-01T00:00:00+00:00")
    opened = Feedback(tmp_path / "f.sqlite", run, 3)
    People(heads, opened, 0.3).forget("ann")
    opened.close()
    fresh = RewardHeads(store, run)
    assert fresh.kept("bob") is not None
    with pytest.raises(BadInput, match="has no weights for user 'ann'"):
        fresh.check(Taste(user="ann"))
    assert "ann" not in known(people(store, run, None, None))


ORDERS = list(itertools.permutations(("old", "forgets", "copy")))


@pytest.mark.parametrize(
    "order", [ORDERS[2], *(pytest.param(one, marks=pytest.mark.slow) for one in ORDERS if one != ORDERS[2])]
)
def test_no_older_data_revives_the_forgotten(
    store: StoreFolder, run: str, tmp_path: Path, order: tuple[str, ...]
) -> None:
    """An older file under another key, the file that forgets, and an older copy of the person's file, in any order."""
    heads = RewardHeads(store, run)
    feedback(tmp_path / "old.sqlite", {"ann": 4, "bob": 1}).close()
    interviewed(heads, "ann", utc(LONG_AGO))
    shutil.copytree(heads.run.folder / "people", tmp_path / "copy")
    forgets = feedback(tmp_path / "forgets.sqlite", {"ann": 3, "cleo": 1})
    assert forgets.forget("ann") == 3
    served = People(RewardHeads(store, run), forgets, 0.3)
    assert served("ann") is None
    for step in order * 2:
        if step == "copy":
            shutil.rmtree(heads.run.folder / "people", ignore_errors=True)
            shutil.copytree(tmp_path / "copy", heads.run.folder / "people")
        else:
            imported(store, tmp_path / f"{step}.sqlite")
        if (heads.run.folder / tombstones.FILE).exists():
            later = RewardHeads(store, run)
            assert later.kept("ann") is None
            with pytest.raises(BadInput, match="no weights for user 'ann'"):
                later.check(Taste(user="ann"))
            assert _known(later.run, "ann") is None
            assert People(later, Feedback(tmp_path / "old.sqlite", run, 3), 0.3)("ann") is None
    found = imported(store, tmp_path / "old.sqlite")
    assert found.imported is not None
    assert (found.imported.forgotten, found.imported.choices_left_out, found.forgotten) == (1, 4, 1)
    assert known(imported(store, tmp_path / "forgets.sqlite")) == {"bob": 1, "cleo": 1}
    assert not person_path(heads.run.folder / "people", "ann").exists()
    assert all(b"ann" not in path.read_bytes() for path in heads.run.folder.rglob("*.json"))
    assert stat.S_IMODE((heads.run.folder / tombstones.FILE).stat().st_mode) == 0o600
    forgets.add("ann", choice(0.5, 0.5, -2.0))  # the person is back
    assert known(imported(store, tmp_path / "forgets.sqlite")) == {"ann": 1, "bob": 1, "cleo": 1}
    assert known(imported(store, tmp_path / "old.sqlite"))["ann"] == 1
    assert RewardHeads(store, run).kept("ann") is not None
    forgets.close()


def test_what_training_and_adapt_know_is_hidden_too(
    store: StoreFolder,
    synthetic: Callable[..., str],
    planted_run: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features = synthetic(store, prompts=60, users=3)
    planted_run(store, features, created="2017-01-01T00:00:00+00:00")
    monkeypatch.setitem(GRIDS, "shrunk", (0.1, 1.0))
    adapted = adapt(store, "planted", None, AdaptOptions("user", (1,), "shrunk", shots_from="train"))
    found = people(store, adapted.run, None, None)
    assert (len(found.people), found.adapted) == (6, adapted.run)
    heads = RewardHeads(store, adapted.run)
    assert choose_variance(store, heads) == (adapted.strength, f"run {adapted.run}")
    opened = Feedback(tmp_path / "f.sqlite", "planted", 3)
    heads.people = People(heads, opened, 0.3)
    assert heads.people("a1") is not None
    opened.forget("a1")
    with pytest.raises(BadInput, match="no weights for user 'a1'"):
        heads.check(Taste(user="a1"))
    heads.check(Taste(user="a2"))
    found = people(store, adapted.run, tmp_path / "f.sqlite", None)
    assert (len(found.people), found.still_named, found.forgotten) == (5, [adapted.run], 1)
    assert "no longer uses them" in show_people(found, store.root)
    assert RewardHeads(store, adapted.run).kept("a1") is None
    opened.add("a1", choice(1.0, 0.0, 0.0))
    assert heads.people("a1") is not None
    opened.close()


def test_users_of_training_can_learn_and_be_forgotten(
    store: StoreFolder, synthetic: Callable[..., str], tmp_path: Path
) -> None:
    synthetic(store, prompts=60, users=3)
    run = micropref.Store(store.root).train("toy", method="maxmin", k=2).run
    heads, router = RewardHeads(store, run), torch.zeros(1, 0)
    opened = Feedback(tmp_path / "f.sqlite", run, 2)

    def weights(user: str | None) -> list[float]:
        (found,) = heads.weigh([Taste(user=user)], router)
        return found.log_weights.exp().tolist()

    assert max(weights("a1")) == pytest.approx(1.0)  # a person of training is one head's
    assert len(people(store, run, None, None).people) == 6
    heads.people = People(heads, opened, 0.3)
    trained = weights("a1")
    stranger = torch.tensor(weights(None), dtype=torch.float64).log()
    chosen = Choice((1.0, -1.0), tuple(stranger.tolist()))
    opened.add("a1", chosen)
    learned = heads.people("a1")
    assert learned is not None
    assert weights("a1") == pytest.approx(torch.softmax(stranger + learned.log_weights[0], 0).tolist())
    assert weights("a1") != pytest.approx(trained)
    opened.forget("a1")
    for now in (heads, RewardHeads(store, run)):
        if now is not heads:
            assert people(store, run, tmp_path / "f.sqlite", 0.3).still_named == [run]
        with pytest.raises(BadInput, match="no weights for user 'a1'"):
            now.check(Taste(user="a1"))
        now.check(Taste(user="a2"))
    assert "a1" not in known(people(store, run, None, None))
    opened.close()


def test_a_damaged_file_stops_nobody_else(store: StoreFolder, run: str, tmp_path: Path) -> None:
    heads = RewardHeads(store, run)
    interviewed(heads, "ann", utc(LONG_AGO)).write_text("{}")
    feedback(tmp_path / "f.sqlite", {"ann": 1, "bob": 1}).close()
    found = imported(store, tmp_path / "f.sqlite")
    assert known(found) == {"bob": 1}
    assert len(found.problems) == 1
    assert "damaged, changed" in found.problems[0]
    (heads.run.folder / tombstones.FILE).write_text("{}")
    with pytest.raises(Damaged, match="who is to be forgotten is not known"):
        RewardHeads(store, run).kept("bob")
    assert any("who is to be forgotten" in line for line in verify(store).problems)


def test_a_server_may_go_on_while_its_file_is_read(store: StoreFolder, run: str, tmp_path: Path) -> None:
    opened = feedback(tmp_path / "f.sqlite", {"ann": 2})
    snapshot = Feedback(tmp_path / "f.sqlite", run, 3, read_only=True)
    opened.add("ann", choice(1.0, 1.0, 0.0))
    opened.add("bob", choice(1.0, 1.0, 0.0))
    assert (snapshot.count(), snapshot.users(), len(snapshot.of("ann"))) == (2, ["ann"], 2)
    with pytest.raises(Failure, match="cannot be used now"):
        snapshot.add("ann", choice(1.0, 1.0, 0.0))
    snapshot.close()
    heads = RewardHeads(store, run)
    (tmp_path / "f.sqlite").rename(heads.run.folder / "feedback.sqlite")
    for ending in ("-wal", "-shm"):
        (tmp_path / f"f.sqlite{ending}").rename(heads.run.folder / f"feedback.sqlite{ending}")
    waiting = people(store, run, None, None)
    assert known(waiting) == {"ann": 3, "bob": 1}
    assert {one.kept_in for one in waiting.people} == {"feedback"}
    assert f"people {run} --import" in show_people(waiting, store.root).replace("\\\n       ", "")
    after = imported(store, heads.run.folder / "feedback.sqlite")
    assert after.not_imported is None
    assert {one.kept_in for one in after.people} == {"people"}
    opened.close()


def other_database(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE cookies (name TEXT)")


def another_runs(path: Path) -> None:
    Feedback(path, "other-run", 3).close()


def another_format(path: Path) -> None:
    Feedback(path, "planted", 3).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE about SET value = '9' WHERE name = 'format'")


def a_damaged_one(path: Path) -> None:
    feedback(path, {"ann": 400}).close()
    content = path.read_bytes()
    path.write_bytes(content[:4096] + bytes(7 for _ in range(len(content) - 8192)) + content[-4096:])


def one_with_damaged_numbers(path: Path) -> None:
    feedback(path, {"ann": 1}).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE choices SET margins = '[1.0, NaN, 2.0]'")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda _: None, BadInput, "found nothing; expected a file of choices"),
        (lambda path: path.mkdir(), BadInput, "found a folder"),
        (lambda path: path.write_text("x" * 5000), BadInput, "found no file of choices"),
        (lambda path: path.touch(), BadInput, "found a database of another program"),
        (other_database, BadInput, "found a database of another program"),
        (another_runs, BadInput, "holds choices about run other-run, not planted"),
        (another_format, BadInput, "found choices of format 9, expected 1"),
        (a_damaged_one, Damaged, "damaged"),
        (one_with_damaged_numbers, Damaged, "a choice has not 3 numbers"),
    ],
)
def test_files_that_cannot_be_imported(
    store: StoreFolder, run: str, tmp_path: Path, make: Callable[[Path], Any], error: type[Exception], message: str
) -> None:
    path = tmp_path / "f.sqlite"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(error, match=message):
        imported(store, path)
    assert (path.read_bytes() if path.is_file() else None) == before
    assert sorted(file.name for file in (store.run(run)).iterdir()) == ["heads.safetensors", "run.json"]
    told = CliRunner().invoke(app, ["people", run, "--store", str(store.root), "--import", str(path)])
    assert told.exit_code == error("").exit_code  # type: ignore[attr-defined]
    assert len(told.stderr.strip().splitlines()) == 1


def test_the_command(store: StoreFolder, run: str, tmp_path: Path) -> None:
    feedback(tmp_path / "f.sqlite", {"ann": 2}).close()
    where = ["people", run, "--store", str(store.root)]
    done = CliRunner().invoke(app, [*where, "--import", str(tmp_path / "f.sqlite"), "--strength", "0.5", "--json"])
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert [one["user"] for one in told["people"]] == ["ann"]
    assert (told["imported"]["strength"], told["imported"]["written"]) == (0.5, 1)
    assert "weights for 1 person" in CliRunner().invoke(app, where).stdout
    for given, message in (
        (["--strength", "1"], "--strength is 1.0: it is for choices that are imported; give a file to --import too"),
        (["--strength", "0", "--import", "f"], "--strength is 0.0: expected a number above 0"),
    ):
        refused = CliRunner().invoke(app, [*where, *given])
        assert refused.exit_code == 2
        assert message in refused.stderr


def test_an_interview_replaces_no_recorded_choices(store: StoreFolder, run: str, tmp_path: Path) -> None:
    feedback(tmp_path / "f.sqlite", {"ann": 2}).close()
    imported(store, tmp_path / "f.sqlite")
    with pytest.raises(BadInput, match=r"by 2 choices of f\.sqlite, which an interview would replace"):
        _known(RewardHeads(store, run).run, "ann")
    for name in ("", "\ud800", "x" * 257):
        with pytest.raises(BadInput, match="user"):
            AskOptions(name)
