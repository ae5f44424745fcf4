"""Options and results of a fit. Shapes: N pairs, D embedding width, K heads."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import get_args

import torch

from micropref.cache.errors import BadInput
from micropref.cache.vectors.pair_features import taken_inputs
from micropref.heads.choices import ComputeDtype, FitMethod, Latent, Prior, Solver, Weight
from micropref.heads.mixture import Mixture, missing_rows

LAM = 0.1
"""λ where nothing else is known to be better."""
GROUPED_STEPS = 240
"""Minibatches in all from which annealed restarts agree where users or contexts have groups: half are annealing."""
LEAST_BATCH = 64
"""Pairs of the smallest minibatch that is used to reach GROUPED_STEPS."""


@dataclass(frozen=True, slots=True)
class FitSetting:
    """One model to fit. Settings of every kind may share one call of `heads.fitting.fit.fit`."""

    method: FitMethod
    """mixture: weights from a router; static: one set of weights for all pairs; single: one head; ensemble: heads that
    each learn from every pair, started and held apart by frozen random priors, with equal weights."""
    k: int
    """Reward heads K."""
    lam: float = LAM
    """λ: KL penalty towards uniform mixture weights."""
    prior: Prior = "example"
    """What the penalty is on: every pair's weights, or only their mean over the minibatch."""
    hidden: int = 128
    """Rectified units of the router; 0 is a linear router."""
    lr: float = 2e-3
    """Peak learning rate of AdamW on embeddings up to 384 wide; wider ones take 384 / D of it."""
    weight_decay: float = 0.01
    """AdamW's decoupled decay of heads and router matrices; biases and static logits never decay, nor does an
    ensemble's prior: its heads decay towards it."""
    l2: float = 0.0
    """Adds l2 / (2 N) ||W||² of the returned heads to the loss, an ensemble's priors subtracted: scikit-learn's C is
    1 / l2. With that solver 0 leaves it to validation."""
    seed: int = 0
    """Seed of the initial weights."""
    latent: Latent = "pair"
    """What has one group: every pair its own, or all pairs of a user or of a context the same."""
    weight: Weight = "pair"
    """What the loss is a mean over, where users or contexts have a group: their pairs, or they themselves."""

    def __post_init__(self) -> None:
        _one_of("method", self.method, get_args(FitMethod))
        _one_of("prior", self.prior, get_args(Prior))
        _at_least("k", self.k, 1)
        _at_least("hidden", self.hidden, 0)
        _at_least("seed", self.seed, 0)
        for name, value in (("lam", self.lam), ("wd", self.weight_decay), ("l2", self.l2)):
            _at_least(name, value, 0)
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise BadInput(f"lr is {self.lr}: expected a finite number above 0, for example 0.002")
        _one_of("latent", self.latent, get_args(Latent))
        _one_of("weight", self.weight, get_args(Weight))
        if self.latent == "pair" and self.weight != "pair":
            raise BadInput(f"weight {self.weight} with latent pair: pairs weigh alike there, so give latent user")
        if self.latent != "pair" and self.method == "ensemble":
            raise BadInput(f"method ensemble with latent {self.latent}: its heads all learn from everybody")
        if self.method == "single" and self.k != 1:
            raise BadInput(f"method single with k = {self.k}: it has one head, so give k = 1")

    @property
    def routed(self) -> bool:
        """Whether the weights depend on the pair; one head needs no router."""
        return self.method == "mixture" and self.k > 1


@dataclass(frozen=True, slots=True)
class FitPlan:
    """How all settings of one call are fitted."""

    epochs: int = 20
    """Passes over the training pairs at most; with lbfgs, rounds of 20 iterations."""
    batch: int = 2048
    """Pairs per minibatch at most: an epoch's minibatches have one common size, smaller where users or contexts have
    groups and the pairs are few. lbfgs takes all pairs."""
    data_seed: int = 0
    """Seed of the order of the pairs, shared by all settings."""
    dtype: ComputeDtype = "auto"
    """Precision of the large matrix multiplications; auto: bfloat16 where the hardware has it, float64 for lbfgs."""
    device: str = "auto"
    """auto: cuda where there is one, else cpu."""
    patience: int = 5
    """Epochs without a better validation NLL after which a setting stops; 0: never, keep the last state."""
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises; it then falls along a cosine."""
    solver: Solver = "adamw"
    """adamw: all settings at once, in minibatches; lbfgs: one after the other on all pairs, to convergence;
    scikit-learn: one head by a path of L2 penalties, see logistic_path.py, which reads nothing else of a plan."""
    anneal: bool = True
    """Whether the evidence of users or contexts starts faint and has its weight after half the steps: restarts then
    find the same groups. Without effect on latent pair."""

    def __post_init__(self) -> None:
        _one_of("solver", self.solver, get_args(Solver))
        _one_of("dtype", self.dtype, get_args(ComputeDtype))
        _at_least("epochs", self.epochs, 1)
        _at_least("batch", self.batch, 1)
        _at_least("data_seed", self.data_seed, 0)
        _at_least("patience", self.patience, 0)
        if not 0 <= self.warmup < 1:
            raise BadInput(f"warmup is {self.warmup}: expected a share of the steps, from 0 to below 1")

    def minibatch(self, pairs: int, latent: Latent) -> int:
        """Return the pairs per minibatch at most of a fit on N pairs.

        Where users or contexts have groups there are GROUPED_STEPS minibatches in the epochs asked for, if need be by
        smaller ones: that costs next to nothing, and with fewer steps restarts end in different groups.
        """
        if latent == "pair" or self.epochs * math.ceil(pairs / self.batch) >= GROUPED_STEPS:
            return self.batch
        return min(self.batch, max(LEAST_BATCH, pairs * self.epochs // GROUPED_STEPS))

    def reaching(self, steps: int, pairs: int) -> FitPlan:
        """Return the plan with as many more epochs as give a fit on N pairs at least so many minibatches."""
        return replace(self, epochs=max(self.epochs, math.ceil(steps / math.ceil(pairs / self.batch))))


@dataclass(frozen=True, slots=True)
class PairTensors:
    """Features of N pairs, on the CPU (memory-mapped ones too), in float32, float16 or bfloat16."""

    delta: torch.Tensor
    """[N, D] embedding of the chosen minus that of the rejected response."""
    router: torch.Tensor | None
    """[N, D'] what a router reads, such as the embedded context; a row of NaN: of pairs without one. None where no
    setting has a router."""
    units: torch.Tensor | None = None
    """[N] int64 code of each pair's user or context, for settings whose latent that is."""
    router_rows: torch.Tensor | None = None
    """[N] int64 row of `router` that each pair reads, where pairs share them: what they share is computed once."""
    router_parts: tuple[int, ...] = ()
    """Widths of the vectors that stand side by side in `router`, each divided by its own rms; empty: it is one."""

    @property
    def pairs(self) -> int:
        """Return N."""
        return len(self.delta)

    @property
    def width(self) -> int:
        """Return D."""
        return self.delta.shape[1]

    @property
    def router_width(self) -> int | None:
        """Return D', None where there is no router's input."""
        return None if self.router is None else self.router.shape[1]

    @property
    def lacks_contexts(self) -> bool:
        """Return whether a row of the router's input stands for pairs without a context."""
        return self.router is not None and bool(missing_rows(self.router).any())

    def __post_init__(self) -> None:
        if self.delta.ndim != 2 or len(self.delta) == 0:
            raise BadInput(f"delta has shape {list(self.delta.shape)}: expected [pairs, width], one pair or more")
        if self.router is not None or self.router_rows is not None:
            self._check_router()
        if self.units is not None and self.units.shape != self.delta.shape[:1]:
            raise BadInput(
                f"units have shape {list(self.units.shape)}: expected one for each of the {self.pairs} pairs"
            )

    def take(self, chosen: torch.Tensor) -> PairTensors:
        """Return the pairs of these numbers, or where a mask [N] is true."""
        router, rows = self.router, self.router_rows
        if router is not None:
            router, rows = taken_inputs(router, rows, chosen)
        units = None if self.units is None else self.units[chosen]
        return PairTensors(self.delta[chosen], router, units, rows, self.router_parts)

    def _check_router(self) -> None:
        router, rows = self.router, self.router_rows
        if router is None:
            raise BadInput("router rows without a router input: give both, or neither")
        if self.router_parts and sum(self.router_parts) != router.shape[1]:
            raise BadInput(
                f"router parts are {list(self.router_parts)} wide, together not the {router.shape[1]} of the input"
            )
        if router.ndim != 2 or (rows is None and len(router) != self.pairs):
            raise BadInput(
                f"router input has shape {list(router.shape)}: expected one row for each of the {self.pairs} pairs"
            )
        if rows is None:
            return
        if rows.shape != self.delta.shape[:1] or rows.dtype != torch.int64:
            raise BadInput(
                f"router rows are {rows.dtype} of shape {list(rows.shape)}: expected an int64 for each of the"
                f" {self.pairs} pairs"
            )
        if rows.min() < 0 or rows.max() >= len(router):
            raise BadInput(
                f"router rows go from {rows.min()} to {rows.max()}: expected 0 to {len(router) - 1}, rows of the"
                " router input"
            )


@dataclass(frozen=True, slots=True)
class FitProgress:
    """Progress of a fit, reported after every epoch."""

    chunk: int
    """Chunk of settings now fitted, from 1."""
    chunks: int
    """Chunks in all."""
    epoch: int
    """Epochs done in this chunk."""
    epochs: int
    """Epochs at most."""
    active: int
    """Settings of the chunk that have not stopped."""
    best_validation_nll: float
    """Lowest validation NLL of any of the chunk's settings so far, in nats per pair."""


@dataclass(frozen=True, slots=True)
class Execution:
    """What was decided for a setting by shapes and hardware alone."""

    device: str
    """Device type."""
    dtype: str
    """Precision of the large matrix multiplications; master weights and sums have float32 or more."""
    batch: int
    """Pairs per minibatch."""
    chunk: int
    """Settings fitted together with this one, itself included."""
    lr: float | None
    """Peak learning rate, the share that the width takes; None for scikit-learn."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """One fitted setting. All NLLs are means over pairs, in nats, without penalties."""

    setting: FitSetting
    """What was asked for."""
    mixture: Mixture
    """float32 on the CPU, in the units of the features as they were given."""
    best_epoch: int
    """Epoch, or step of the path, whose state this is, from 1; 0: no training."""
    epochs_run: int
    """Epochs before the setting stopped, or steps of the path."""
    validation_nll: float
    """Of `mixture`, computed in float32; where users or contexts have groups, of known ones."""
    known: torch.Tensor | None
    """Log-weights [pairs, K] of the validation pairs, their user or context known by training pairs; None where pairs
    have groups."""
    train_history: tuple[float, ...]
    """Per epoch, the mean of what the method lowers over its minibatches, while the weights moved."""
    validation_history: tuple[float, ...]
    """After each epoch, in the compute dtype."""
    validation_accuracy_history: tuple[float, ...]
    """Of the same predictions."""
    execution: Execution
    """How it ran."""
    path: tuple[float, ...] = ()
    """C of each step of scikit-learn's path; empty where there was none."""
    c: float | None = None
    """The C of `mixture`; 0: no training."""


def _one_of(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise BadInput(f"{name} is {value!r}: expected one of {', '.join(choices)}")


def _at_least(name: str, value: float, least: int) -> None:
    if not (math.isfinite(value) and value >= least):
        kind = "" if isinstance(value, int) else "a finite number of "
        raise BadInput(f"{name} is {value}: expected {kind}at least {least}")
