"""Interviews over stored runs: what is asked, learned and kept; policies replayed on recorded choices."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from micropref import cli
from micropref.cache.errors import BadInput, Failure
from micropref.cache.maintenance.verify import verify
from micropref.cache.runs.people import person_path, read_person
from micropref.cache.runs.records import open_run
from micropref.cache.store import StoreFolder
from micropref.pipeline.people.adapt import AdaptOptions, adapt
from micropref.pipeline.people.ask import Asked, AskOptions, Question, Reply, ask
from micropref.pipeline.people.ask_replay import ReplayOptions, replay_policies
from micropref.pipeline.people.frozen_run import open_frozen

Synthetic = Callable[..., str]
Planted = Callable[..., str]
WEIGHTS = (0.5, 0.3, 0.2)
"""Of the planted run: the taste of group a, that of b, and noise."""


def margins_of(store: StoreFolder, pairs: list[str]) -> np.ndarray:
    frozen = open_frozen(store, "planted", None)
    table = frozen.pairs_of("test", "attribute")
    scored = frozen.score("test", table["pair_id"])
    row = {pair: place for place, pair in enumerate(table["pair_id"])}
    return np.array([scored.scores.margins[row[pair]].tolist() for pair in pairs])


def answered(questions: list[Question], replies: str) -> Callable[[Question], Reply]:
    """Return a person who notes the questions and gives these replies."""
    left = iter(replies)

    def respond(question: Question) -> Reply:
        questions.append(question)
        return next(left)  # type: ignore[return-value]

    return respond


def interview(store: StoreFolder, replies: str, user: str = "ann", **options: Any) -> tuple[Asked, list[Question]]:
    questions: list[Question] = []
    settings = {"n": len(replies), "threshold": 0.0, **options}
    return ask(store, "planted", None, AskOptions(user, **settings), answered(questions, replies)), questions


@pytest.fixture
def pool(store: StoreFolder, synthetic: Synthetic, planted_run: Planted) -> StoreFolder:
    """Return a store with a planted run, whose pairs have texts of their own."""
    planted_run(store, synthetic(store, prompts=120))
    return store


def distinct_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every pair of the pool have its own responses: those of the synthetic store all read alike."""
    import polars as pl

    from micropref.cache.datasets import Dataset

    real = Dataset.linked_pairs

    def linked(self: Dataset, features_id: str, split: str, columns: list[str]) -> pl.DataFrame:
        frame = real(self, features_id, split, columns)
        if "chosen" in columns:
            frame = frame.with_columns(
                chosen=pl.format("chosen of {}", "pair_id"), rejected=pl.format("rejected of {}", "pair_id")
            )
        return frame

    monkeypatch.setattr(Dataset, "linked_pairs", linked)


def test_weights_are_those_of_bayes_rule_and_questions_the_most_telling(
    pool: StoreFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    distinct_texts(monkeypatch)
    asked, questions = interview(pool, "12s1", beta=0.5)
    assert [row["reply"] for row in asked.questions] == ["1", "2", "s", "1"]
    every = open_frozen(pool, "planted", None).pairs_of("test", "attribute")["pair_id"].to_list()
    right = 1 / (1 + np.exp(-margins_of(pool, every)))

    weights, left = np.array(WEIGHTS), set(every)
    for question, row in zip(questions, asked.questions, strict=True):
        worth = np.zeros(len(every))
        for p in (right, 1 - right):
            after = weights * p**0.5 / (weights * p**0.5).sum(1, keepdims=True)
            worth += (p @ weights) * (after * np.log(after / weights)).sum(1)
        best = max((every.index(pair) for pair in left), key=lambda place: worth[place])
        assert question.pair_id == every[best]
        assert question.information == pytest.approx(worth[best], abs=1e-6)
        left.remove(question.pair_id)
        if row["reply"] != "s":
            likelihood = right[best] if (row["reply"] == "1") == question.first_is_chosen else 1 - right[best]
            weights = weights * likelihood**0.5
            weights /= weights.sum()
        assert row["weights"] == pytest.approx(weights, abs=1e-5)
    person = read_person(Path(str(asked.file)))
    assert person is not None
    defaults = np.array(person.weights) * WEIGHTS
    assert defaults / defaults.sum() == pytest.approx(weights, abs=1e-5)
    assert (person.name, person.run, person.method, person.strength) == ("ann", "planted", "ask", 0.5)
    assert [answer.pair_id for answer in person.answers] == [question.pair_id for question in questions]
    assert person.answers[2].preferred == "neither"


def test_the_chosen_response_is_shown_first_half_the_time(pool: StoreFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    distinct_texts(monkeypatch)
    _, questions = interview(pool, "1" * 60)
    for question in questions:
        chosen, rejected = f"chosen of {question.pair_id}", f"rejected of {question.pair_id}"
        shown = (chosen, rejected) if question.first_is_chosen else (rejected, chosen)
        assert (question.first, question.second) == shown
    assert 18 <= sum(question.first_is_chosen for question in questions) <= 42


def test_an_answer_counts_what_validation_people_want(
    store: StoreFolder, synthetic: Synthetic, planted_run: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    distinct_texts(monkeypatch)
    planted_run(store, synthetic(store, users=4))
    asked, _ = interview(store, "1")
    adapted = adapt(store, "planted", None, AdaptOptions("user", (1,), "tempered"))
    assert (asked.beta, asked.beta_chosen_by) == (adapted.strength, "chosen on validation users of toy")
    person = read_person(Path(str(asked.file)))
    assert person is not None
    assert person.strength == asked.beta
    replayed = replay_policies(store, "planted", None, ReplayOptions("attribute", n=4, candidates=8))
    by_attribute = adapt(store, "planted", None, AdaptOptions("attribute", (4,), "tempered"))
    assert (replayed.beta, replayed.beta_chosen_by) == (by_attribute.strength, "chosen on validation attributes of toy")


def test_without_validation_people_an_answer_counts_as_bayes_rule_has_it(pool: StoreFolder) -> None:
    asked, _ = interview(pool, "1")
    assert (asked.beta, asked.beta_chosen_by.split(":")[0]) == (1.0, "Bayes' rule")


def test_a_known_person_goes_on_and_another_begins_anew(pool: StoreFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    distinct_texts(monkeypatch)
    whole, _ = interview(pool, "121", user="whole")
    first, _ = interview(pool, "12")
    second, _ = interview(pool, "1")
    assert (first.resumed, second.resumed) == (0, 2)
    alike = [question["pair_id"] for asked in (first, second) for question in asked.questions]
    person = read_person(Path(str(second.file)))
    assert person is not None
    assert [answer.pair_id for answer in person.answers] == alike
    assert alike[0] == whole.questions[0]["pair_id"]
    assert len(set(alike)) == 3
    assert interview(pool, "1", user="bob")[0].resumed == 0


def test_it_stops_when_the_next_question_tells_too_little(pool: StoreFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    distinct_texts(monkeypatch)
    asked, questions = interview(pool, "1" * 40, threshold=0.3)
    assert asked.stopped == "threshold"
    assert all(question.information >= 0.3 for question in questions)
    assert asked.next_information is not None
    assert asked.next_information < 0.3
    assert interview(pool, "1q1", user="bob")[0].stopped == "quit"
    assert interview(pool, "1", user="cat")[0].stopped == "n"


def test_equal_questions_are_asked_once(pool: StoreFolder) -> None:
    """All responses of the synthetic store read alike, so there is a question for each prompt."""
    prompts = open_frozen(pool, "planted", None).pairs_of("test", "attribute")["prompt_id"].n_unique()
    asked, questions = interview(pool, "s" * (prompts + 1))
    assert (asked.stopped, len(questions), asked.next_information) == ("pool", prompts, None)
    assert interview(pool, "1")[0].questions == []


def test_answers_about_other_pairs_are_refused(pool: StoreFolder, synthetic: Synthetic) -> None:
    interview(pool, "12")
    with pytest.raises(BadInput, match=r"2 of the 2 earlier answers of 'ann' .* split 'train'; give the `pool`"):
        interview(pool, "1", split="train")


def test_a_damaged_person_is_reported_by_ask_and_verify(pool: StoreFolder) -> None:
    asked, _ = interview(pool, "1")
    path = Path(str(asked.file))
    before = verify(pool)
    assert before.problems == []
    path.write_text(path.read_text().replace("0.", "1.", 1))
    with pytest.raises(Failure, match="damaged, changed or of another version"):
        interview(pool, "1")
    assert [line for line in verify(pool).problems if str(path) in line]


def test_adapt_writes_a_file_for_each_person(pool: StoreFolder, tmp_path: Path) -> None:
    adapted = adapt(pool, "planted", None, AdaptOptions("attribute", (2, 4)), tmp_path / "people")
    run = open_run(pool, adapted.run)
    assert len(list((tmp_path / "people").iterdir())) == len(run.record["groups"]) == 2
    for place, name in enumerate(run.record["groups"]):
        person = read_person(person_path(tmp_path / "people", name))
        assert person is not None
        assert person.weights == tuple(run.tensors()["weights"][place].tolist())
        margins = margins_of(pool, [answer.pair_id for answer in person.answers])
        likelihood = np.prod(1 / (1 + np.exp(-margins)), 0)
        assert person.weights == pytest.approx(likelihood / likelihood.sum(), abs=1e-5)
        assert (len(person.answers), person.method, person.run, person.routed) == (4, "hedge", "planted", True)
        assert person.data_digest == run.record["data_digest"]


def test_people_of_two_runs_are_not_mixed(pool: StoreFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = AdaptOptions("attribute", (2,))
    (tmp_path / "empty").mkdir()
    adapt(pool, "planted", None, options, tmp_path / "empty")
    with pytest.raises(BadInput, match="empty': it holds files already; give a new folder"):
        adapt(pool, "planted", None, options, tmp_path / "empty")
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="file': it is a file"):
        adapt(pool, "planted", None, options, tmp_path / "file")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("micropref.pipeline.people.person_files.write_person", interrupted)
    with pytest.raises(KeyboardInterrupt):
        adapt(pool, "planted", None, options, tmp_path / "new")
    assert {path.name for path in tmp_path.iterdir()} >= {"empty", "file"}
    assert not [path for path in tmp_path.iterdir() if "new" in path.name]


def test_nobody_is_no_person(tmp_path: Path) -> None:
    assert read_person(person_path(tmp_path, "ann")) is None


def test_asking_beats_random_questions_on_recorded_choices(pool: StoreFolder) -> None:
    options = ReplayOptions("attribute", n=4, candidates=20, draws=20)
    found = replay_policies(pool, "planted", None, options)
    cold = found.curve.filter(found.curve["answers"] == 0)
    assert cold["accuracy"].n_unique() == 1
    rows = {(row["policy"], row["answers"]): row for row in found.curve.iter_rows(named=True)}
    assert all(rows["ask", count]["nll"] < 0.9 * rows["random", count]["nll"] for count in (1, 2))
    assert rows["random", 3]["ahead"] == 0
    assert all(row["low"] <= row["accuracy"] <= row["high"] for row in rows.values())
    random = [rows["random", count]["accuracy"] for count in range(5)]
    for count, other in found.worth.items():
        reached = [place for place, accuracy in enumerate(random) if accuracy >= rows["ask", count]["accuracy"]]
        assert other == (min(reached) if reached else None)


def test_all_candidates_asked_are_what_adapt_learns_from(pool: StoreFolder) -> None:
    """After all candidates every policy knows the same, and what `adapt` knows from those as shots."""
    found = replay_policies(pool, "planted", None, ReplayOptions("attribute", n=6, candidates=6, beta=1.0, seed=3))
    last = found.curve.filter(found.curve["answers"] == 6)
    adapted = adapt(pool, "planted", None, AdaptOptions("attribute", (6,), "bayes", seed=3)).adaptation.row(
        -1, named=True
    )
    for row in last.iter_rows(named=True):
        assert row["nll"] == pytest.approx(adapted["nll"])
        assert (row["accuracy"], row["low"]) == (adapted["accuracy"], adapted["low"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (lambda: AskOptions(""), "user is empty"),
        (lambda: AskOptions("ann", n=0), "n is 0"),
        (lambda: AskOptions("ann", threshold=-1), "threshold is -1"),
        (lambda: AskOptions("ann", beta=math.nan), "beta is nan"),
        (lambda: ReplayOptions(n=9, candidates=4), "`n` is 9, `candidates` is 4"),
        (lambda: ReplayOptions(draws=0), "draws is 0"),
        (lambda: ReplayOptions(beta=-1), "beta is -1"),
    ],
)
def test_bad_options(options: Callable[[], Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        options()


def test_too_few_recorded_choices(pool: StoreFolder) -> None:
    with pytest.raises(BadInput, match=r"candidates is 500: none of the 2 groups by attribute"):
        replay_policies(pool, "planted", None, ReplayOptions("attribute", candidates=500))


def test_the_command(pool: StoreFolder, tmp_path: Path) -> None:
    answers = tmp_path / "answers.txt"
    words = ["ask", "planted", "--store", str(pool.root)]

    def invoke(*more: str, **options: Any) -> Any:
        return CliRunner().invoke(cli.app, [*words, *more], **options)

    answers.write_text("1\n\nS\n")
    done = invoke("--user", "ann", "--answers", str(answers), "--threshold", "0", "--json")
    report = json.loads(done.stdout)
    assert [row["reply"] for row in report["questions"]] == ["1", "s"]
    assert (report["stopped"], report["user"]) == ("quit", "ann")
    assert "--- 1 ---" in done.stderr
    typed = invoke("--user", "bob", "--n", "1", input="what\n2\n")
    assert "that was the last question" in typed.stdout
    assert typed.stderr.count("1, 2, s(kip) or q(uit)?") == 2
    gone = invoke("--user", "cat", input="").stdout
    assert "stopped by the person" in gone
    assert "no answer, so nothing is kept" in gone
    assert not person_path(open_run(pool, "planted").folder / "people", "cat").exists()
    answers.write_text("1\nx\n")
    refused = invoke("--user", "ann", "--answers", str(answers))
    assert refused.exit_code == 2
    assert f"{answers}:2: 'x' is no answer: expected 1, 2, s or q" in refused.stderr
    assert "user is empty" in invoke().stderr
    assert "--by, --draws: no effect without --replay" in invoke("--by", "user", "--draws", "2").stderr
    assert "--user: no effect with --replay" in invoke("--replay", "--user", "ann").stderr
    assert "--split is 'dev'" in invoke("--replay", "--split", "dev").stderr
    shown = invoke("--replay", "--by", "attribute", "--n", "2", "--candidates", "8").stdout
    assert shown.splitlines()[-1].split()[0] == "2"


def test_the_defaults_of_ask_are_those_of_the_modules() -> None:
    import inspect

    defaults = {name: parameter.default for name, parameter in inspect.signature(cli.ask).parameters.items()}
    asked, replayed = AskOptions("ann"), ReplayOptions()
    for name in ("split", "n", "threshold", "beta", "seed"):
        assert defaults[name] == getattr(asked, name), name
    for name in ("by", "split", "n", "candidates", "draws", "beta", "seed"):
        assert defaults[name] == getattr(replayed, name), name
