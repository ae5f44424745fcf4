"""The strength of adaptation and the scale of its predictions, chosen on people's validation pairs."""

from __future__ import annotations

from dataclasses import dataclass

from micropref.cache.choices import TRAIN
from micropref.cache.errors import BadInput
from micropref.cache.vectors.groups import prompt_clusters
from micropref.heads.adaptation.few_shot import GRIDS, adapt_groups
from micropref.heads.choices import AdaptMethod
from micropref.heads.evaluation.metrics import nll
from micropref.heads.evaluation.scale import choose_scale
from micropref.pipeline.options import GroupedBy
from micropref.pipeline.people.episodes import Episode, read_episode
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
    found = _validation_groups(frozen, by, counts, seed, responses=False)
    if found is None:
        raise BadInput(
            f"data set {frozen.dataset.name!r}: no {by} has {counts[0]} train pairs to learn from and a validation "
            f"pair to choose the strength of `method` {method} by; choose another `method`"
        )
    episode, able = found
    return min(
        GRIDS[method],
        key=lambda strength: sum(
            nll(episode.rescored(adapt_groups(method, episode.shots.first(count), strength)).log_probability())
            for count in able
        ),
    )


def choose_scales(
    frozen: Frozen, by: GroupedBy, method: AdaptMethod, strength: float, counts: tuple[int, ...], seed: int
) -> list[float]:
    """Return what log-odds are multiplied by, for no shots and for each number of them.

    No shots have the run's scale. Learned weights are surer or less sure than the run's own, so they have one chosen
    on the same groups as `choose_strength`; the largest number there serves larger ones too. Without such groups it
    is 1.
    """
    try:
        found = _validation_groups(frozen, by, counts, seed, responses=method == "drm")
    except BadInput:  # no train split, or nobody is named there
        found = None
    if found is None:
        return [frozen.run.scale, *(1.0 for _ in counts)]
    episode, able = found
    learned = (adapt_groups(method, episode.shots.first(count), strength) for count in able)
    prompts = prompt_clusters(episode.scored.table)
    chosen = [choose_scale(episode.rescored(one).log_odds(), prompts) for one in learned]
    return [frozen.run.scale, *chosen, *(chosen[-1] for _ in counts[len(able) :])]


def _validation_groups(
    frozen: Frozen, by: GroupedBy, counts: tuple[int, ...], seed: int, *, responses: bool
) -> tuple[Episode, tuple[int, ...]] | None:
    """Return groups that learn from pairs to fit and are scored on validation pairs, and the counts they allow."""
    table = frozen.pairs_of(TRAIN, by)
    for place in range(len(counts), 0, -1):
        sample = sample_shots(table, by, counts[place - 1], seed, shared=False, pool=table["part"] == "fit")
        if sample.group:
            return read_episode(frozen, by, table, sample, responses=responses), counts[:place]
    return None
