"""A linear correction of a router's logits, fitted to soft labels with a ridge: Algorithm 1 without a descent to tune.

Letters: N pairs of the budget, C distinct inputs, D' width of the router's input, r rank of these, K heads,
T temperatures.

    logits(e) = start(e) + V z(e) + b,    V, b = argmin (1/N) Σ_i CE(w*_i, softmax) + ½ RIDGE ‖V‖²
with z the whitened, centred input, of mean square length 1 over the budget. This is convex, V has at most the rank of
the inputs (few wordings span little), and at V = 0 the router is the start with other mean weights. The centre is
folded into the bias. A start that is constant becomes a linear router; one with hidden units gets 2 K more of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from micropref.heads.adaptation.routing_budget import Budget, RouteSetting, soft_labels
from micropref.heads.adaptation.whitening import whitening
from micropref.heads.mixture import Router

RIDGE = 1e-4
"""Small: .001 to .1 did worse on new wordings, in accuracy and NLL, on the demo and with 2, 4 or 8 other wordings."""
STEPS = 60
"""Accelerated steps of a round of labels; each goes on from the last round."""


@torch.no_grad()
def ridge_rounds(
    start: Router,
    budget: Budget,
    setting: RouteSetting,
    taus: Sequence[float],
    ridge: float = RIDGE,
    steps: int = STEPS,
) -> Iterator[list[Router]]:
    """Yield the corrected routers after each of `setting.epochs` rounds of soft labels, one for each finite τ [T]."""
    white = whitening(budget.alone, budget.router)
    distinct, rows = torch.unique(budget.router, dim=0, return_inverse=True)
    inputs = white.inputs(distinct)
    share = torch.bincount(rows, minlength=len(distinct)).double() / len(budget)
    length = math.sqrt(float(share @ inputs.square().sum(1))) or 1.0
    basis = torch.linalg.svd(inputs, full_matrices=False)[2] / length
    design = torch.cat([inputs @ basis.T, torch.ones(len(distinct), 1, dtype=torch.float64)], 1)
    own = start.to(torch.float64).logits(distinct)
    found = torch.zeros(len(taus), len(start.b2), design.shape[1], dtype=torch.float64)
    for _ in range(setting.epochs):
        said = torch.log_softmax(own + design @ found.mT, 2)[:, rows]
        labels = soft_labels(said, budget, setting, taus) / len(budget)
        wanted = torch.zeros_like(own).expand(len(taus), -1, -1).index_add(1, rows, labels)
        found = _descend(found, own, design, share, wanted, ridge, steps)
        corrections = (Router(None, None, one[:, :-1] @ basis, one[:, -1]) for one in found)
        yield [corrected(start, white.out_of(one)) for one in corrections]


def _descend(
    at: torch.Tensor,
    own: torch.Tensor,
    design: torch.Tensor,
    share: torch.Tensor,
    wanted: torch.Tensor,
    ridge: float,
    steps: int,
) -> torch.Tensor:
    """Return corrections [T, K, r + 1] nearer the optimum, by Nesterov's accelerated descent.

    From logits before the correction [C, K], inputs with a last column of ones [C, r + 1], each one's share of the
    pairs [C], and their labels times these [T, C, K]. The bias is free of the ridge.
    """
    penalty = torch.cat([torch.full((design.shape[1] - 1,), ridge), torch.zeros(1)]).double()
    ahead, before = at, at
    for number in range(steps):
        said = torch.softmax(own + design @ ahead.mT, 2) * share[:, None]
        # The curvature is at most ½ times the mean square length of a row of the design, which is 2.
        at = ahead - ((said - wanted).mT @ design + penalty * ahead) / (1 + ridge)
        ahead = at + number / (number + 3) * (at - before)
        before = at
    return at


def corrected(start: Router, linear: Router) -> Router:
    """Return the router whose logits are the sum of both: x = relu(x) − relu(−x) in hidden units where `start` has any.

    float32, as routers are saved.
    """
    if start.v1 is None or start.b1 is None:
        return Router(None, None, (start.v2 + linear.v2).float(), (start.b2 + linear.b2).float())
    one = torch.eye(len(start.b2), dtype=torch.float64)
    v1, b1 = torch.cat([start.v1, linear.v2, -linear.v2]), torch.cat([start.b1, linear.b2, -linear.b2])
    return Router(v1, b1, torch.cat([start.v2, one, -one], 1), start.b2).to(torch.float32)
