"""Two ways to lower one objective: AdamW on all settings at once, and L-BFGS on one setting.

Both take a `Stack`, an epoch at a time, and leave its compute-dtype copies fresh.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch

from heads.feed import Feed, batch_indices
from heads.settings import FitPlan
from heads.stack import DECAYED, UNDECAYED, Stack

LBFGS_ITERATIONS = 20
"""Iterations per epoch."""
LBFGS_GRADIENT = 1e-9
"""Largest entry of the gradient (features scaled to rms 1, loss in nats per pair) that counts as zero."""
NEWTON_STEPS = 4
"""Each squares the relative error that L-BFGS leaves, so the last ones only confirm."""


class Optimizer(Protocol):
    """What the loop over epochs needs of a solver."""

    stack: Stack

    def epoch(self) -> torch.Tensor:
        """Do one epoch and return each setting's mean training NLL [G] in it."""
        ...

    def keep(self, positions: Sequence[int]) -> None:
        """Go on with these settings of the stack only."""
        ...

    @property
    def converged(self) -> bool:
        """Whether another epoch would change nothing."""
        ...


def learning_rate_factor(step: int, steps: int, warmup: float) -> float:
    """Return the share of the peak learning rate at a step from 0: a linear rise, then a cosine to 0."""
    rising = math.ceil(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    return (1 + math.cos(math.pi * (step - rising) / (steps - rising))) / 2


class AdamW:
    """torch.optim.AdamW over the slices of a stack, every setting with its own learning rate and decay."""

    converged = False

    def __init__(self, stack: Stack, feed: Feed, plan: FitPlan) -> None:
        """Start at step 0 of `plan.epochs` epochs."""
        self.stack = stack
        self._feed = feed
        self._plan = plan
        self._order = torch.Generator().manual_seed(plan.data_seed)
        self._steps = plan.epochs * (feed.pairs // feed.size)
        self._step = 0
        self._optimizer = _adamw(stack)

    def epoch(self) -> torch.Tensor:
        """Take one step per minibatch; every setting sees the same ones."""
        total = torch.zeros(len(self.stack.settings), device=self.stack.device)
        for index in batch_indices(self._feed.pairs, self._plan.batch, self._order):
            total += self.stack.gradients(self._feed.rows(index)).nll
            factor = learning_rate_factor(self._step, self._steps, self._plan.warmup)
            for group in self._optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            self._optimizer.step()
            self.stack.refresh()
            self._step += 1
        return total / (self._feed.pairs // self._feed.size)

    def keep(self, positions: Sequence[int]) -> None:
        """Restack the settings that go on; they keep their moments, so the others' end changes nothing."""
        old, moments = self.stack, self._optimizer.state
        self.stack = Stack(
            [old.settings[g] for g in positions],
            [old.weights(g) for g in positions],
            old.scales,
            old.pairs,
            old.dtype,
        )
        self._optimizer = _adamw(self.stack)
        for new, g in zip(self.stack.slices, positions, strict=True):
            for name, part in new.items():
                cut = tuple(slice(size) for size in part.shape)
                self._optimizer.state[part] = {
                    key: value[cut].contiguous() if value.ndim else value
                    for key, value in moments[old.slices[g][name]].items()
                }


def _adamw(stack: Stack) -> torch.optim.AdamW:
    groups = [
        {
            "params": [parts[name] for name in names if name in parts],
            "peak": setting.lr,
            "weight_decay": setting.weight_decay * decayed,
        }
        for setting, parts in zip(stack.settings, stack.slices, strict=True)
        for names, decayed in ((DECAYED, 1), (UNDECAYED, 0))
    ]
    return torch.optim.AdamW(groups, fused=True)


class Lbfgs:
    """torch.optim.LBFGS with a strong Wolfe line search, on all pairs at once; the stack has one setting."""

    def __init__(self, stack: Stack, feed: Feed) -> None:
        """Read all pairs once: they stay in the feed's buffers."""
        assert len(stack.settings) == 1
        self.stack = stack
        self._batch = feed.rows(torch.arange(feed.pairs))
        self._nll = torch.zeros(1)
        self._done = False
        self._optimizer = torch.optim.LBFGS(
            list(stack.slices[0].values()),
            max_iter=LBFGS_ITERATIONS,
            tolerance_grad=LBFGS_GRADIENT,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )

    @property
    def converged(self) -> bool:
        """Whether the last epoch ended before its iterations were used up."""
        return self._done

    def _objective(self) -> torch.Tensor:
        self.stack.refresh()
        result = self.stack.gradients(self._batch)
        self._nll = result.nll
        return self.stack.objective(result)[0]

    def epoch(self) -> torch.Tensor:
        """Do up to LBFGS_ITERATIONS iterations; the NLL is that of the last point looked at."""
        state = self._optimizer.state[self._optimizer.param_groups[0]["params"][0]]
        before = state.get("n_iter", 0)
        self._optimizer.step(self._objective)  # type: ignore[no-untyped-call]
        self._done = state["n_iter"] - before < LBFGS_ITERATIONS
        self.stack.refresh()
        setting = self.stack.settings[0]
        if self._done and setting.k == 1 and setting.l2 > 0 and self.stack.dtype == torch.float64:
            self._polish()
        return self._nll

    def _polish(self) -> None:
        """Take Newton steps with one head, whose loss is strictly convex.

        A line search compares losses, so it sees no step shorter than the root of their rounding, and along flat
        directions that is far from the optimum; the gradient still points there.
        """
        for _ in range(NEWTON_STEPS):
            self._objective()
            step = torch.linalg.solve(self.stack.curvature(self._batch), self.stack.grads["heads"].flatten())
            self.stack.params["heads"] -= step.view_as(self.stack.params["heads"])
        self.stack.refresh()

    def keep(self, positions: Sequence[int]) -> None:
        """One setting cannot be narrowed: the loop ends when it stops."""
        assert list(positions) == [0]
