"""What a router is re-fitted on, and how: pairs of a budget, settings, and the soft labels of Algorithm 1.

Letters: N pairs of the budget, D' width of the router's input, K heads, T temperatures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import get_args

import torch

from micropref.cache.errors import BadInput
from micropref.heads.adaptation.hedge import hedge, hedge_contexts
from micropref.heads.choices import Anchor, RouteSolver, Target


@dataclass(frozen=True, slots=True)
class Budget:
    """What the router learns from."""

    losses: torch.Tensor
    """ℓ [N, K] of the frozen heads, in nats."""
    router: torch.Tensor
    """[N, D'] what the router reads, such as the embedded context."""
    alone: torch.Tensor
    """[N, D'] how that varies with the prompts alone, which tells no context; zeros where it does not."""
    stage1: torch.Tensor
    """[N, K] log-weights of the run that is routed, as it reads these pairs."""
    group: torch.Tensor
    """[N] number of what each pair's context says: pairs of one number may word it differently."""
    prompt: torch.Tensor
    """[N] number of each pair's prompt."""
    wording: torch.Tensor
    """[N] number of each pair's context as it is worded: what is held out together."""

    def __len__(self) -> int:
        return len(self.losses)

    def take(self, rows: torch.Tensor) -> Budget:
        """Return the pairs at `rows`, numbers or a mask [N]."""
        return Budget(*(getattr(self, field.name)[rows] for field in fields(self)))

    def mean_weights(self) -> torch.Tensor:
        """Return the log of the run's mean weights [K] over these pairs."""
        return torch.logsumexp(self.stage1, 0) - math.log(len(self))


@dataclass(frozen=True, slots=True)
class RouteSetting:
    """How a router is re-fitted."""

    target: Target = "context"
    """What has soft labels of its own: every group of pairs whose contexts say the same, or every pair."""
    anchor: Anchor = "previous"
    """What the labels start from: the router as it is when an epoch starts, or stage 1's weights."""
    epochs: int = 10
    """Rounds of labels: the router is fitted to each, with adam in one pass over the budget."""
    solver: RouteSolver = "ridge"
    """A linear correction of the router's logits, fitted with a ridge; or a descent on all its weights."""
    batch: int | None = None
    """Pairs of a minibatch of adam; None: BATCH."""
    lr: float | None = None
    """Learning rate of adam, in whitened coordinates; None: RATE."""
    seed: int = 0
    """Seed of the order of pairs and of the folds."""

    def __post_init__(self) -> None:
        for name, choices in (("target", Target), ("anchor", Anchor), ("solver", RouteSolver)):
            if getattr(self, name) not in get_args(choices):
                raise BadInput(f"{name} is {getattr(self, name)!r}: expected one of {', '.join(get_args(choices))}")
        for name, least in (("epochs", 1), ("batch", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise BadInput(f"{name} is {value}: expected at least {least}")
        if self.lr is not None and not (math.isfinite(self.lr) and self.lr > 0):
            raise BadInput(f"lr is {self.lr}: expected a finite number above 0, for example 0.001")
        unread = [name for name in ("batch", "lr") if getattr(self, name) is not None]
        if unread and self.solver != "adam":
            raise BadInput(f"{' and '.join(unread)} with `solver` {self.solver}: only adam reads it; give that one too")


@torch.no_grad()
def soft_labels(
    log_weights: torch.Tensor, budget: Budget, setting: RouteSetting, taus: Sequence[float]
) -> torch.Tensor:
    """Return w* [T, N, K] of every pair, from the router's log-weights [T, N, K] as it is."""
    before = log_weights
    if setting.anchor == "stage1":
        before = budget.stage1.to(log_weights.dtype).expand(len(taus), *budget.stage1.shape)
    losses = budget.losses.to(before.dtype)
    if setting.target == "example":
        return hedge(before, losses, before.new_tensor(taus)[:, None, None]).exp()
    pairs = zip(before, taus, strict=True)
    return torch.stack([hedge_contexts(one, losses, budget.group, tau) for one, tau in pairs]).exp()
