"""Interviews: the next question is the one with the most expected information; answers are kept.

M questions of a pool, K heads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

import polars as pl
import torch
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from micropref.cache.choices import TEST
from micropref.cache.errors import BadInput
from micropref.cache.keys import sha256_hex
from micropref.cache.maintenance.uses import holds
from micropref.cache.runs.data import open_run_data
from micropref.cache.runs.forgotten import read_forgotten
from micropref.cache.runs.people import (
    Answer,
    Person,
    Preferred,
    check_person_name,
    person_path,
    read_person,
    write_person,
)
from micropref.cache.runs.records import Run
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.pair_features import response_columns
from micropref.heads.adaptation.acquisition import information
from micropref.heads.methods.base import Scores
from micropref.pipeline.people.frozen_run import Frozen, open_frozen
from micropref.pipeline.people.strength import count_answers

Reply = Literal["1", "2", "s", "q"]
"""The first response is preferred, the second, neither; or no more questions."""
REPLIES: tuple[Reply, ...] = get_args(Reply)
Stopped = Literal["n", "threshold", "quit", "pool"]
"""All questions asked; too little information in the next one; ended by the person; no questions left."""


@dataclass(frozen=True)
class AskOptions:
    """Options of `ask`."""

    user: str
    """User to interview: any name; resumes earlier answers."""
    split: str = TEST
    """Split of the pool that questions are from; heads know the answers of train."""
    n: int = 10
    """Questions at most."""
    threshold: float = 0.01
    """Stop when the expected information falls below so many nats."""
    beta: float | None = None
    """Weight of an answer: 1 is Bayes' rule; None: chosen on validation users of the run's own data."""
    seed: int = 0
    """Seed of which response is shown first."""

    def __post_init__(self) -> None:
        if not self.user:
            raise BadInput("user is empty: expected a name to keep the answers under")
        check_person_name(self.user)
        if self.n < 1:
            raise BadInput(f"n is {self.n}: expected at least 1")
        for name in ("threshold", "beta"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise BadInput(f"{name} is {value}: expected a finite number of at least 0")


@dataclass(frozen=True)
class Question:
    """What a person is shown."""

    number: int
    """From 1, in this interview."""
    pair_id: str
    prompt: str
    first: str
    second: str
    first_is_chosen: bool
    """Whether the first response is the one that was chosen by whoever the pair is from: never shown."""
    information: float
    """Expected information about the person's group, in nats."""
    weights: tuple[float, ...]
    """[K] before the answer, averaged over the pool."""


@dataclass(frozen=True)
class Asked:
    """The result of `ask`."""

    run: str
    """The run whose heads are weighed."""
    user: str
    data: str
    """The pool."""
    split: str
    beta: float
    """Weight of an answer."""
    beta_chosen_by: str
    resumed: int
    """Answers from earlier interviews."""
    questions: list[dict[str, object]]
    """One row for each answered question: pair_id, prompt, reply, information, weights [K] after it."""
    stopped: Stopped
    next_information: float | None
    """Expected information of the next question, in nats; None where there is none."""
    weights: tuple[float, ...]
    """[K] at the end, averaged over the pool."""
    file: str | None
    """The person's file; None where nothing was ever answered."""


class Interview:
    """A pool of questions, and what a person has answered so far."""

    def __init__(self, frozen: Frozen, options: AskOptions, beta: float) -> None:
        """Score the pool with the heads, and load the person's earlier answers, each with weight β.

        Raises BadInput where those were about other pairs, Failure where the person's file is damaged.
        """
        self.frozen, self.options, self.beta = frozen, options, beta
        self.folder = frozen.run.folder / "people"
        known = _known(frozen.run, options.user)
        self.answers: list[Answer] = [] if known is None else list(known.answers)
        self.table = self._pool()
        self._scores: Scores = frozen.score(options.split, self.table["pair_id"]).scores
        self._evidence = self._scores.margins.new_zeros(self._scores.margins.shape[1])
        self._row = {pair: row for row, pair in enumerate(self.table["pair_id"])}
        self._open = torch.ones(self.table.height, dtype=torch.bool)
        for answer in self.answers:
            self._learn(answer)

    def _pool(self) -> pl.DataFrame:
        """Return the questions: of pairs with equal responses the first one, or the one that was answered."""
        dataset, features = self.frozen.dataset, self.frozen.fitted.features
        keys = response_columns(self.frozen.fitted.reading.reward_input)
        texts = ["pair_id", "prompt_id", "prompt", "chosen", "rejected"]
        table = dataset.linked_pairs(features.id, self.options.split, [*texts, *keys]).select(texts)
        answered = [answer.pair_id for answer in self.answers]
        missing = set(answered) - set(table["pair_id"])
        if missing:
            raise BadInput(
                f"{len(missing)} of the {len(answered)} earlier answers of {self.options.user!r} are about pairs that "
                f"are not in data set {dataset.name!r}, split {self.options.split!r}; give the `pool` and `split` they "
                f"are from, or remove {person_path(self.folder, self.options.user)} to start over"
            )
        before = pl.col("chosen") < pl.col("rejected")
        one, other = pl.when(before).then("chosen").otherwise("rejected"), pl.when(before).then("rejected")
        return (
            table.sort(~pl.col("pair_id").is_in(answered), maintain_order=True)
            .with_columns(one=one, other=other.otherwise("chosen"))
            .unique(["prompt_id", "one", "other"], keep="first", maintain_order=True)
        )

    def _learn(self, answer: Answer) -> None:
        row = self._row[answer.pair_id]
        self._open[row] = False
        if answer.preferred != "neither":
            sign = 1 if answer.preferred == "chosen" else -1
            self._evidence = self._evidence + F.logsigmoid(sign * self._scores.margins[row])

    def _log_weights(self) -> torch.Tensor:
        """Return the log of the heads' weights for each question [M, K]."""
        return torch.log_softmax(self._scores.log_weights + self.beta * self._evidence, 1)

    def weights(self) -> tuple[float, ...]:
        """Return the heads' weights [K] as they are now, averaged over the pool."""
        return tuple(self._log_weights().exp().mean(0).tolist())

    def next(self, number: int) -> Question | None:
        """Return the question with the most expected information; None where all were asked."""
        if not self._open.any():
            return None
        worth = information(self._scores.margins, self._log_weights(), self.beta)
        row = int(torch.where(self._open, worth, -torch.inf).argmax())
        pair_id, _, prompt, chosen, rejected, *_ = self.table.row(row)
        first = _first_is_chosen(self.options, pair_id)
        shown = (chosen, rejected) if first else (rejected, chosen)
        return Question(number, pair_id, prompt, *shown, first, float(worth[row]), self.weights())

    def answer(self, question: Question, reply: Reply) -> None:
        """Learn from a reply to a question, and keep it."""
        preferred: Preferred = "neither"
        if reply in ("1", "2"):
            preferred = "chosen" if (reply == "1") == question.first_is_chosen else "rejected"
        self.answers.append(Answer(question.pair_id, preferred))
        self._learn(self.answers[-1])
        self.save()

    def save(self) -> Path:
        """Write the person's file and return it."""
        dataset, split = self.frozen.dataset, self.options.split
        person = Person(
            name=self.options.user,
            grouped_by="user",
            run=self.frozen.run.id,
            features=self.frozen.fitted.features.id,
            data=dataset.name,
            split=split,
            data_digest=dataset.digest(split),
            method="ask",
            strength=self.beta,
            answers=tuple(self.answers),
            weights=tuple(torch.softmax(self.beta * self._evidence, 0).tolist()),
            scale=None,
            routed=True,
            combine=self._scores.combine,
            created=datetime.now(UTC).isoformat(timespec="microseconds"),
        )
        return write_person(self.folder, person)


def _known(run: Run, user: str) -> Person | None:
    """Return a person whose answers go on; None: nobody yet, or nobody since the run was told to forget them.

    Raises BadInput where choices that a server recorded would be lost, Failure where a file is damaged.
    """
    path = person_path(run.folder / "people", user)
    person, forgotten_at = read_person(path), read_forgotten(run.folder).when(user)
    if person is None or (forgotten_at is not None and person.at <= forgotten_at):
        return None
    if person.recorded is not None:
        raise BadInput(
            f"user is {user!r}: run {run.id} knows this user by {person.recorded.count} choices of "
            f"{person.recorded.source}, which an interview would replace; give another `user`, or remove {path}"
        )
    return person


@holds(run="run_id", data="pool")
def ask(
    store: StoreFolder, run_id: str, pool: str | None, options: AskOptions, respond: Callable[[Question], Reply]
) -> Asked:
    """Interview a person about a pool's pairs, by default the run's own data set; every answer is kept at once.

    Raises BadInput where the run has nothing to weigh, or earlier answers are of another pool.
    """
    frozen = open_frozen(store, run_id, pool)
    own = replace(frozen, dataset=open_run_data(store, frozen.run))
    counted = count_answers(own, "user", options.n, options.seed, options.beta)
    interview = Interview(frozen, options, counted.beta)
    resumed = len(interview.answers)
    rows: list[dict[str, object]] = []
    stopped: Stopped = "n"
    question = interview.next(1)
    while len(rows) < options.n:
        if question is None:
            stopped = "pool"
            break
        if question.information < options.threshold:
            stopped = "threshold"
            break
        reply = respond(question)
        if reply == "q":
            stopped = "quit"
            break
        interview.answer(question, reply)
        answered = {"pair_id": question.pair_id, "prompt": question.prompt, "reply": reply}
        rows.append({**answered, "information": question.information, "weights": interview.weights()})
        question = interview.next(len(rows) + 1)
    return Asked(
        run=frozen.run.id,
        user=options.user,
        data=frozen.dataset.name,
        split=options.split,
        beta=counted.beta,
        beta_chosen_by=counted.chosen_by,
        resumed=resumed,
        questions=rows,
        stopped=stopped,
        next_information=None if question is None else question.information,
        weights=interview.weights(),
        file=str(interview.save()) if interview.answers else None,
    )


def _first_is_chosen(options: AskOptions, pair_id: str) -> bool:
    """Choose at random, the same way whenever this person is asked this question under this seed."""
    return int(sha256_hex(f"{options.seed} {options.user} {pair_id}")[0], 16) < 8
