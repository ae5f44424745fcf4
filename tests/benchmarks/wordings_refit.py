"""A linear router for frozen heads that is as sure of a new wording as wordings held out in turn allow.

Letters: N pairs, C contexts, D width of the router's input, K heads, F folds, R strengths of the ridge.

A router that is fitted with the heads has seen a few wordings of every group, hundreds of times each. It is too sure of
wordings it has not seen. Here every context has one soft label, what the heads' weights would have to be for its
pairs. A ridge of softmax regression maps contexts to labels; contexts are held out in turns, and the strength whose
held-out NLL over the contexts' pairs is lowest is kept. The strongest ridge is the constant weighting, so where
contexts tell nothing of each other the router says the same for all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from micropref.heads.mixture import Mixture, Router

STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, math.inf)
"""Ridges to choose among, per mean cross-entropy of inputs whose mean square length is 1."""
FOLDS = 20
"""Parts of the contexts at most that are held out in turns: each by itself where there are no more."""
PSEUDO_PAIRS = 2.0
"""Pairs that the weighting before counts for in a context's label: a context with one pair keeps nearly what it had."""
LABEL_STEPS = 50
DESCENT_STEPS = 300


@dataclass(frozen=True, slots=True)
class Refitted:
    """The new router and how it was chosen."""

    router: Router
    """Linear, [K, D]."""
    strength: float
    """The ridge of the lowest held-out NLL; ∞: the same weights for every context."""
    held_out_nll: dict[float, float]
    """Strength -> NLL of pairs whose context was held out, in nats."""
    constant: torch.Tensor
    """[K] log-weights that suit the pairs best when the context is not known."""


@torch.no_grad()
def refit_on_wordings(
    mixture: Mixture,
    delta: torch.Tensor,
    contexts: torch.Tensor,
    rows: torch.Tensor,
    seed: int = 0,
    strengths: tuple[float, ...] = STRENGTHS,
) -> Refitted:
    """Return a router for a routed mixture's heads, from pairs' Δ [N, D] and contexts [C, D] that `rows` [N] point to.

    Every context has a pair. With one context nothing can be held out, and the weights are constant.
    """
    losses = -torch.nn.functional.logsigmoid(mixture.margins(delta))
    before = mixture.log_weights(contexts, len(contexts))
    labels = context_labels(before, losses, rows)
    pairs = torch.bincount(rows, minlength=len(contexts)).float()
    constant = best_constant(losses)
    inputs, mean, basis = _standard(contexts, pairs)
    fold = torch.randperm(len(contexts), generator=torch.Generator().manual_seed(seed)) % min(FOLDS, len(contexts))
    total = torch.zeros(len(strengths), dtype=torch.float64)
    for held in (fold == number for number in range(int(fold.max()) + 1)):
        own = held[rows]
        if bool(held.all()):
            strengths = (math.inf,)
            total = total[:1]
        left = best_constant(losses[~own]) if bool((~own).any()) else constant
        weight, bias = _ridges(inputs, labels, pairs * ~held, left, strengths)
        for at in range(len(strengths)):
            said = torch.log_softmax(inputs[held] @ weight[at].T + bias[at], 1)
            place = torch.cumsum(held, 0)[rows[own]] - 1
            total[at] -= torch.logsumexp(said[place] - losses[own], 1).double().sum()
    found = (total / len(rows)).tolist()
    best = min(range(len(found)), key=found.__getitem__)
    weight, bias = _ridges(inputs, labels, pairs, constant, (strengths[best],))
    v2 = weight[0] @ basis.T
    return Refitted(
        Router(None, None, v2, bias[0] - v2 @ mean), strengths[best], dict(zip(strengths, found, strict=True)), constant
    )


def context_labels(before: torch.Tensor, losses: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return the weights [C, K] of the highest posterior, from log-weights before and pairs' losses [N, K].

    By expectation and maximisation: the prior is PSEUDO_PAIRS pairs with the weights before.
    """
    prior = before.exp() * PSEUDO_PAIRS
    pairs = torch.bincount(rows, minlength=len(before))[:, None]
    weights = before.exp()
    for _ in range(LABEL_STEPS):
        posterior = torch.softmax(weights.clamp_min(1e-12).log()[rows] - losses, 1)
        weights = (prior.index_add(0, rows, posterior)) / (PSEUDO_PAIRS + pairs)
    return weights


def best_constant(losses: torch.Tensor) -> torch.Tensor:
    """Return the log-weights [K] of the lowest NLL over pairs' losses [N, K] when all pairs share them."""
    weights = torch.full((losses.shape[1],), 1 / losses.shape[1])
    for _ in range(LABEL_STEPS):
        weights = torch.softmax(weights.clamp_min(1e-12).log() - losses, 1).mean(0)
    return weights.clamp_min(1e-12).log()


def constant_nll(losses: torch.Tensor, log_weights: torch.Tensor) -> float:
    """Return the NLL of pairs' losses [N, K] under weights that all share."""
    return -float(torch.logsumexp(log_weights - losses, 1).double().mean())


def _standard(contexts: torch.Tensor, pairs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return inputs [C, r] of mean 0 and mean square length 1, weighed by pairs, and the mean [D] and basis [D, r].

    Inputs are (context − mean) · basis. A ridge never leaves the span of its inputs, and few contexts span little.
    """
    share = pairs / pairs.sum()
    mean = share @ contexts.float()
    centred = contexts.float() - mean
    scale = float((share @ centred.square().sum(1)).sqrt()) or 1.0
    if len(contexts) >= contexts.shape[1]:
        return centred / scale, mean, torch.eye(contexts.shape[1]) / scale
    basis = torch.linalg.svd(centred, full_matrices=False)[2].T / scale
    return centred @ basis, mean, basis


def _ridges(
    inputs: torch.Tensor,
    labels: torch.Tensor,
    pairs: torch.Tensor,
    constant: torch.Tensor,
    strengths: tuple[float, ...],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return matrices [R, K, D] and biases [R, K] of the lowest Σ_c share_c CE(label_c, softmax) + ½ strength ‖V‖².

    Nesterov's accelerated descent on all strengths at once. An infinite one has no matrix, and the constant weights.
    """
    share = pairs / pairs.sum().clamp_min(1.0)
    finite = torch.tensor([one if math.isfinite(one) else 0.0 for one in strengths])[:, None, None]
    learns = torch.tensor([math.isfinite(one) for one in strengths])[:, None, None]
    width, heads = inputs.shape[1], labels.shape[1]
    design = torch.cat([inputs, torch.ones(len(inputs), 1)], 1)
    ridge = finite * torch.cat([torch.ones(width), torch.zeros(1)])
    step = 1 / (1.0 + finite)
    at = torch.zeros(len(strengths), heads, width + 1)
    at[:, :, -1] = constant
    ahead, before = at, at
    for number in range(DESCENT_STEPS):
        said = torch.softmax(design @ ahead.mT, 2)
        slope = ((said - labels) * share[:, None]).mT @ design + ridge * ahead
        at = torch.where(learns, ahead - step * slope, ahead)
        ahead = at + number / (number + 3) * (at - before)
        before = at
    return at[:, :, :-1], at[:, :, -1]
