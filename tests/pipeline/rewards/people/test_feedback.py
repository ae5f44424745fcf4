"""Choices of people: on disk before they are acknowledged, each once; learned from as `adapt` does; forgotten whole."""

from __future__ import annotations

import asyncio
import math
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

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


def test_reward_functions_for_trl(trained: tuple[micropref.Store, str]) -> None:
    opened, run = trained
    scorer = opened.run(run).scorer(device="cpu")
    prompts = [[{"role": "user", "content": "p"}], [{"role": "user", "content": "q"}]]
    completions = [[{"role": "assistant", "content": "a"}], [{"role": "assistant", "content": "x" * 999}]]
    whole = scorer.trl()
    rewards = whole(prompts=prompts, completions=completions, completion_ids=[[1], [2]], trainer_state=None, user=None)
    expected = scorer.score(prompts[0], completions[0])
    assert rewards == [pytest.approx(expected.rewards[0]), None]  # the second does not fit
    assert whole.__name__ == f"micropref_{run}"
    assert asyncio.run(scorer.trl(asynchronous=True)(prompts=prompts, completions=completions)) == rewards
    first, second = scorer.trl(heads="separate", scale="std")
    assert (first.__name__, second.__name__) == ("head_0", "head_1")
    stored = opened.sql("SELECT prompt, unnest([chosen, rejected]) AS response FROM pairs WHERE split = 'train'")
    scored = scorer.score_many(stored["prompt"].to_list(), stored["response"].to_list())
    spread = torch.tensor([(one.heads[0] or (0.0,))[0] for one in scored], dtype=torch.float64).std()
    assert first(prompts, completions)[0] == pytest.approx((expected.heads[0] or (0.0,))[0] / float(spread), rel=1e-3)
    assert abs(scorer.trl(clip=1e-9)(prompts, completions)[0]) == pytest.approx(1e-9)
    scorer.close()
