"""Weights of people from their choices: those of `adapt`'s method shrunk, renewed with every choice.

K heads, n choices.
"""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime
from threading import Lock

import torch

from micropref.cache.choices import TRAIN
from micropref.cache.datasets import open_dataset
from micropref.cache.errors import BadInput
from micropref.cache.runs.data import data_is_elsewhere
from micropref.cache.runs.people import person_path, read_person
from micropref.cache.store import StoreFolder
from micropref.heads.adaptation.few_shot import Adapted, Shots, by_shrunk
from micropref.pipeline.people.frozen_run import Frozen
from micropref.pipeline.people.strength import choose_strength
from micropref.pipeline.rewards.people.feedback import Choice, Feedback
from micropref.pipeline.rewards.scoring.candidates import Rewarded
from micropref.pipeline.rewards.scoring.taste import RewardHeads

COUNTS = (1, 2, 4, 8, 16)
"""Numbers of choices that s² is chosen for."""
DEFAULT_STRENGTH = 0.3
"""s² where the run's data names nobody to choose it on: the middle of what is tried."""
LEAST_WEIGHT = 1e-300
"""What a head is taken to weigh at least, so that its log is finite."""


class People:
    """Who a run has weights for: by the choices of a file, else by what the run itself keeps of them."""

    def __init__(self, heads: RewardHeads, feedback: Feedback, strength: float) -> None:
        """Take the run, the file of choices, and s² of shrunk."""
        self._heads, self._feedback, self.strength = heads, feedback, strength
        self._learned: dict[str, Adapted] = {}
        self._lock = Lock()

    def __call__(self, user: str) -> Adapted | None:
        """Return what was learned of a person; None: nothing."""
        with self._lock:
            if user in self._learned:
                return self._learned[user]
        choices = self._feedback.of(user)
        if choices:
            learned = learned_of(choices, self.strength)
            with self._lock:
                self._learned[user] = learned
            return learned
        return None if self._hidden(user) else self._heads.kept(user)

    def learn(self, user: str, choice: Choice, choice_id: str | None = None) -> bool:
        """Keep a choice and renew the person's weights; return whether it is new. Raises Failure like the file."""
        new = self._feedback.add(user, choice, choice_id)
        self._drop(user)
        return new

    def forget(self, user: str) -> int:
        """Remove a person's choices and hide what the run keeps of them; return how many choices went."""
        gone = self._feedback.forget(user)
        self._drop(user)
        return gone

    def count(self, user: str) -> int:
        """Return how many choices of a person are kept in the file."""
        return self._feedback.count(user)

    def _drop(self, user: str) -> None:
        with self._lock:
            self._learned.pop(user, None)

    def _hidden(self, user: str) -> bool:
        """Say whether a person was forgotten after the run's file of them was written."""
        at = self._feedback.forgotten_at(user)
        if at is None:
            return False
        person = read_person(person_path(self._heads.run.folder / "people", user))
        return person is None or datetime.fromisoformat(person.created).timestamp() <= at


def choice_of(found: Rewarded) -> Choice:
    """Return the choice that the first of two scored responses was. Raises BadInput where either has no reward."""
    first, second = found.heads
    if first is None or second is None or found.weights is None:
        raise BadInput(f"this choice cannot be learned from: {next(filter(None, found.reasons))}")
    margins = tuple(a - b for a, b in zip(first, second, strict=True))
    return Choice(margins, tuple(math.log(max(weight, LEAST_WEIGHT)) for weight in found.weights))


def learned_of(choices: list[Choice], strength: float) -> Adapted:
    """Return the weights that n choices of a person come to: as `adapt --method shrunk` learns them, s² = strength."""
    margins = torch.tensor([one.margins for one in choices], dtype=torch.float64)[None]
    prior = torch.tensor([one.log_prior for one in choices], dtype=torch.float64)[None]
    return by_shrunk(Shots(margins, log_prior=prior), strength)


def choose_variance(store: StoreFolder, heads: RewardHeads) -> tuple[float, str]:
    """Return s² by validation people of the run's own data, and what it was chosen on."""
    if data_is_elsewhere(store, heads.run):
        return DEFAULT_STRENGTH, f"no data: run {heads.run.id} came without it"
    frozen = Frozen(
        replace(heads.fitted, reading=replace(heads.fitted.reading, units=None)),
        open_dataset(store, heads.run.record["data"]),
    )
    try:
        if TRAIN not in frozen.dataset.splits():
            raise BadInput("no train split")
        return choose_strength(frozen, "user", "shrunk", COUNTS, 0), f"validation users of {frozen.dataset.name}"
    except BadInput:
        return DEFAULT_STRENGTH, f"no validation users in {frozen.dataset.name}"
