"""Two ways to lower one objective: AdamW on all settings at once, and L-BFGS on one setting.

Both take a `Stack`, an epoch at a time, and leave its compute-dtype copies fresh.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch

from micropref.heads.fitting.group_losses import annealed
from micropref.heads.fitting.initial_weights import Parts
from micropref.heads.fitting.minibatches import Batches, Epochs
from micropref.heads.fitting.settings import FitPlan
from micropref.heads.fitting.stacked_weights import Stack

REFERENCE_WIDTH = 384
"""Embeddings up to this width are fitted with the learning rate as it is given."""
DECAYED = ("heads", "v1", "v2")
"""Parts that weight decay pulls to zero: no biases."""
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


def width_factor(width: int) -> float:
    """Return the share of the learning rate that a fit on embeddings of some width takes.

    AdamW moves every weight by about its rate whatever the gradient, so a step moves a margin in proportion to the
    width, and a rate that suits one backbone overshoots on a wider one (Yang et al. 2022, "Tensor Programs V").
    """
    return min(1.0, REFERENCE_WIDTH / width)


class AdamW:
    """torch.optim.AdamW over the blocks of a stack, every setting with its own learning rate and decay."""

    converged = False

    def __init__(self, stack: Stack, feed: Epochs, plan: FitPlan) -> None:
        """Start at step 0 of `plan.epochs` epochs."""
        self.stack = stack
        self._feed = feed
        self._plan = plan
        self._order = torch.Generator().manual_seed(plan.data_seed)
        self._steps = plan.epochs * feed.steps
        self._step = 0
        self._moments: dict[str, Parts] = {
            moment: {name: torch.zeros_like(part) for name, part in stack.params.items()}
            for moment in ("exp_avg", "exp_avg_sq")
        }
        self._optimizer = self._adamw()

    def _adamw(self) -> torch.optim.AdamW:
        """Return the optimizer of the stack's blocks at the present step and moments."""
        groups = [
            {
                "params": [part for name, part in block.parts.items() if (name in DECAYED) == decayed],
                "peak": block.setting.lr * width_factor(self.stack.width),
                "weight_decay": block.setting.weight_decay * decayed,
            }
            for block in self.stack.blocks
            for decayed in (True, False)
        ]
        optimizer = torch.optim.AdamW(groups, fused=True)
        for block in self.stack.blocks:
            for name, part in block.parts.items():
                moments = {key: parts[name][block.rows[name]] for key, parts in self._moments.items()}
                optimizer.state[part] = {"step": torch.tensor(float(self._step), device=part.device)} | moments
        return optimizer

    def epoch(self) -> torch.Tensor:
        """Take one step per minibatch; every setting sees the same ones."""
        total = torch.zeros(len(self.stack.settings), device=self.stack.device)
        for batch in self._feed.shuffled(self._order):
            exponent = annealed(self._step, self._steps) if self._plan.anneal else 1.0
            total += self.stack.gradients(batch, exponent).nll
            factor = learning_rate_factor(self._step, self._steps, self._plan.warmup)
            for group in self._optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            self._optimizer.step()
            self.stack.refresh()
            self._step += 1
        return total / self._feed.steps

    def keep(self, positions: Sequence[int]) -> None:
        """Restack the settings that go on; they keep their moments, so the others' end changes nothing."""
        old, self.stack = self.stack, self.stack.narrowed(positions)
        self._moments = {key: old.rows_like(self.stack, parts, positions) for key, parts in self._moments.items()}
        self._optimizer = self._adamw()


class Lbfgs:
    """torch.optim.LBFGS with a strong Wolfe line search, on all pairs at once; the stack has one setting."""

    def __init__(self, stack: Stack, feed: Batches) -> None:
        """Read all pairs once: they stay in the feed's buffers."""
        assert len(stack.settings) == 1
        self.stack = stack
        self._batch = feed.whole()
        self._nll = torch.zeros(1)
        self._done = False
        self._optimizer = torch.optim.LBFGS(
            list(stack.blocks[0].parts.values()),
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
