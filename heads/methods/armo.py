"""ARMO: a reward per rated attribute, freed of verbosity, and a gate that weighs them by the prompt.

Source: Wang et al. 2024, "Interpretable Preferences via Multi-Objective Reward Modeling and Mixture-of-Experts"
(arXiv 2406.12845).
Letters: M rated responses, N pairs, B pairs of a step, A attributes, D embedding width.

    1. w_a: ridge of the ratings on e(x, a), α by squared error on 20 % of the prompts
    2. w_a − λ_a w_verbosity, λ_a the first of PENALTIES whose reward has a Spearman correlation of at most .03
       with the verbosity reward, else 1; verbosity itself stays as it is
    3. reward Σ_a scale · softmax(gate(e(x)) / 10)_a w_a · e(x, a): the gate and the scale by the pairs' Bradley-Terry
       loss, AdamW without decay at 1e-3, 2000 steps of 1024 pairs, dropout .2, cosine

Departures: the gate is fitted with the debiased rewards, and they are what is scored (the authors' code computes
them and then goes on with the others); correlations are those on the rated responses; embeddings are divided
by their rms, in whose units α is; verbosity is an attribute of that name (or one that ends in it), and where none
is rated there is nothing to free the others of: all λ are 0. The small gate has one layer of 128 units in place of
three of 1024.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from micropref.cache.errors import BadInput
from micropref.heads.fitting.hardware import resolve_device
from micropref.heads.fitting.scales import rms
from micropref.heads.methods.adam import DATA_SEED, Recipe, Rows, descend
from micropref.heads.methods.base import MethodOptions, Model, Need, Pairs, RatedResponses, Scores, TrainingData
from micropref.heads.methods.ridge import chosen_ridge
from micropref.heads.methods.stacking import Parts, checked, generators, network, one_seed, run_network, stacked

RECIPE = Recipe(lr=1e-3, steps=2000, batch=1024)
GATES = {"paper": (1024, 1024, 1024), "small": (128,)}
TEMPERATURE, DROPOUT = 10.0, 0.2
HELD_OUT = 0.2
CORRELATION = 0.03
PENALTIES = (0, 0.01, 0.025, 0.05, 0.075, 0.1, 0.125, *(step / 20 for step in range(3, 20)))
VERBOSITY = "verbosity"


def attribute_heads(rated: RatedResponses) -> torch.Tensor:
    """Return the ridge weights [A, D] for embeddings as they were given."""
    scale = rms(rated.embedding, "the rated responses' embedding")
    clusters, cluster = torch.unique(rated.clusters, return_inverse=True)
    if len(clusters) < 2:
        raise BadInput("the rated responses are all of one prompt: ARMO splits them by prompt, so embed two or more")
    order = torch.randperm(len(clusters), generator=torch.Generator().manual_seed(DATA_SEED))
    held_out = (order < HELD_OUT * len(clusters))[cluster]
    parts = [(rated.embedding[rows] / scale, rated.ratings[rows]) for rows in (~held_out, held_out)]
    weights, _ = chosen_ridge(parts[0], parts[1])
    return (weights / scale).float()


def verbosity_penalties(rewards: torch.Tensor, verbosity: int) -> torch.Tensor:
    """Return λ [A] for rewards [M, A], 0 for the verbosity column."""
    columns = rewards.double().numpy()
    length = columns[:, verbosity]
    found = torch.ones(columns.shape[1])
    found[verbosity] = 0
    for attribute in set(range(len(found))) - {verbosity}:
        debiased = ((penalty, columns[:, attribute] - penalty * length) for penalty in PENALTIES)
        found[attribute] = next((penalty for penalty, left in debiased if spearman(left, length) <= CORRELATION), 1)
    return found


def spearman(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    """Return the rank correlation of two columns [M]; 0 where one is constant."""
    from scipy.stats import rankdata  # half a second to load, for one method among many

    ranks = [rankdata(column) - (len(column) + 1) / 2 for column in (first, second)]
    spread = math.sqrt(float(ranks[0] @ ranks[0]) * float(ranks[1] @ ranks[1]))
    return float(ranks[0] @ ranks[1]) / spread if spread else 0.0


@dataclass(frozen=True, slots=True)
class ArmoModel:
    """Attribute rewards and their gate."""

    heads: torch.Tensor
    """[A, D] debiased and scaled, in the units of the features as they were given."""
    gate: Parts
    """v0, b0, v1, b1, ... of the gate."""
    penalties: torch.Tensor
    """[A] λ that was subtracted: to look at."""

    def scores(self, pairs: Pairs) -> Scores:
        """Score pairs by the gate's weights of the attributes' rewards."""
        logits = run_network(stacked(self.gate), pairs.router_inputs())[0] / TEMPERATURE
        return Scores(pairs.delta @ self.heads.T, torch.log_softmax(logits, 1), "linear")

    def state(self) -> Parts:
        """Return rewards, gate and penalties."""
        return {"heads": self.heads, "penalties": self.penalties, **self.gate}


class Armo:
    """See the module."""

    name: ClassVar[str] = "armo"
    title: ClassVar[str] = "ARMO"
    supervision: ClassVar[str] = "ratings and pairs"
    needs: ClassVar[frozenset[Need]] = frozenset({"ratings", "router"})
    options: ClassVar[frozenset[str]] = frozenset({"gate", "device"})

    def fit(self, data: TrainingData, options: MethodOptions, seeds: Sequence[int]) -> list[Model]:
        """Fit the rewards once and a gate for every seed: at the published size a stack of seeds is slower."""
        rated = data.rated
        if rated is None or rated.ratings.isnan().all(0).any():
            raise BadInput("ARMO learns from ratings: embed a source that rates every attribute's train responses")
        heads = attribute_heads(rated)
        verbosity = [number for number, name in enumerate(rated.attributes) if name.lower().endswith(VERBOSITY)]
        penalties = torch.zeros(len(heads))
        if verbosity:
            penalties = verbosity_penalties(rated.embedding @ heads.T, verbosity[0])
            heads = heads - penalties[:, None] * heads[verbosity[0]]
        gates = (fit_gate(data.fitting, heads, options, seed) for seed in seeds)
        return [ArmoModel(heads * gate.pop("scale"), gate, penalties) for gate in gates]

    def restore(self, state: Mapping[str, torch.Tensor]) -> ArmoModel:
        """Return the model of saved rewards and gate."""
        layers = max((int(name[1:]) for name in state if name.startswith("v")), default=0) + 1
        expected = {"heads": "AD", "penalties": "A"}
        for layer in range(layers):
            output = "A" if layer == layers - 1 else "H"
            expected |= {f"v{layer}": output + ("H" if layer else "D"), f"b{layer}": output}
        parts = checked(state, expected)
        return ArmoModel(parts.pop("heads"), penalties=parts.pop("penalties"), gate=parts)


def fit_gate(pairs: Pairs, heads: torch.Tensor, options: MethodOptions, seed: int) -> Parts:
    """Return a seed's gate and its scale [1, 1]; dropout's masks are those of every seed."""
    device = resolve_device(options.device)
    inputs = pairs.router_inputs()
    divisor = rms(inputs, "the router's input")
    router, margins = inputs.to(device), (pairs.delta @ heads.T).to(device)
    start = network(generators([seed]), (router.shape[1], *GATES[options.gate], len(heads)))
    start["scale"] = torch.ones(1, 1, 1)
    masks = torch.Generator().manual_seed(DATA_SEED)

    def activation(hidden: torch.Tensor) -> torch.Tensor:
        kept = torch.rand(hidden.shape[1:], generator=masks) >= DROPOUT
        return torch.relu(hidden) * (kept / (1 - DROPOUT)).to(device)

    def folded(parts: Parts) -> Parts:
        return {**parts, "v0": parts["v0"] / divisor}

    def loss(parts: Parts, rows: Rows) -> torch.Tensor:
        weights = torch.softmax(run_network(folded(parts), router[rows], activation=activation) / TEMPERATURE, 2)
        return -F.logsigmoid(parts["scale"][..., 0] * (weights * margins[rows]).sum(2)).mean(1)

    parts = descend({name: part.to(device) for name, part in start.items()}, loss, len(pairs), RECIPE)
    return one_seed(folded(parts), 0)
