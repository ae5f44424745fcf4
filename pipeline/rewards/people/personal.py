"""Weights of people from their choices: those of `adapt`'s method shrunk, renewed with every choice.

K heads, n choices.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from contextlib import suppress
from dataclasses import replace
from threading import Lock

import torch

from micropref.cache.errors import BadInput, Failure
from micropref.cache.maintenance.uses import hold_alone
from micropref.cache.runs.forgotten import Forgotten, read_forgotten, write_forgotten
from micropref.cache.runs.records import Run
from micropref.heads.adaptation.few_shot import Adapted, Shots, by_shrunk
from micropref.pipeline.rewards.people.feedback import Choice, Extent, Feedback
from micropref.pipeline.rewards.scoring.candidates import Rewarded
from micropref.pipeline.rewards.scoring.taste import RewardHeads

KEPT_PEOPLE = 10_000
"""People whose weights are kept in memory; those of others are learned again when they are asked for."""
LEAST_WEIGHT = 1e-300
"""What a head is taken to weigh at least, so that its log is finite."""


class People:
    """Who a run has weights for: by the choices of a file, or by what the run itself keeps where that is newer."""

    def __init__(self, heads: RewardHeads, feedback: Feedback, strength: float) -> None:
        """Take the run, the file of choices, and s² of shrunk."""
        self._heads, self._feedback, self.strength = heads, feedback, strength
        self._learned: OrderedDict[str, tuple[Extent, Adapted]] = OrderedDict()
        self._lock = Lock()

    def __call__(self, user: str) -> Adapted | None:
        """Return what was learned of a person; None: nothing."""
        forgotten_at = self.forgotten_at(user)
        extent = self._feedback.extent(user, forgotten_at)
        kept = self._heads.kept.newest(user, forgotten_at)
        if extent is None or (kept is not None and kept.at > extent.at):
            return None if kept is None else kept.adapted
        with self._lock:
            known = self._learned.get(user)
        if known is not None and known[0] == extent:
            return known[1]
        # Others may add or forget meanwhile: then what is learned is kept under an extent that nobody asks for again.
        choices = self._feedback.of(user, forgotten_at)
        if not choices:
            return self(user)
        learned = learned_of([choices], self.strength)[0]
        with self._lock:
            self._learned[user] = (extent, learned)
            self._learned.move_to_end(user)
            if len(self._learned) > KEPT_PEOPLE:
                self._learned.popitem(last=False)
        return learned

    def forgotten_at(self, user: str) -> float | None:
        """Return when a person was forgotten last, here or by the run itself, in seconds since 1970; None: never."""
        times = (self._feedback.forgotten_at(user), self._heads.kept.forgotten_at(user))
        return max((at for at in times if at is not None), default=None)

    def learn(self, user: str, choice: Choice, choice_id: str | None = None) -> bool:
        """Keep a choice and renew the person's weights; return whether it is new. Raises Failure like the file."""
        return self._feedback.add(user, choice, choice_id)

    def forget(self, user: str) -> int:
        """Remove a person's choices and hide what the run keeps of them; return how many choices went.

        The run is told too, so that commands hide the person at once, not only where this file is read.
        """
        try:
            return self._feedback.forget(user)
        finally:
            with self._lock:
                self._learned.pop(user, None)
            with suppress(Failure):  # a store that is read-only: then the file of choices alone hides them
                hide(self._heads.run, self._feedback.forgotten())

    def count(self, user: str) -> int:
        """Return how many choices of a person are kept in the file."""
        extent = self._feedback.extent(user, self.forgotten_at(user))
        return 0 if extent is None else extent.count


def hide(run: Run, forgotten: Forgotten) -> None:
    """Have a run hide people; while an import runs that is left to it. Raises Failure where the disk refuses."""
    with hold_alone(run.folder / "people") as others:
        known = read_forgotten(run.folder)
        joined = known.joined(forgotten)
        if not others and joined != known:
            write_forgotten(run.folder, joined)


def choice_of(found: Rewarded) -> Choice:
    """Return the choice that the first of two scored responses was. Raises BadInput where either has no reward."""
    first, second = found.heads
    if first is None or second is None or found.weights is None:
        raise BadInput(f"this choice cannot be learned from: {next(filter(None, found.reasons))}")
    margins = tuple(a - b for a, b in zip(first, second, strict=True))
    if not any(margins):
        raise BadInput(
            "this choice cannot be learned from: every head rewards both responses alike, as it does a text twice"
        )
    return Choice(margins, tuple(math.log(max(weight, LEAST_WEIGHT)) for weight in found.weights))


def learned_of(people: list[list[Choice]], strength: float) -> list[Adapted]:
    """Return the weights that each person's choices come to: as `adapt --method shrunk` learns them, s² = strength.

    People with as many choices are learned together; what others chose changes nothing for one of them.
    """
    by_count: dict[int, list[int]] = {}
    for place, choices in enumerate(people):
        by_count.setdefault(len(choices), []).append(place)
    found: dict[int, Adapted] = {}
    for places in by_count.values():
        margins = torch.tensor([[one.margins for one in people[place]] for place in places], dtype=torch.float64)
        prior = torch.tensor([[one.log_prior for one in people[place]] for place in places], dtype=torch.float64)
        learned = by_shrunk(Shots(margins, log_prior=prior), strength)
        for row, place in enumerate(places):
            found[place] = replace(learned, log_weights=learned.log_weights[[row]])
    return [found[place] for place in range(len(people))]
