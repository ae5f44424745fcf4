"""PAL: people are points in the space of responses, and prefer what lies nearer to theirs.

Source: Chen et al. 2024, "PAL: Pluralistic Alignment Framework for Learning from Heterogeneous Preferences"
(arXiv 2406.08469).
Letters: S seeds, B pairs, D embedding width, K prototypes, U units, L width of the learned space, H hidden units.

    margin = ‖f(e_r) − a‖ − ‖f(e_c) − a‖, P = σ(margin)
    A: a_u = Σ_k softmax(b_u)_k p_k, prototypes p_k learned
    B: a_u(x) = Σ_k softmax(b_u)_k g_k(e(x)), a network g_k of the prompt for every prototype

Departures: f and g_k have one hidden layer of 64 rectified units and L = 32 (the authors: two layers as wide as the
backbone, which they may tune as well); the loss is Bradley-Terry's (their distance form has a hinge loss, their
published settings take the angle); A's f alone maps a person's point, where theirs adds a residual network; 600 steps
of 256 pairs at learning rates of .0002 for networks and .1 for prototypes and b (the published ratio is 50: with few
pairs a unit such networks learn pairs by heart before units differ), every seed keeps the step of lowest validation
NLL; units are attributes where the data names no users; an unknown unit gets the mean of the known units' weights,
and a new one starts there and learns only b_u, as LoRe does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from micropref.heads.fitting.hardware import resolve_device
from micropref.heads.fitting.scales import rms
from micropref.heads.methods.adam import Recipe, Rows, averaged, descend
from micropref.heads.methods.annotator_weights import UnitWeights, few_shot, known_pairs, pairs_of_units
from micropref.heads.methods.base import MethodOptions, Model, Need, Pairs, Scores, TrainingData
from micropref.heads.methods.stacking import (
    Parts,
    checked,
    generators,
    network,
    normal,
    one_seed,
    response_scale,
    run_network,
    stacked,
)

RECIPE = Recipe(lr=2e-4, steps=600, batch=256, faster={"units": 0.1, "prototypes": 0.1})
HIDDEN, SPACE = 64, 32


def points(parts: Parts, router: torch.Tensor) -> torch.Tensor:
    """Return what units mix: the prototypes [S, 1, K, L], or in PAL-B every prompt's own [S, B, K, L]."""
    if "prototypes" in parts:
        return parts["prototypes"][:, None]
    seeds, k, units, _ = parts["g.v0"].shape
    wide = {"v0": parts["g.v0"].flatten(1, 2), "b0": parts["g.b0"].flatten(1, 2)}
    hidden = torch.relu(run_network(wide, router)).reshape(seeds, -1, k, units)
    return torch.einsum("sbkh,sklh->sbkl", hidden, parts["g.v1"]) + parts["g.b1"][:, None]


def margin(ideal: torch.Tensor, chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """Return by how much the chosen response lies nearer to the ideal point [...], all [..., L]."""
    far, near = (torch.linalg.vector_norm(response - ideal, dim=-1) for response in (rejected, chosen))
    return torch.sub(far, near)


def mixed(weights: torch.Tensor, among: torch.Tensor) -> torch.Tensor:
    """Return ideal points Σ_k w_k p_k [S, B, L] of weights [S, B, K] and points [S, B or 1, K, L]."""
    if among.shape[1] == 1:
        return weights @ among[:, 0]
    return (weights[..., None] * among).sum(2)


@dataclass(frozen=True, slots=True)
class PalModel:
    """The learned space, the points in it, and how units mix them."""

    parts: Parts
    """f.v0, f.b0, f.v1, f.b1 and prototypes (A) or g.v0, g.b0, g.v1, g.b1 (B), for features as they were given."""
    weights: UnitWeights
    """Of known and unknown units."""

    def scores(self, pairs: Pairs) -> Scores:
        """Score pairs by the difference of distances to their unit's point."""
        among, chosen, rejected = self._space(pairs)
        return Scores.of_logit(margin(mixed(self.weights.of(pairs).exp()[None], among), chosen, rejected)[0])

    def adapted(self, shots: Pairs) -> PalModel:
        """Return the model for the shots' units, which learn weights of the frozen points."""
        among, chosen, rejected = self._space(shots)
        own = few_shot(
            self.weights.unknown,
            shots,
            lambda weights: F.logsigmoid(margin(mixed(weights[None], among), chosen, rejected)[0]),
        )
        return replace(self, weights=own)

    def _space(self, pairs: Pairs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        parts = stacked(self.parts)
        chosen, rejected = (run_network(parts, part, "f.") for part in pairs.responses())
        return points(parts, pairs.router_inputs()), chosen, rejected

    def state(self) -> Parts:
        """Return networks, prototypes and weights."""
        return {**self.parts, **self.weights.state()}


@dataclass(frozen=True, slots=True)
class Problem:
    """Pairs on the device. Networks are for features divided by their training rms."""

    chosen: torch.Tensor
    """[N, D]"""
    rejected: torch.Tensor
    """[N, D]"""
    router: torch.Tensor
    """[N, D]"""
    units: torch.Tensor
    """[N]"""
    scales: dict[str, float]
    """The rms of what the named parts multiply."""

    @classmethod
    def of(cls, pairs: Pairs, scales: dict[str, float], device: torch.device) -> Problem:
        """Move pairs, all of known units, to the device."""
        assert pairs.units is not None
        chosen, rejected = (part.to(device) for part in pairs.responses())
        return cls(chosen, rejected, pairs.router_inputs().to(device), pairs.units.to(device), scales)

    def folded(self, parts: Parts) -> Parts:
        """Return the parts for features as they were given."""
        return parts | {name: parts[name] / scale for name, scale in self.scales.items()}

    def nll(self, parts: Parts, rows: Rows) -> torch.Tensor:
        """Return each seed's mean NLL [S]."""
        parts = self.folded(parts)
        chosen, rejected = (run_network(parts, part[rows], "f.") for part in (self.chosen, self.rejected))
        weights = torch.softmax(parts["units"], 2)[:, self.units[rows]]
        ideal = mixed(weights, points(parts, self.router[rows]))
        return -F.logsigmoid(margin(ideal, chosen, rejected)).mean(1)


class _Pal:
    """What both kinds share."""

    prompted: ClassVar[bool]
    shapes: ClassVar[dict[str, str]]
    supervision: ClassVar[str] = "pairs with users"
    options: ClassVar[frozenset[str]] = frozenset({"k", "device"})

    def fit(self, data: TrainingData, options: MethodOptions, seeds: Sequence[int]) -> list[Model]:
        """Fit all seeds in one stack. Validation pairs of units without pairs to fit do not choose the step."""
        pairs, device = pairs_of_units(data, "PAL"), resolve_device(options.device)
        assert pairs.units is not None
        count = int(pairs.units.max()) + 1
        scales = {"f.v0": response_scale(pairs)}
        if self.prompted:
            scales["g.v0"] = rms(pairs.router_inputs(), "the router's input")
        problem = Problem.of(pairs, scales, device)
        known = known_pairs(data.validation, count)
        held_out = averaged(Problem.of(known, scales, device).nll, len(known)) if len(known) else None
        start = self._start(pairs.delta.shape[1], count, options.k, seeds)
        start = {name: part.to(device) for name, part in start.items()}
        parts = problem.folded(descend(start, problem.nll, len(pairs), RECIPE, held_out))
        return [_model(one_seed(parts, seed)) for seed in range(len(seeds))]

    def _start(self, width: int, units: int, k: int, seeds: Sequence[int]) -> Parts:
        own = generators(seeds)
        parts = {"units": normal(own, units, k), **network(own, (width, HIDDEN, SPACE), "f.")}
        if not self.prompted:
            return {**parts, "prototypes": normal(own, k, SPACE)}
        each = [network(own, (width, HIDDEN, SPACE), "g.") for _ in range(k)]
        return {**parts, **{name: torch.stack([one[name] for one in each], 1) for name in each[0]}}

    def restore(self, state: Mapping[str, torch.Tensor]) -> PalModel:
        """Return the model of saved networks and weights."""
        common = {"f.v0": "HD", "f.b0": "H", "f.v1": "LH", "f.b1": "L", "known": "UK", "unknown": "K"}
        parts = checked(state, common | self.shapes)
        return PalModel({name: parts[name] for name in parts if "known" not in name}, UnitWeights.from_state(parts))


def _model(parts: Parts) -> PalModel:
    return PalModel(parts, UnitWeights.of_logits(parts.pop("units")))


class PalA(_Pal):
    """Prototypes that are the same for all prompts; see the module."""

    name: ClassVar[str] = "pal-a"
    title: ClassVar[str] = "PAL-A"
    needs: ClassVar[frozenset[Need]] = frozenset({"responses", "units"})
    prompted = False
    shapes: ClassVar[dict[str, str]] = {"prototypes": "KL"}


class PalB(_Pal):
    """Prototypes that are functions of the prompt; see the module."""

    name: ClassVar[str] = "pal-b"
    title: ClassVar[str] = "PAL-B"
    needs: ClassVar[frozenset[Need]] = frozenset({"responses", "units", "router"})
    prompted = True
    shapes: ClassVar[dict[str, str]] = {"g.v0": "KHD", "g.b0": "KH", "g.v1": "KLH", "g.b1": "KL"}
