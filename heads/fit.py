"""The fit behind every command that learns reward heads: many settings at once, on cached features.

Letters: G settings, N pairs, D embedding width.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from cache.errors import BadInput, Failure
from heads.feed import Feed, Scales, batch_size, training_scales
from heads.hardware import resolve_device, resolve_dtype
from heads.mixture import Mixture
from heads.objective import log_probability
from heads.settings import Execution, FitPlan, FitProgress, FitSetting, Fitted, PairTensors
from heads.solvers import AdamW, Lbfgs, Optimizer
from heads.stack import Parts, Stack, as_mixture, initial_weights

__all__ = ["FitPlan", "FitProgress", "FitSetting", "Fitted", "PairTensors", "fit", "fit_in_chunks", "mean_nll"]

CHUNK_SETTINGS = 16
"""Settings fitted together at most: more do not make the products faster, and hold more memory."""


def fit(
    train: PairTensors,
    validation: PairTensors,
    settings: Sequence[FitSetting],
    plan: FitPlan,
    progress: Callable[[FitProgress], None] | None = None,
) -> list[Fitted]:
    """Fit every setting and return them in the order given.

    Settings of all methods, K and router widths share their minibatches; a setting's result does not depend
    on its company beyond rounding. Raises BadInput for features that do not fit the settings, and Failure
    when a setting's loss is never finite.
    """
    fitted: dict[int, Fitted] = {}
    for chunk in fit_in_chunks(train, validation, settings, plan, progress):
        fitted |= chunk
    return [fitted[g] for g in range(len(settings))]


def fit_in_chunks(
    train: PairTensors,
    validation: PairTensors,
    settings: Sequence[FitSetting],
    plan: FitPlan,
    progress: Callable[[FitProgress], None] | None = None,
    done: Collection[int] = (),
) -> Iterator[dict[int, Fitted]]:
    """Do what `fit` does and yield every chunk as it is finished, by the settings' places in the list.

    A chunk whose places are all in `done` is passed over; the others are those of a call without `done`.
    """
    _check(train, validation, settings)
    device = resolve_device(plan.device)
    shared = _Shared(
        train, validation, plan, training_scales(train), device, resolve_dtype(plan.dtype, device, plan.solver)
    )
    order = sorted(range(len(settings)), key=lambda g: (settings[g].routed, settings[g].hidden, settings[g].k))
    chunks = _chunks(order, 1 if plan.solver == "lbfgs" else CHUNK_SETTINGS)
    for number, chunk in enumerate(chunks, 1):
        if not set(chunk).issubset(done):
            results = _fit_chunk(shared, [settings[g] for g in chunk], (number, len(chunks)), progress)
            yield dict(zip(chunk, results, strict=True))


@torch.no_grad()
def mean_nll(mixture: Mixture, data: PairTensors, device: torch.device | str = "cpu", batch: int = 2048) -> float:
    """Return a mixture's mean NLL over the pairs, in nats, computed in float32."""
    device = torch.device(device)
    mixture = mixture.to(device)
    feed = Feed(data, mixture.router is not None, batch, torch.float32, device)
    total = sum(mixture.log_probability(rows.delta, rows.router).double().sum().item() for rows in feed.in_order())
    return -total / feed.pairs


def _check(train: PairTensors, validation: PairTensors, settings: Sequence[FitSetting]) -> None:
    if not settings:
        raise BadInput("there is no setting to fit: give at least one")
    if any(setting.routed for setting in settings) and (train.router is None or validation.router is None):
        raise BadInput("a mixture needs the router's input for training and validation pairs: only Δ was given")
    widths = [
        (data.delta.shape[1], None if data.router is None else data.router.shape[1]) for data in (train, validation)
    ]
    if widths[0] != widths[1]:
        raise BadInput(f"training features are {widths[0]} wide, validation features {widths[1]}: embed them alike")


def _chunks(order: list[int], most: int) -> list[list[int]]:
    """Cut into as few parts as `most` allows, of sizes that differ by one at most."""
    parts = math.ceil(len(order) / most)
    cuts = [len(order) * part // parts for part in range(parts + 1)]
    return [order[start:stop] for start, stop in itertools.pairwise(cuts)]


@dataclass(frozen=True, slots=True)
class _Shared:
    """What all chunks of a call have in common."""

    train: PairTensors
    validation: PairTensors
    plan: FitPlan
    scales: Scales
    device: torch.device
    dtype: torch.dtype

    @property
    def batch(self) -> int:
        pairs = len(self.train.delta)
        return pairs if self.plan.solver == "lbfgs" else batch_size(pairs, self.plan.batch)


@dataclass(slots=True)
class _Track:
    """One setting's way through the epochs: its histories and the weights to return."""

    setting: FitSetting
    patience: int
    best_nll: float = math.inf
    best_epoch: int = 0
    weights: Parts = field(default_factory=dict)
    train: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)

    def add(self, train_nll: float, validation_nll: float, stack: Stack, position: int) -> None:
        self.train.append(train_nll)
        self.validation.append(validation_nll)
        if math.isfinite(validation_nll) and (self.patience == 0 or validation_nll < self.best_nll):
            self.best_nll, self.best_epoch = validation_nll, len(self.validation)
            self.weights = stack.weights(position)

    @property
    def stopped(self) -> bool:
        return self.patience > 0 and len(self.validation) - self.best_epoch >= self.patience


@torch.no_grad()
def _fit_chunk(
    shared: _Shared,
    settings: list[FitSetting],
    number: tuple[int, int],
    progress: Callable[[FitProgress], None] | None,
) -> list[Fitted]:
    plan = shared.plan
    solver = _solver(shared, settings)
    routed = any(setting.routed for setting in settings)
    held_out = Feed(shared.validation, routed, plan.batch, shared.dtype, shared.device)
    tracks = [_Track(setting, plan.patience) for setting in settings]
    active = tracks
    for epoch in range(1, plan.epochs + 1):
        train_nll = solver.epoch().tolist()
        validation_nll = _validation_nll(solver.stack, held_out).tolist()
        for position, track in enumerate(active):
            track.add(train_nll[position], validation_nll[position], solver.stack, position)
        going = [position for position, track in enumerate(active) if not track.stopped]
        if progress is not None:
            best = min(track.best_nll for track in tracks)
            progress(FitProgress(*number, epoch, plan.epochs, len(going), best))
        if not going or solver.converged:
            break
        if len(going) < len(active):
            solver.keep(going)
            active = [active[position] for position in going]
    return [_fitted(track, shared, len(settings)) for track in tracks]


def _solver(shared: _Shared, settings: list[FitSetting]) -> Optimizer:
    train, plan = shared.train, shared.plan
    master = torch.float64 if shared.dtype == torch.float64 else torch.float32
    router_width = 0 if train.router is None else train.router.shape[1]
    weights = [
        {
            name: part.to(shared.device)
            for name, part in initial_weights(setting, train.delta.shape[1], router_width, master).items()
        }
        for setting in settings
    ]
    stack = Stack(settings, weights, shared.scales, len(train.delta), shared.dtype)
    feed = Feed(train, stack.routed, shared.batch, shared.dtype, shared.device)
    return Lbfgs(stack, feed) if plan.solver == "lbfgs" else AdamW(stack, feed, plan)


def _validation_nll(stack: Stack, feed: Feed) -> torch.Tensor:
    """Return each setting's mean NLL [G] over all pairs of the feed."""
    total = torch.zeros(len(stack.settings), dtype=torch.float64)
    for batch in feed.in_order():
        activations = stack.forward(batch)
        log_weights = torch.log_softmax(activations.logits, 1)
        total -= log_probability(activations.margins, log_weights).sum(1).cpu().double()
    return total / feed.pairs


def _fitted(track: _Track, shared: _Shared, chunk: int) -> Fitted:
    setting, device = track.setting, shared.device
    if not track.weights:
        raise Failure(f"the validation loss of {setting} was never finite: lower its lr, or look for extreme features")
    mixture = as_mixture(setting, track.weights, shared.scales)
    return Fitted(
        setting=setting,
        mixture=mixture,
        best_epoch=track.best_epoch,
        epochs_run=len(track.validation),
        validation_nll=mean_nll(mixture, shared.validation, device, shared.plan.batch),
        train_history=tuple(track.train),
        validation_history=tuple(track.validation),
        execution=Execution(device.type, str(shared.dtype).removeprefix("torch."), shared.batch, chunk),
    )
