"""The strength of adaptation, chosen on people's validation pairs."""

from __future__ import annotations

from dataclasses import dataclass

from micropref.cache.choices import TRAIN
from micropref.cache.errors import BadInput
from micropref.heads.adaptation.few_shot import GRIDS, adapt_groups
from micropref.heads.choices import AdaptMethod
from micropref.heads.evaluation.metrics import nll
from micropref.pipeline.options import GroupedBy
from micropref.pipeline.people.episodes import read_episode
from micropref.pipeline.people.frozen_run import Frozen
from micropref.pipeline.people.shot_sampling import sample_shots


@dataclass(frozen=True)
class Counted:
    """The weight of a person's answer."""

    beta: float
    """Exponent of its likelihood: 1 is Bayes' rule, less is for people who are not quite one group."""
    chosen_by: str
    """What β was chosen on, or why it was not."""


def count_answers(frozen: Frozen, by: GroupedBy, answers: int, seed: int, given: float | None) -> Counted:
    """Return β as given, or as chosen on validation people of a run's data after up to so many answers.

    It is 1 where the data has no such people, and never 0: an interview has to change something.
    """
    if given is not None:
        return Counted(given, "as asked for")
    counts = tuple(sorted({*(2**power for power in range(answers.bit_length())), answers}))
    try:
        beta = choose_strength(frozen, by, "tempered", counts, seed)
    except BadInput:
        return Counted(1.0, f"Bayes' rule: data set {frozen.dataset.name} has no validation {by}s to choose it on")
    least = min(strength for strength in GRIDS["tempered"] if strength)
    return Counted(max(beta, least), f"chosen on validation {by}s of {frozen.dataset.name}")


def choose_strength(frozen: Frozen, by: GroupedBy, method: AdaptMethod, counts: tuple[int, ...], seed: int) -> float:
    """Return the strength of the least NLL over validation pairs, averaged over the numbers of shots; none of test.

    A group learns from its pairs to fit and is scored on its validation pairs, prompts that the heads were not fitted
    on. Where no group has enough for the largest number of shots, the next smaller one takes its place. Raises
    BadInput where none has enough for any.
    """
    table = frozen.pairs_of(TRAIN, by)
    for place in range(len(counts), 0, -1):
        sample = sample_shots(table, by, counts[place - 1], seed, shared=False, pool=table["part"] == "fit")
        if sample.group:
            episode = read_episode(frozen, by, table, sample, responses=False)
            return min(
                GRIDS[method],
                key=lambda strength: sum(
                    nll(episode.rescored(adapt_groups(method, episode.shots.first(count), strength)).log_probability())
                    for count in counts[:place]
                ),
            )
    raise BadInput(
        f"data set {frozen.dataset.name!r}: no {by} has {counts[0]} train pairs to learn from and a validation pair "
        f"to choose the strength of `method` {method} by; choose another `method`"
    )
