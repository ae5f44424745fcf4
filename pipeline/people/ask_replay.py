"""Policies of asking, tried on recorded choices: held-out accuracy by the number of answers.

G people (or attributes, contexts), M recorded choices that may be asked for, T answers, N scored pairs, P policies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import polars as pl
import torch
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from micropref.cache.choices import TEST
from micropref.cache.errors import BadInput
from micropref.cache.maintenance.uses import holds
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.groups import sides_of
from micropref.heads.adaptation.acquisition import POLICIES, asked_in_order
from micropref.heads.adaptation.few_shot import Adapted
from micropref.heads.evaluation.intervals import Intervals, Sides, mean_intervals
from micropref.heads.evaluation.metrics import correct
from micropref.pipeline.options import GroupedBy, ShotsFrom
from micropref.pipeline.people.episodes import Episode, read_episode
from micropref.pipeline.people.frozen_run import Frozen, open_frozen
from micropref.pipeline.people.shot_sampling import sample_shots
from micropref.pipeline.people.strength import count_answers


@dataclass(frozen=True)
class ReplayOptions:
    """Options of `ask --replay`."""

    by: GroupedBy = "user"
    """Whose choices are one person's."""
    split: ShotsFrom = TEST
    """Split of the choices that may be asked for; pairs of the test split are scored either way."""
    n: int = 10
    """Answers at most."""
    candidates: int = 20
    """Recorded choices of each person that may be asked for; the rest, with other prompts, is scored."""
    draws: int = 1
    """How often each person's candidates are sampled again."""
    beta: float | None = None
    """Weight of an answer: 1 is Bayes' rule; None: chosen on validation people (attributes, contexts)."""
    seed: int = 0
    """Of the first sample, and of random questions."""

    def __post_init__(self) -> None:
        for name in ("n", "candidates", "draws"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} is {getattr(self, name)}: expected at least 1")
        if self.beta is not None and not (math.isfinite(self.beta) and self.beta >= 0):
            raise BadInput(f"beta is {self.beta}: expected a finite number of at least 0")
        if self.n > self.candidates:
            raise BadInput(
                f"`n` is {self.n}, `candidates` is {self.candidates}: more questions than candidates; "
                "lower `n` or raise `candidates`"
            )


@dataclass(frozen=True)
class ReplayedPolicies:
    """The result of `ask --replay`."""

    run: str
    data: str
    by: GroupedBy
    people: int
    """With enough choices."""
    left_out: int
    """With fewer choices than candidates, or none left to score."""
    candidates: int
    draws: int
    beta: float
    """Weight of an answer."""
    beta_chosen_by: str
    pairs: int
    """Scored, all samples together; the same for every policy and number of answers."""
    resampled: str
    """What intervals are over: users where named, and prompts."""
    clusters: dict[str, int]
    """How many there are of each."""
    curve: pl.DataFrame
    """One row for each policy and number of answers: accuracy with its interval, NLL, lead on random questions."""
    worth: dict[int, int | None]
    """Answers to `ask` → the fewest random answers of at least its accuracy; None: more than were tried."""


@holds(run="run_id", data="data")
def replay_policies(store: StoreFolder, run_id: str, data: str | None, options: ReplayOptions) -> ReplayedPolicies:
    """Let every policy ask for recorded choices, and score what is learned on pairs of other prompts.

    Raises BadInput where nobody has enough choices.
    """
    frozen = open_frozen(store, run_id, data)
    table, pool = frozen.shot_pool(options.split, options.by)
    counted = count_answers(frozen, options.by, options.n, options.seed, options.beta)
    found, tables, people, left_out = [], [], 0, 0
    for number in range(options.draws):
        seed = options.seed + number
        sample = sample_shots(table, options.by, options.candidates, seed, shared=False, pool=pool)
        people, left_out = len(set(sample.group)), len(sample.left_out)
        if not people:
            raise BadInput(_too_few(frozen, options, sample.left_out))
        episode = read_episode(frozen, options.by, table, sample, responses=False)
        found.append(_log_probabilities(episode, options.n, counted.beta, seed))
        tables.append(episode.scored.table)
    scored, log_probability = pl.concat(tables), torch.cat(found, 1)
    curve, intervals = _curve(log_probability, sides_of(scored))
    return ReplayedPolicies(
        run=frozen.run.id,
        data=frozen.dataset.name,
        by=options.by,
        people=people,
        left_out=left_out,
        candidates=options.candidates,
        draws=options.draws,
        beta=counted.beta,
        beta_chosen_by=counted.chosen_by,
        pairs=scored.height,
        resampled=" × ".join(intervals.clusters),
        clusters=intervals.clusters,
        curve=curve,
        worth=_worth(curve),
    )


def _too_few(frozen: Frozen, options: ReplayOptions, left_out: dict[str, int]) -> str:
    return (
        f"candidates is {options.candidates}: none of the {len(left_out)} groups by {options.by} of data set "
        f"{frozen.dataset.name!r} has as many pairs in split {options.split!r} and one of another prompt in {TEST!r} "
        f"(the most pairs: {max(left_out.values())}); give fewer, `split` train, or another `by`"
    )


def _log_probabilities(episode: Episode, answers: int, beta: float, seed: int) -> torch.Tensor:
    """Return log P of the scored choices [P, N, T + 1] after 0 to T answers, of β each, to each policy's questions."""
    shots = episode.shots
    assert shots.log_prior is not None
    by_policy = []
    for policy in POLICIES:
        asked = asked_in_order(policy, shots.margins, shots.log_prior, answers, beta, seed)
        log_likelihood = F.logsigmoid(shots.margins.gather(1, asked[:, :, None].expand(-1, -1, shots.margins.shape[2])))
        evidence = F.pad(beta * log_likelihood.cumsum(1), (0, 0, 1, 0))
        weighed = (Adapted(torch.log_softmax(after, 1), routed=True) for after in evidence.unbind(1))
        by_policy.append(torch.stack([episode.rescored(one).log_probability() for one in weighed], 1))
    return torch.stack(by_policy)


def _curve(log_probability: torch.Tensor, sides: Sides) -> tuple[pl.DataFrame, Intervals]:
    """Return the rows of all policies from log P [P, N, T + 1], and the intervals of their accuracies.

    `ahead` is the accuracy beyond random questions'.
    """
    right = correct(log_probability)
    random = POLICIES.index("random")
    ahead = right - right[random]
    counts = log_probability.shape[2]
    accuracy = mean_intervals(torch.cat([*right], 1), sides, "share")
    lead = mean_intervals(torch.cat([*ahead], 1), sides, "difference")
    shape = (2, len(POLICIES), counts)
    low, high = (torch.stack(ends).view(shape) for ends in ((accuracy.low, lead.low), (accuracy.high, lead.high)))
    # Nobody is ahead of themselves, nor of others before the first answer.
    low[1, random] = high[1, random] = low[1, :, 0] = high[1, :, 0] = 0.0
    rows: list[dict[str, Any]] = [
        {
            "policy": policy,
            "answers": count,
            "accuracy": float(right[place, :, count].mean()),
            "low": float(low[0, place, count]),
            "high": float(high[0, place, count]),
            "nll": -float(log_probability[place, :, count].mean()),
            "ahead": float(ahead[place, :, count].mean()),
            "ahead_low": float(low[1, place, count]),
            "ahead_high": float(high[1, place, count]),
        }
        for place, policy in enumerate(POLICIES)
        for count in range(counts)
    ]
    return pl.DataFrame(rows), accuracy


def _worth(curve: pl.DataFrame) -> dict[int, int | None]:
    """Return for each number of answers to `ask` the fewest random ones that are as good."""
    asked, random = (curve.filter(pl.col("policy") == policy)["accuracy"].to_list() for policy in ("ask", "random"))
    return {
        count: next((other for other, reached in enumerate(random) if reached >= accuracy), None)
        for count, accuracy in enumerate(asked)
        if count
    }
