"""Which question to ask a person next: the one whose answer has the most information about the person's group.

Letters: G people, M questions of each one's pool, K heads, T answers. p_k = σ(m_k) is head k's probability that the
first response is preferred, ρ the weights of the heads as they are known so far, h the entropy of a coin in nats.

    information = h(Σ_k ρ_k p_k) − Σ_k ρ_k h(p_k)

is the mutual information of answer and group (BALD, Houlsby et al. 2011). Heads that are all unsure of a question leave
the answer open, but it has no information: "closest to ½" asks such questions, this never does. It is also how far the
answer moves the weights, E_a KL(ρ_a ‖ ρ) with ρ_a ∝ ρ P(a). Where answers count β < 1 times they move ρ to
ρ_a ∝ ρ P(a)^β, less far and at β = 0 nowhere; β > 1 moves weights further, but an answer counts for no more
information than at β = 1.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch.nn import functional as F  # noqa: N812 - the field's name for it

Policy = Literal["ask", "uncertainty", "random"]
POLICIES: tuple[Policy, ...] = get_args(Policy)


def information(margins: torch.Tensor, log_weights: torch.Tensor, beta: float = 1.0) -> torch.Tensor:
    """Return the expected information of the answers, in nats [...], from margins and log-weights [..., K].

    The order of a question's two responses does not matter.
    """
    total, counted = torch.zeros_like(margins[..., 0]), min(beta, 1.0)
    for sign in (1, -1):
        right = F.logsigmoid(sign * margins)
        after = torch.log_softmax(log_weights + counted * right, -1)
        # A head of no weight has none afterwards: 0 · (−∞ + ∞) counts as 0.
        moved = torch.where(log_weights > -torch.inf, after.exp() * (after - log_weights), 0.0).sum(-1)
        total += (log_weights.exp() * right.exp()).sum(-1) * moved
    return total.clamp_min(0)


def uncertainty(margins: torch.Tensor, log_weights: torch.Tensor) -> torch.Tensor:
    """Return the entropy of the answers, in nats [...]: largest where the prediction is ½."""
    return _coin((log_weights.exp() * torch.sigmoid(margins)).sum(-1))


def _coin(probability: torch.Tensor) -> torch.Tensor:
    entropy: torch.Tensor = torch.special.entr(probability) + torch.special.entr(1 - probability)
    return entropy


def asked_in_order(
    policy: Policy, margins: torch.Tensor, log_prior: torch.Tensor, count: int, beta: float, seed: int
) -> torch.Tensor:
    """Let a policy ask each of G people `count` questions, each after the answers before; return which [G, T].

    Margins [G, M, K] are chosen less rejected: the recorded choice is the answer, and no policy sees it before.
    Evidence counts β times: ρ ∝ π Π σ(m)^β, with the log of π for each question [G, M, K].
    """
    people, pool, _ = margins.shape
    if policy == "random":
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(people, pool, generator=generator).argsort(1)[:, :count]
    evidence = torch.zeros_like(margins[:, 0])
    open_still = torch.ones(people, pool, dtype=torch.bool)
    asked = []
    for _ in range(count):
        log_weights = torch.log_softmax(log_prior + evidence[:, None], 2)
        value = information(margins, log_weights, beta) if policy == "ask" else uncertainty(margins, log_weights)
        asked.append(torch.where(open_still, value, -torch.inf).argmax(1))
        rows = torch.arange(people), asked[-1]
        open_still[rows] = False
        evidence = evidence + beta * F.logsigmoid(margins[rows])
    return torch.stack(asked, 1)
