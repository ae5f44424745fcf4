"""Distributional preference learning: a reward is a distribution, so that a disagreement shows as its spread.

Source: Siththaranjan, Laidlaw, Hadfield-Menell, ICLR 2024, "Distributional Preference Learning: Understanding and
Accounting for Hidden Context in RLHF" (arXiv 2312.08358).
Letters: B pairs, D embedding width, O outputs of a response, S seeds; c chosen, r rejected.

    mean-variance: z = (μ_c − μ_r) / sqrt(s_c² + s_r²), s = softplus, P = Φ(z), loss −log Φ(z)
    categorical: 10 atoms evenly on [0, 1], P = Σ_{i>j} c_i r_j + ½ Σ_i c_i r_i, loss −log P + .1 Σ m̄ log m̄,
    m̄ the mean of all responses' distributions, so that atoms are used evenly

Departures: both are linear maps of the frozen embedding, where the authors train a language model; Φ is exact,
where they take softplus(−√(2π) z); every seed keeps the step of lowest validation NLL, of 40 looked at; mean-variance
starts at a tenth of the usual weights; a standard deviation is at least FLOOR, because scale is free and pairs that
agree drive it to 0. Predictions are the same for everybody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from micropref.heads.fitting.hardware import resolve_device
from micropref.heads.methods.adam import Recipe, Rows, averaged, descend
from micropref.heads.methods.base import MethodOptions, Model, Need, Pairs, Scores, TrainingData
from micropref.heads.methods.stacking import (
    Parts,
    checked,
    generators,
    network,
    one_seed,
    response_scale,
    run_network,
    stacked,
)

RECIPE = Recipe(lr=2e-3, steps=600, batch=2048, checks=40)
ATOMS = 10
FLOOR = 1e-3

LogProbability = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def log_phi(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """Return log Φ(z) [...] of both responses' mean and untransformed deviation [..., 2]."""
    deviations = [F.softplus(part[..., 1]) + FLOOR for part in (chosen, rejected)]
    log_p: torch.Tensor = torch.special.log_ndtr((chosen[..., 0] - rejected[..., 0]) / torch.hypot(*deviations))
    return log_p


def log_above(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """Return log P(chosen's atom > rejected's, or equal and a coin says so) [...] of logits [..., O]."""
    first, second = torch.softmax(chosen, -1), torch.softmax(rejected, -1)
    above = first.new_ones(first.shape[-1], first.shape[-1]).tril().fill_diagonal_(0.5)
    probability = (first @ above * second).sum(-1)
    return probability.clamp_min(torch.finfo(probability.dtype).tiny).log()


def negative_entropy(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """Return Σ m̄ log m̄ [S] of the mean distribution m̄ of all responses, from logits [S, B, O]."""
    mean = torch.softmax(torch.cat([chosen, rejected], 1), 2).mean(1)
    entropy: torch.Tensor = torch.special.entr(mean).sum(1)
    return -entropy


@dataclass(frozen=True, slots=True)
class DplModel:
    """A linear map to the parameters of a response's reward distribution."""

    parts: Parts
    """v0 [O, D] and b0 [O], in the units of the features as they were given."""
    log_p: LogProbability
    """Of the chosen and the rejected response's parameters."""

    def scores(self, pairs: Pairs) -> Scores:
        """Score pairs by the logit of P, from both tails in float64: neither rounds to 0."""
        parts = {name: part.double() for name, part in stacked(self.parts).items()}
        chosen, rejected = (run_network(parts, part.double())[0] for part in pairs.responses())
        logit = self.log_p(chosen, rejected) - self.log_p(rejected, chosen)
        return Scores.of_logit(logit.float())

    def state(self) -> Parts:
        """Return the map."""
        return dict(self.parts)


@dataclass(frozen=True, slots=True)
class _Family:
    """A family of reward distributions."""

    outputs: int
    """Parameters O of a response."""
    log_p: LogProbability
    """log P of the chosen and the rejected response's parameters [..., O]."""
    entropy: float
    """Weight of Σ m̄ log m̄ in the loss."""
    start: float = 1.0
    """Size of the initial weights, of the usual one."""


class _Dpl:
    """What both kinds share."""

    family: ClassVar[_Family]
    supervision: ClassVar[str] = "pairs"
    needs: ClassVar[frozenset[Need]] = frozenset({"responses"})
    options: ClassVar[frozenset[str]] = frozenset({"device"})

    def fit(self, data: TrainingData, options: MethodOptions, seeds: Sequence[int]) -> list[Model]:
        """Fit all seeds in one stack."""
        family, device = self.family, resolve_device(options.device)
        scale = response_scale(data.fitting)
        fitting, held_out = (
            [part.to(device) for part in pairs.responses()] for pairs in (data.fitting, data.validation)
        )

        def folded(parts: Parts) -> Parts:
            return {**parts, "v0": parts["v0"] / scale}

        def loss(parts: Parts, rows: Rows) -> torch.Tensor:
            chosen, rejected = (run_network(folded(parts), part[rows]) for part in fitting)
            nll = -family.log_p(chosen, rejected).mean(1)
            return nll + family.entropy * negative_entropy(chosen, rejected) if family.entropy else nll

        def validation(parts: Parts, rows: Rows) -> torch.Tensor:
            chosen, rejected = (run_network(folded(parts), part[rows]) for part in held_out)
            return -family.log_p(chosen, rejected).mean(1)

        start = network(generators(seeds), (fitting[0].shape[1], family.outputs))
        start = {name: family.start * part.to(device) for name, part in start.items()}
        mean = averaged(validation, len(held_out[0]))
        parts = folded(descend(start, loss, len(fitting[0]), RECIPE, mean))
        return [DplModel(one_seed(parts, seed), self.family.log_p) for seed in range(len(seeds))]

    def restore(self, state: Mapping[str, torch.Tensor]) -> DplModel:
        """Return the model of a saved map."""
        parts = checked(state, {"v0": "OD", "b0": "O"})
        if len(parts["b0"]) != self.family.outputs:
            raise ValueError(f"found {len(parts['b0'])} outputs, expected {self.family.outputs}")
        return DplModel(parts, self.family.log_p)


class DplMeanVariance(_Dpl):
    """Normal rewards; see the module."""

    name: ClassVar[str] = "dpl-mean-variance"
    title: ClassVar[str] = "DPL, mean and variance"
    # The best step comes early, and margins would still have the noise of a larger start.
    family = _Family(2, log_phi, entropy=0.0, start=0.1)


class DplCategorical(_Dpl):
    """Rewards on atoms; see the module."""

    name: ClassVar[str] = "dpl-categorical"
    title: ClassVar[str] = "DPL, categorical"
    family = _Family(ATOMS, log_above, entropy=0.1)
