"""What settings are chosen by: the NLL of validation pairs, each by itself or with the unit that made it known.

Letters: G settings, K heads, N validation pairs, M remembered training pairs, U units with validation pairs.

    log p(pair | its unit) = log Σ_k ρ_k σ(m_k),    ρ ∝ π(x) Π σ(m_k) over up to REMEMBERED of its training pairs
One pair alone hardly tells groups apart, so a mixture over units is chosen by this and not by π(x) alone. A unit
without training pairs is predicted by π(x).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from micropref.heads.evaluation.metrics import correct
from micropref.heads.fitting.losses import log_probability
from micropref.heads.fitting.minibatches import Batches
from micropref.heads.fitting.pair_source import SCORED_ROWS, Source, score
from micropref.heads.fitting.segments import Segments, run_places, spread
from micropref.heads.fitting.settings import PairTensors
from micropref.heads.fitting.stacked_weights import Stack
from micropref.heads.fitting.unit_minibatches import UnitFeed, units_of
from micropref.heads.mixture import Mixture

REMEMBERED = 16
"""Training pairs of a unit at most: more would hardly move its posterior."""


@dataclass(frozen=True, slots=True)
class Known:
    """Which training pairs tell of the units of validation pairs."""

    rows: torch.Tensor
    """[M] training pairs, those of a unit side by side."""
    unit: torch.Tensor
    """[M] their unit, from 0, ascending."""
    of_pair: torch.Tensor
    """[N] unit of each validation pair."""
    count: int
    """U."""

    @classmethod
    def of(cls, training: torch.Tensor, validation: torch.Tensor) -> Known:
        """Return the first REMEMBERED pairs of every unit, from the units' codes of all pairs."""
        units, of_pair = torch.unique(validation, return_inverse=True)
        place = torch.searchsorted(units, training).clamp_max(len(units) - 1)
        rows = torch.nonzero(units[place] == training).flatten()
        rows = rows[torch.argsort(place[rows], stable=True)]
        sizes = torch.bincount(place[rows], minlength=len(units))
        rows = rows[run_places(sizes) < REMEMBERED]
        return cls(rows, place[rows], of_pair, len(units))

    def evidence(self, stack: Stack, training: UnitFeed) -> torch.Tensor:
        """Return Σ_i log σ(m_ik) over every unit's remembered pairs [G, K, U]."""
        heads = stack.params["heads"]
        total = heads.new_zeros(*heads.shape[:2], self.count)
        start = 0
        for batch in training.differences(self.rows):
            unit = self.unit[start : start + len(batch.delta)]
            first, last = int(unit[0]), int(unit[-1])
            place = unit - first
            segments = Segments(torch.bincount(place), place).to(stack.device)
            evidence = F.logsigmoid(stack.margins(batch))
            total[:, :, first : last + 1] += segments.sums(evidence)
            start += len(unit)
        return total


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Validation pairs of a fit."""

    pairs: Batches
    known: Known | None = None
    """Of their units; None where every pair is predicted by itself."""
    training: UnitFeed | None = None
    """The pairs that tell of units."""

    def figures(self, stack: Stack) -> tuple[torch.Tensor, torch.Tensor]:
        """Return each setting's mean NLL and accuracy [G]."""
        evidence = None
        if self.known is not None and self.training is not None:
            evidence = self.known.evidence(stack, self.training)
            of_pair = self.known.of_pair.to(stack.device)
        losses, right, start = [], [], 0
        for batch in self.pairs.in_order():
            act = stack.forward(batch)
            logits, count = act.logits, len(batch.delta)
            if evidence is not None:
                logits = logits + spread(evidence, of_pair[start : start + count])
            log_p = log_probability(act.margins, torch.log_softmax(logits, 1))
            losses.append(-log_p.sum(1))
            right.append(correct(log_p).sum(1))
            start += count
        nll, accuracy = (torch.stack(sums).cpu().double().sum(0) / self.pairs.pairs for sums in (losses, right))
        return nll, accuracy


def known_weights(mixtures: Sequence[Mixture], train: Source, validation: Source) -> list[torch.Tensor]:
    """Return each mixture's log-weights [N, K] of validation pairs, their units known by their training pairs.

    Those pairs are read once for all mixtures. Raises ValueError where pairs have no units.
    """
    known = Known.of(units_of(train), units_of(validation))
    assert isinstance(train, PairTensors)
    heads = torch.cat([mixture.heads for mixture in mixtures])
    evidence = torch.zeros(known.count, len(heads))
    for part in torch.split(torch.arange(len(known.rows)), SCORED_ROWS):
        deltas = train.delta.index_select(0, known.rows[part]).to(heads.dtype)
        evidence.index_add_(0, known.unit[part], F.logsigmoid(deltas @ heads.T))
    own = torch.split(evidence, [mixture.k for mixture in mixtures], 1)
    priors = [score(mixture, validation)[1] for mixture in mixtures]
    return [torch.log_softmax(prior + of_unit[known.of_pair], 1) for prior, of_unit in zip(priors, own, strict=True)]
