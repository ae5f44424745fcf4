"""LoRe: a user's reward is a convex combination of K basis rewards, learned together with the users' weights.

Source: Bose et al. 2025, "LoRe: Personalizing LLMs via Low-Rank Reward Modeling" (arXiv 2504.14439).
Letters: N pairs, B pairs of a step, D embedding width, K basis rewards, U units, S seeds.

    logit_i = Δ_i · V softmax(a_u) / 100,   loss = Σ_u (1/n_u) Σ_{i∈u} −log σ(logit_i) + α Σ_b ‖V_b − v‖²

with V and a from N(0, 1), Adam at .5 for 1000 steps; v is a reward common to all. A new user learns only a_u.
Departures: units are attributes where the data names no users; v is the single reward, its L2 chosen on
validation pairs (the authors have the backbone's own head); α is the best of STRENGTHS by validation NLL with weights
of a seed of its own (the authors' 1e4 belongs to a penalty on cosines; their ‖V_b − v‖² has weight 0); steps take at
most 4096 pairs, so the learning rate falls along a cosine; an unknown unit gets the mean of the known units' weights,
and a new one starts there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from micropref.heads.fitting.hardware import resolve_device
from micropref.heads.fitting.scales import rms
from micropref.heads.methods.adam import Recipe, Rows, descend
from micropref.heads.methods.annotator_weights import UnitWeights, few_shot, pairs_of_units, per_unit
from micropref.heads.methods.base import MethodOptions, Model, Need, Pairs, Scores, TrainingData
from micropref.heads.methods.bradley_terry import Single
from micropref.heads.methods.stacking import Parts, checked, generators, normal, one_seed

RECIPE = Recipe(lr=0.5, steps=1000, batch=4096)
TEMPERATURE = 100.0
STRENGTHS = (1.0, 10.0, 100.0, 1000.0)
"""Candidates of α · 1e4 · N / U, which is the strength of a ridge on a head whose loss is a sum over pairs."""
PROBE_SEED = 0


@dataclass(frozen=True, slots=True)
class LoReModel:
    """Basis rewards and the units' weights of them."""

    heads: torch.Tensor
    """[K, D] columns of V / 100, in the units of the features as they were given."""
    weights: UnitWeights
    """Of known and unknown units."""

    def scores(self, pairs: Pairs) -> Scores:
        """Score pairs with their units' weights."""
        return Scores(pairs.delta @ self.heads.T, self.weights.of(pairs), "linear")

    def adapted(self, shots: Pairs) -> LoReModel:
        """Return the model for the shots' units, which learn weights of the frozen basis rewards."""
        margins = shots.delta @ self.heads.T
        own = few_shot(self.weights.unknown, shots, lambda weights: F.logsigmoid((weights * margins).sum(1)))
        return replace(self, weights=own)

    def state(self) -> Parts:
        """Return heads and weights."""
        return {"heads": self.heads, **self.weights.state()}


@dataclass(frozen=True, slots=True)
class Problem:
    """What is fitted, on the device. V is for features divided by their rms."""

    delta: torch.Tensor
    """[N, D] of pairs whose unit is known."""
    units: torch.Tensor
    """[N]"""
    share: torch.Tensor
    """[N] 1 / n_u"""
    anchor: torch.Tensor
    """[D] v"""
    validation: Pairs
    """Validation pairs on the CPU."""
    scale: float
    """The rms."""

    def start(self, k: int, seeds: Sequence[int]) -> Parts:
        """Return V as v [S, K, D] and a [S, U, K] to begin with."""
        own = generators(seeds)
        parts = {"v": normal(own, k, self.delta.shape[1]), "a": normal(own, int(self.units.max()) + 1, k)}
        return {name: part.to(self.delta.device) for name, part in parts.items()}

    def loss(self, parts: Parts, rows: Rows, alpha: torch.Tensor) -> torch.Tensor:
        """Return each seed's loss [S], a step's pairs standing for all; alpha is [S]."""
        margins = torch.einsum("bd,skd->sbk", self.delta[rows], parts["v"]) / (TEMPERATURE * self.scale)
        logits = (margins * torch.softmax(parts["a"], 2)[:, self.units[rows]]).sum(2)
        share = self.share[rows]
        nll = -(F.logsigmoid(logits) * share).sum(1) * (len(self.delta) / len(share))
        return nll + alpha * (parts["v"] - self.anchor).square().sum((1, 2))

    def fitted(self, k: int, seeds: Sequence[int], alphas: Sequence[float]) -> list[LoReModel]:
        """Return one model for each pair of seed and α."""
        alpha = torch.tensor(alphas, device=self.delta.device)
        parts = descend(self.start(k, seeds), lambda live, rows: self.loss(live, rows, alpha), len(self.delta), RECIPE)
        return [
            LoReModel(own["v"] / (TEMPERATURE * self.scale), UnitWeights.of_logits(own["a"]))
            for own in (one_seed(parts, seed) for seed in range(len(seeds)))
        ]

    def best_alpha(self, k: int) -> float:
        """Return the α of lowest validation NLL, every candidate fitted from one start."""
        per_head = len(self.delta) * TEMPERATURE**2 / (int(self.units.max()) + 1)
        alphas = [strength / per_head for strength in STRENGTHS]
        models = self.fitted(k, [PROBE_SEED] * len(alphas), alphas)
        nlls = [-model.scores(self.validation).log_probability().mean().item() for model in models]
        return alphas[nlls.index(min(nlls))]


class LoRe:
    """Low-rank reward modelling, see the module."""

    name: ClassVar[str] = "lore"
    title: ClassVar[str] = "LoRe"
    supervision: ClassVar[str] = "pairs with users"
    needs: ClassVar[frozenset[Need]] = frozenset({"units"})
    options: ClassVar[frozenset[str]] = frozenset({"k", "device"})

    def fit(self, data: TrainingData, options: MethodOptions, seeds: Sequence[int]) -> list[Model]:
        """Fit all seeds in one stack, with the α that a fit of its own found."""
        pairs = pairs_of_units(data, self.title)
        assert pairs.units is not None
        device = resolve_device(options.device)
        scale = rms(pairs.delta, "the difference of chosen and rejected")
        problem = Problem(
            delta=pairs.delta.to(device),
            units=pairs.units.to(device),
            share=per_unit(pairs.units).to(device),
            anchor=(_single_reward(data, options) * (TEMPERATURE * scale)).to(device),
            validation=data.validation,
            scale=scale,
        )
        return [*problem.fitted(options.k, seeds, [problem.best_alpha(options.k)] * len(seeds))]

    def restore(self, state: Mapping[str, torch.Tensor]) -> LoReModel:
        """Return the model of saved heads and weights."""
        parts = checked(state, {"heads": "KD", "known": "UK", "unknown": "K"})
        return LoReModel(parts["heads"], UnitWeights.from_state(parts))


def _single_reward(data: TrainingData, options: MethodOptions) -> torch.Tensor:
    """Return the weights [D] of one reward for all, the row `single` of comparisons."""
    return Single().fit(data, options, [0])[0].mixture.heads[0]
