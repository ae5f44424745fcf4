"""What it is worth to know who chose: held-out log-probabilities with and without the unit, on the same pairs.

Letters: N scored pairs, M pairs to fit, U units (users, attributes, contexts), K heads, C numbers of pairs.

Four predictions of each scored pair, from the same pairs to fit:
    single    σ(w · Δ), one reward for everybody
    nobody    Σ_k π_k σ(w_k · Δ), heads of groups of units with the groups' shares π
    unit      Σ_k ρ_uk σ(w_k · Δ),  ρ_u ∝ π Π σ(w_k · Δ)^β over pairs to fit of the unit
    other     the same with the pairs of another unit that has about as many
A mixture can beat one reward by being less sure, with nobody known, and anybody's pairs may tell which heads are good.
Knowing who chose is worth something where unit beats all three. If units do not matter, unit and other have the
same distribution, however heads were fitted: their difference is 0 in the mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from micropref.cache.errors import BadInput
from micropref.heads.adaptation.few_shot import GRIDS
from micropref.heads.evaluation.metrics import nll
from micropref.heads.fitting.fit import FitPlan, FitSetting, PairTensors, fit
from micropref.heads.fitting.segments import run_places
from micropref.heads.mixture import pair_log_probability

LEAST_STEPS = 1000
"""Minibatches of a fit at least, unless validation stops it: an unfinished fit is no baseline."""
OTHER_UNITS = 3
"""Other units that each unit is compared with."""


@dataclass(frozen=True, slots=True)
class DiagnosisPlan:
    """How the heads of a diagnosis are fitted."""

    k: int = 5
    """Groups that units may fall into, as many as there are units at most."""
    restarts: int = 4
    """Initialisations; the best by validation is kept."""
    device: str = "auto"
    """auto: cuda where there is one, else cpu."""
    seed: int = 0
    """Of the first restart, and of which pairs of a unit come first."""

    def __post_init__(self) -> None:
        for name, least in (("k", 2), ("restarts", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise BadInput(f"{name} is {getattr(self, name)}: expected at least {least}")


@dataclass(frozen=True, slots=True)
class Predictions:
    """Log P(chosen ≻ rejected) of the scored pairs, in nats."""

    single: torch.Tensor
    """[N] by one reward for everybody."""
    nobody: torch.Tensor
    """[N] by the heads of groups, the unit unknown."""
    unit: torch.Tensor
    """[N] the unit known by all its pairs to fit."""
    other_unit: torch.Tensor
    """[N] with the pairs of another unit; mean over several."""
    by_count: dict[int, torch.Tensor]
    """Pairs to fit of each unit (all it has, where fewer) → [N] the unit known by these alone, with a β for them."""
    beta: float
    """Weight of a pair of the unit, chosen on validation pairs; 0: nothing."""

    @property
    def gains(self) -> torch.Tensor:
        """Return what knowing the unit adds to the log-probability over single, nobody and other [N, 3]."""
        return torch.stack([self.unit - self.single, self.unit - self.nobody, self.unit - self.other_unit], 1)


def predict_units(
    fitting: PairTensors, validation: PairTensors, scored: PairTensors, counts: tuple[int, ...], plan: DiagnosisPlan
) -> Predictions:
    """Fit a single reward and the heads of groups, and predict pairs of other prompts with units known and unknown.

    Codes of units are those of the pairs to fit, 0 to U − 1. Nothing is chosen on scored pairs.
    """
    grouped = [
        FitSetting("static", plan.k, seed=plan.seed + restart, latent="user") for restart in range(plan.restarts)
    ]
    (single,) = fit(fitting, validation, [FitSetting("single", 1)], FitPlan(solver="scikit-learn"))
    candidates = fit(fitting, validation, grouped, FitPlan(device=plan.device).reaching(LEAST_STEPS, fitting.pairs))
    mixture = min(candidates, key=lambda one: one.validation_nll).mixture
    right = F.logsigmoid(mixture.margins(fitting.delta))
    log_prior = mixture.log_weights(None, 1)[0]
    units, rank = _units(fitting), _ranks(_units(fitting), plan.seed)

    def log_probability(
        pairs: PairTensors, count: int | None, beta: float, taken_for: torch.Tensor | None = None
    ) -> torch.Tensor:
        kept = slice(None) if count is None else rank < count
        evidence = right.new_zeros(int(units.max()) + 1, plan.k).index_add_(0, units[kept], right[kept])
        evidence = evidence if taken_for is None else evidence[taken_for]
        log_weights = torch.log_softmax(log_prior + beta * evidence[_units(pairs)], 1)
        return pair_log_probability(mixture.margins(pairs.delta), log_weights).double()

    def chosen(count: int | None) -> float:
        return min(GRIDS["tempered"], key=lambda strength: nll(log_probability(validation, count, strength)))

    beta = chosen(None)
    taken = [log_probability(scored, None, beta, other) for other in _other_units(torch.bincount(units))]
    return Predictions(
        single=single.mixture.log_probability(scored.delta, None).double(),
        nobody=log_probability(scored, None, 0.0),
        unit=log_probability(scored, None, beta),
        other_unit=torch.stack(taken).mean(0),
        by_count={count: log_probability(scored, count, chosen(count)) for count in counts},
        beta=beta,
    )


def _other_units(sizes: torch.Tensor) -> list[torch.Tensor]:
    """Return other units [U] of about each one's size, several times. Raises ValueError where there is no other."""
    count = len(sizes)
    if count < 2:
        raise ValueError(f"{count} units: expected two or more, to compare a unit with another one")
    order, place = torch.argsort(sizes, stable=True), torch.arange(count)
    found = []
    for step in range(1, min(OTHER_UNITS, count // 2) + 1):
        neighbour = torch.where(place + step < count, place + step, place - step)
        other = torch.empty_like(order)
        other[order] = order[neighbour]
        found.append(other)
    return found


def _ranks(units: torch.Tensor, seed: int) -> torch.Tensor:
    """Return the place [M] of each pair among its unit's pairs in a random order."""
    shuffled = torch.randperm(len(units), generator=torch.Generator().manual_seed(seed))
    order = shuffled[torch.argsort(units[shuffled], stable=True)]
    sizes = torch.bincount(units)
    rank = torch.empty_like(units)
    rank[order] = run_places(sizes)
    return rank


def _units(pairs: PairTensors) -> torch.Tensor:
    assert pairs.units is not None
    return pairs.units
