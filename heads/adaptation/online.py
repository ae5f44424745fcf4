"""Prediction with expert advice: a person's choices one after another, each predicted before it is learned from.

Letters: T rounds, K heads (the experts). p_tk = σ(m_tk) is head k's probability of what was chosen in round t.
Regret is a forecaster's summed loss less that of the head which was best over all rounds, or of the best sequence of
heads that changes S times at most. A bound holds for its own loss and for no other: the square-root bounds
say nothing of log-loss, nor of counted mistakes.
Source: Cesa-Bianchi & Lugosi 2006, "Prediction, Learning, and Games", theorems 2.2 and 2.3, sections 3.3 and 5.2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from torch.nn import functional as F  # noqa: N812 - the field's name for it

Forecaster = Literal["log-loss", "fixed-share", "linear", "linear-anytime"]
FORECASTERS: tuple[Forecaster, ...] = get_args(Forecaster)


@dataclass(frozen=True)
class Replay:
    """What a forecaster did over T rounds."""

    log_probability: torch.Tensor
    """[T] log Σ_k w_tk p_tk, weights from the rounds before t alone."""
    losses: torch.Tensor
    """[T] of the forecaster, in its own loss."""
    head_losses: torch.Tensor
    """[T, K] of every head, in the same loss."""
    final: torch.Tensor
    """[K] log-weights after the last round."""
    bounds: torch.Tensor | None
    """[T] on the regret after each round; None where there is no bound."""
    switches: int = 0
    """How often what regret is against may change its head."""

    @property
    def bound(self) -> float | None:
        """Return the bound on the regret after T rounds; None where there is none."""
        return None if self.bounds is None else float(self.bounds[-1])

    @property
    def regrets(self) -> torch.Tensor:
        """Return the summed loss [T] after each round beyond what was best until then."""
        best = torch.stack([row.min() for row in _best_by_round(self.head_losses, self.switches)])
        return self.losses.cumsum(0) - best

    @cached_property
    def _in_hindsight(self) -> torch.Tensor:
        """[K] summed loss of the best sequence that ends with each head."""
        return best_sequences(self.head_losses, self.switches)

    @property
    def best_head(self) -> int:
        """Return the last head of the least summed loss, known only in hindsight; of equal ones the first."""
        return int(self._in_hindsight.argmin())

    @property
    def best_loss(self) -> float:
        """Return the summed loss of the best head, or of the best sequence of heads."""
        return float(self._in_hindsight.min())

    @property
    def regret(self) -> float:
        """Return the summed loss beyond the best."""
        return float(self.losses.sum()) - self.best_loss


def best_sequences(losses: torch.Tensor, switches: int) -> torch.Tensor:
    """Return the least summed loss [K] of losses [T, K] by last head, over sequences of so many switches at most."""
    *_, last = _best_by_round(losses, switches)
    return last


def _best_by_round(losses: torch.Tensor, switches: int) -> Iterator[torch.Tensor]:
    """Yield after each round what `best_sequences` returns of the rounds so far."""
    best = losses.new_zeros(switches + 1, losses.shape[1])
    for loss in losses:
        elsewhere = best.min(1, keepdim=True).values
        best[1:] = torch.minimum(best[1:], elsewhere[:-1])
        best = best + loss
        yield best[-1]


def replay(margins: torch.Tensor, forecaster: Forecaster, switches: int = 1) -> Replay:
    """Play T rounds of margins [T, K] from uniform weights; w_t ∝ exp(−η_t L_t), L_t the losses of earlier rounds.

    log-loss: ℓ = −log p, η = 1 (Bayes): regret ≤ log K for every T.
    fixed-share: the same for tastes that drift, see `_fixed_share`; only this one uses `switches`.
    linear: ℓ = 1 − p, played ⟨w, ℓ⟩, η = sqrt(8 log K / T), T known in advance: regret ≤ sqrt(T log K / 2), and after
    t rounds ≤ log K / η + η t / 8.
    linear-anytime: the same with η_t = sqrt(8 log K / t): regret ≤ 2 sqrt(T log K / 2) + sqrt(log K / 8).
    """
    log_right = F.logsigmoid(margins.double())
    if forecaster == "fixed-share":
        return _fixed_share(log_right, switches)
    rounds, heads = log_right.shape
    log_k = math.log(heads)
    number = torch.arange(1, rounds + 1, dtype=log_right.dtype)
    if forecaster == "log-loss":
        losses, bounds = -log_right, torch.full_like(number, log_k)
        rate = losses.new_ones(rounds)
    else:
        losses = -torch.expm1(log_right)
        rate = losses.new_full((rounds,), math.sqrt(8 * log_k / rounds))
        bounds = log_k / rate + rate * number / 8
        if forecaster == "linear-anytime":
            bounds = 2 * (number * log_k / 2).sqrt() + math.sqrt(log_k / 8)
            rate = (8 * log_k / number).sqrt()
    total = losses.cumsum(0)
    log_weights = torch.log_softmax(-rate[:, None] * (total - losses), 1)
    log_probability = torch.logsumexp(log_weights + log_right, 1)
    own = -log_probability if forecaster == "log-loss" else (log_weights.exp() * losses).sum(1)
    return Replay(log_probability, own, losses, torch.log_softmax(-rate[-1] * total[-1], 0), bounds)


def _fixed_share(log_right: torch.Tensor, switches: int) -> Replay:
    """Play log-loss with weights that keep a share for a change of taste: w_{t+1} = (1−α)ŵ + (α/(K−1))(1−ŵ).

    ŵ is what Bayes' rule makes of w_t. With α = S/(T−1) the regret against the best sequence of S switches at most is
    log K + S log(K−1) + (T−1) h(S/(T−1)) or less, h the entropy in nats. α is never above (K−1)/K, where every round
    starts again from uniform weights.
    """
    rounds, heads = log_right.shape
    possible = min(switches, rounds - 1)
    share = min(possible / max(rounds - 1, 1), (heads - 1) / heads)
    weights = log_right.new_full((heads,), 1 / heads)
    log_probability = log_right.new_empty(rounds)
    for number, right in enumerate(log_right):
        joint = weights.log() + right
        log_probability[number] = torch.logsumexp(joint, 0)
        learned = (joint - log_probability[number]).exp()
        weights = (1 - share) * learned + share / (heads - 1) * (1 - learned).clamp_min(0)
    bounds = torch.full_like(log_probability, math.log(heads))
    if share:
        changes = torch.arange(rounds, dtype=bounds.dtype)
        made = changes.clamp_max(possible)
        bounds += made * math.log((heads - 1) / share) - (changes - made) * math.log1p(-share)
    return Replay(log_probability, -log_probability, -log_right, learned.log(), bounds, possible)


def unlearned(margins: torch.Tensor, log_weights: torch.Tensor) -> Replay:
    """Return what weights [T, K] given in advance do over T rounds, in log-loss: the cold start to compare with."""
    log_right = F.logsigmoid(margins.double())
    log_probability = torch.logsumexp(log_weights.double() + log_right, 1)
    return Replay(log_probability, -log_probability, -log_right, log_weights[-1].double(), None)
