"""`best-of`: what choosing the best of n responses gains, by the reward that chooses and by one that does not.

n responses are drawn of a prompt's N. Gains are in standard deviations of a prompt's rewards, so that the two compare:
where the reward that chooses goes on rising and the other does not, the first is over-optimised.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import torch

from micropref.cache.errors import BadInput
from micropref.cache.maintenance.uses import holds
from micropref.cache.store import StoreFolder
from micropref.heads.evaluation.best_of import best_of_values, divergence
from micropref.heads.evaluation.intervals import limits, mean_intervals
from micropref.pipeline.progress import Announce, progress_bar
from micropref.pipeline.rewards.scoring.candidates import Rewarded
from micropref.pipeline.rewards.scoring.grouping import candidates_of, followed, grouped, unused_warnings
from micropref.pipeline.rewards.scoring.options import BackboneOptions
from micropref.pipeline.rewards.scoring.rows import AskedRow, asked_rows
from micropref.pipeline.rewards.scoring.scorer import ScoringEngine
from micropref.pipeline.rewards.scoring.shared_vectors import engines_of
from micropref.pipeline.rewards.scoring.taste import RewardHeads, Taste

SIZES = (1, 2, 4, 8, 16, 32, 64)
"""n, where none are given: as far as every prompt has responses."""
TOGETHER = 16
"""Prompts that one run scores before the other does, which finds their vectors then."""


@dataclass(frozen=True)
class BestOfOptions:
    """Options of `best-of`."""

    taste: Taste = field(default_factory=Taste)
    """By whose taste the run chooses, for rows that name nobody themselves."""
    held_out_taste: Taste | None = None
    """The same of the run that does not choose; None: that of the other, as far as it can follow it."""
    sizes: tuple[int, ...] | None = None
    """n; None: powers of two up to 64, as far as every prompt has responses."""
    backbone: BackboneOptions = field(default_factory=BackboneOptions)
    """How the backbone is loaded."""

    def __post_init__(self) -> None:
        if self.sizes is not None and (not self.sizes or min(self.sizes) < 1):
            raise BadInput(f"n is {','.join(map(str, self.sizes))}: expected numbers of at least 1")


@dataclass(frozen=True)
class BestOfSize:
    """The best of n responses."""

    n: int
    divergence: float
    """KL divergence of the best of n from one response, in nats."""
    gain: float
    """Mean over prompts of its reward less that of one response, in standard deviations of a prompt's rewards."""
    low: float | None
    """Lower limit of the 95 % interval over prompts."""
    high: float | None
    held_out_gain: float
    """The same by the reward that does not choose."""
    held_out_low: float | None
    held_out_high: float | None


@dataclass(frozen=True)
class BestOfReport:
    """What choosing the best of n responses gains."""

    run: str
    """The run that chooses."""
    held_out: str
    """The run that does not."""
    prompts: int
    """Prompts that the gains are means over."""
    responses: int
    """Responses to them with a reward of both runs."""
    too_few: int
    """Prompts left out because they have fewer such responses than the largest n, or one reward for all."""
    without_reward: dict[str, int]
    """Why responses have no reward of one run or the other -> how many."""
    agreement: float
    """Share of prompts of whose responses both runs name the same the best."""
    sizes: list[BestOfSize]
    """One for each n."""


@holds(run="run_id")
def best_of_curve(
    store: StoreFolder,
    run_id: str,
    held_out: str,
    source: str,
    options: BestOfOptions,
    announce: Announce = lambda _: None,
) -> BestOfReport:
    """Choose the best of n responses by a run, and value them by another.

    Raises BadInput where either gives no rewards, the file holds no responses, or no prompt has enough of them.
    """
    chooser, judge = engines_of(store, run_id, held_out, options.backbone, announce)
    try:
        both = _Both(chooser, judge, options)
        with progress_bar(None, "scoring", "response") as advance:
            for count in both.read(source):
                advance(count)
    finally:
        chooser.close()
        judge.close()
    for engine, counts in ((chooser, both.unused[0]), (judge, both.unused[1])):
        for line in unused_warnings(counts, engine.heads.run.id):
            announce(line)
    sizes = options.sizes or tuple(size for size in SIZES if size <= min(map(len, both.rewards), default=0))
    used = [one for one in both.rewards if len(one) >= max(sizes, default=2) and bool((one.std(0) > 0).all())]
    if not used:
        most = max(map(len, both.rewards), default=0)
        raise BadInput(
            f"{source}: no prompt has {max(sizes, default=2)} responses with different rewards (the most is {most}); "
            "give the responses to one prompt in one row, or in rows next to each other"
        )
    return BestOfReport(
        run=chooser.heads.run.id,
        held_out=judge.heads.run.id,
        prompts=len(used),
        responses=sum(map(len, used)),
        too_few=len(both.rewards) - len(used),
        without_reward=dict(both.reasons.most_common()),
        agreement=sum(int(one[:, 0].argmax() == one[:, 1].argmax()) for one in used) / len(used),
        sizes=_gains(used, sizes),
    )


class _Both:
    """Scores every prompt's responses by both runs."""

    def __init__(self, chooser: ScoringEngine, judge: ScoringEngine, options: BestOfOptions) -> None:
        judging = options.held_out_taste or _as_far_as_followed(options.taste, judge.heads)
        self._engines, self._tastes = (chooser, judge), (options.taste, judging)
        for engine, taste in zip(self._engines, self._tastes, strict=True):
            engine.heads.check_given(taste)
        if chooser.heads.run.id == judge.heads.run.id and options.taste == judging:
            raise BadInput(
                f"held_out is {judge.heads.run.id}, the run that chooses, by the same weights: give another run, or "
                "other heads of this one with `weights` and `held_out_weights`"
            )
        self.unused: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
        self.rewards: list[torch.Tensor] = []
        """Of each prompt [N, 2]: rewards by the run that chooses, and by the other."""
        self.reasons: Counter[str] = Counter()

    def read(self, source: str) -> Iterator[int]:
        """Score a file's prompts; yield how many responses were done."""
        groups = grouped(asked_rows(source, Taste()), by_prompt=True)
        while some := list(islice(groups, TOGETHER)):
            for group, first, second in zip(some, self._scored(0, some), self._scored(1, some), strict=True):
                self._add(group, first, second)
                yield len(first.rewards)

    def _scored(self, at: int, groups: list[list[AskedRow]]) -> list[Rewarded]:
        """Return the rewards of groups by one of the two runs."""
        engine, given, counts = self._engines[at], self._tastes[at], self.unused[at]
        asked = [candidates_of(group) for group in groups]
        tastes = [given.of_row(one.taste.context, one.taste.user) for one in asked]
        mine = [replace(one, taste=taste) for one, taste in zip(asked, tastes, strict=True)]
        return engine.score([followed(one, engine.heads, given, counts) for one in mine])

    def _add(self, group: list[AskedRow], first: Rewarded, second: Rewarded) -> None:
        if group[0].candidates is None:
            self.reasons[group[0].reason or "cannot be read"] += 1
            return
        reasons = (one or other for one, other in zip(first.reasons, second.reasons, strict=True))
        self.reasons.update(reason for reason in reasons if reason is not None)
        pairs = [pair for pair in zip(first.rewards, second.rewards, strict=True) if None not in pair]
        self.rewards.append(torch.tensor(pairs, dtype=torch.float64).reshape(-1, 2))


def _as_far_as_followed(taste: Taste, heads: RewardHeads) -> Taste:
    context = taste.context if heads.reads_contexts else None
    return replace(taste, context=context, user=taste.user if heads.knows_people else None)


def _gains(rewards: list[torch.Tensor], sizes: Sequence[int]) -> list[BestOfSize]:
    """Return the gains of the best of n over one response, means over prompts [N, 2] with intervals."""
    spread = torch.stack([one.var(0) for one in rewards]).mean(0).sqrt()
    values = torch.stack([best_of_values(one[:, 0], one[:, 1], [1, *sizes]) for one in rewards])  # [prompts, 1 + S, 2]
    gains = (values[:, 1:] - values[:, :1]) / spread
    found = mean_intervals(gains.flatten(1), {"prompts": torch.arange(len(gains))})
    mean, low, high = (part.reshape(len(sizes), 2).T.tolist() for part in (found.mean, found.low, found.high))
    low, high = ([limits(torch.tensor(side)) for side in part] for part in (low, high))
    return [
        BestOfSize(size, divergence(size), mean[0][at], low[0][at], high[0][at], mean[1][at], low[1][at], high[1][at])
        for at, size in enumerate(sizes)
    ]
