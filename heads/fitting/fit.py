"""The fit behind every command that learns reward heads: many settings at once, on cached features.

Letters: G settings, N pairs, D embedding width.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from micropref.cache.errors import BadInput, Failure
from micropref.heads.choices import Weight
from micropref.heads.evaluation.metrics import nll
from micropref.heads.fitting.group_losses import ANNEALED_SHARE
from micropref.heads.fitting.hardware import resolve_device, resolve_dtype
from micropref.heads.fitting.initial_weights import Parts, as_mixture, initial_weights
from micropref.heads.fitting.logistic_path import fit_path
from micropref.heads.fitting.minibatches import batch_size
from micropref.heads.fitting.no_context import with_no_context
from micropref.heads.fitting.pair_source import Source, open_feed, score, source_scales
from micropref.heads.fitting.scales import Scales
from micropref.heads.fitting.settings import Execution, FitPlan, FitProgress, FitSetting, Fitted, PairTensors
from micropref.heads.fitting.solvers import AdamW, Lbfgs, Optimizer, width_factor
from micropref.heads.fitting.stacked_weights import Stack, stacking_order
from micropref.heads.fitting.unit_minibatches import UnitFeed, units_of
from micropref.heads.fitting.validation import HeldOut, Known, known_weights
from micropref.heads.mixture import Mixture, pair_log_probability

__all__ = ["FitPlan", "FitProgress", "FitSetting", "Fitted", "PairTensors", "fit", "fit_in_chunks", "mean_nll"]

CHUNK_SETTINGS = 16
"""Settings fitted together at most: more do not make the products faster, and hold more memory."""


def fit(
    train: Source,
    validation: Source,
    settings: Sequence[FitSetting],
    plan: FitPlan,
    progress: Callable[[FitProgress], None] | None = None,
) -> list[Fitted]:
    """Fit every setting and return them in the order given.

    Settings of all methods, K and router widths share their minibatches; a setting's result does not depend
    on the other settings beyond rounding. Raises BadInput for features that do not fit the settings, and Failure
    when a setting's loss is never finite.
    """
    fitted: dict[int, Fitted] = {}
    for chunk in fit_in_chunks(train, validation, settings, plan, progress):
        fitted |= chunk
    return [fitted[g] for g in range(len(settings))]


def fit_in_chunks(
    train: Source,
    validation: Source,
    settings: Sequence[FitSetting],
    plan: FitPlan,
    progress: Callable[[FitProgress], None] | None = None,
    done: Collection[int] = (),
) -> Iterator[dict[int, Fitted]]:
    """Do what `fit` does and yield every chunk as it is finished, by the settings' places in the list.

    A chunk whose places are all in `done` is skipped; the others are those of a call without `done`.
    """
    _check(train, validation, settings, plan)
    if plan.solver == "scikit-learn":
        for place in (place for place in range(len(settings)) if place not in done):
            yield {place: fit_path(train, validation, settings[place], progress)}
        return
    device = resolve_device(plan.device)
    shared = _Shared(
        train, validation, plan, source_scales(train), device, resolve_dtype(plan.dtype, device, plan.solver)
    )
    chunks = _chunks(settings, 1 if plan.solver == "lbfgs" else CHUNK_SETTINGS)
    for number, chunk in enumerate(chunks, 1):
        if not set(chunk).issubset(done):
            results = _fit_chunk(shared, [settings[g] for g in chunk], (number, len(chunks)), progress)
            yield dict(zip(chunk, results, strict=True))


@torch.no_grad()
def mean_nll(mixture: Mixture, data: Source, device: torch.device | str = "cpu", batch: int = 2048) -> float:
    """Return a mixture's mean NLL over the pairs, in nats, computed in float32."""
    device = torch.device(device)
    mixture = mixture.to(device)
    feed = open_feed(data, mixture.router is not None, batch, torch.float32, device)
    log_p = (mixture.log_probability(rows.delta, rows.router, rows.router_rows) for rows in feed.in_order())
    return -sum(part.double().sum().item() for part in log_p) / feed.pairs


def _check(train: Source, validation: Source, settings: Sequence[FitSetting], plan: FitPlan) -> None:
    if not settings:
        raise BadInput("there is no setting to fit: give at least one")
    if any(setting.routed for setting in settings) and (train.router_width is None or validation.router_width is None):
        raise BadInput("a mixture needs the router's input for training and validation pairs: only Δ was given")
    widths = [(data.width, data.router_width) for data in (train, validation)]
    if widths[0] != widths[1]:
        raise BadInput(f"training features are {widths[0]} wide, validation features {widths[1]}: embed them alike")
    latents = sorted({setting.latent for setting in settings} - {"pair"})
    if not latents:
        return
    have_units = all(isinstance(one, PairTensors) and one.units is not None for one in (train, validation))
    if len(latents) > 1 or not have_units:
        raise BadInput(f"latent {' and '.join(latents)}: expected one of them, and every pair's, in memory")
    if plan.solver == "lbfgs":
        raise BadInput(f"solver lbfgs with latent {latents[0]}: it takes no minibatches of whole ones, so use adamw")


def _chunks(settings: Sequence[FitSetting], most: int) -> list[list[int]]:
    """Cut the settings' places into as few parts as share minibatches and hold `most`, of about one size."""
    order = sorted(range(len(settings)), key=lambda g: (_taken(settings[g]), stacking_order(settings[g])))
    chunks = []
    for _, group in itertools.groupby(order, key=lambda g: _taken(settings[g])):
        alike = list(group)
        parts = math.ceil(len(alike) / most)
        cuts = [len(alike) * part // parts for part in range(parts + 1)]
        chunks += [alike[start:stop] for start, stop in itertools.pairwise(cuts)]
    return chunks


def _taken(setting: FitSetting) -> tuple[bool, Weight]:
    """Return what minibatches depend on: whether units are taken whole, and what these weigh."""
    return setting.latent != "pair", setting.weight


@dataclass(frozen=True, slots=True)
class _Shared:
    """What all chunks of a call have in common."""

    train: Source
    validation: Source
    plan: FitPlan
    scales: Scales
    device: torch.device
    dtype: torch.dtype

    def batch(self, setting: FitSetting) -> int:
        pairs = self.train.pairs
        return pairs if self.plan.solver == "lbfgs" else batch_size(pairs, self.plan.minibatch(pairs, setting.latent))


@dataclass(slots=True)
class _Track:
    """One setting's state over the epochs: its histories and the weights to return."""

    setting: FitSetting
    patience: int
    settling: int
    best_nll: float = math.inf
    best_epoch: int = 0
    weights: Parts = field(default_factory=dict)
    train: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)

    def add(self, figures: Sequence[float], stack: Stack, position: int) -> None:
        train_nll, validation_nll, validation_accuracy = figures
        self.train.append(train_nll)
        self.validation.append(validation_nll)
        self.accuracy.append(validation_accuracy)
        if math.isfinite(validation_nll) and (self.patience == 0 or validation_nll < self.best_nll):
            self.best_nll, self.best_epoch = validation_nll, len(self.validation)
            self.weights = stack.weights(position)

    @property
    def stopped(self) -> bool:
        return self.patience > 0 and len(self.validation) - max(self.best_epoch, self.settling) >= self.patience


@torch.no_grad()
def _fit_chunk(
    shared: _Shared,
    settings: list[FitSetting],
    number: tuple[int, int],
    progress: Callable[[FitProgress], None] | None,
) -> list[Fitted]:
    plan = shared.plan
    solver, held_out = _solver(shared, settings)
    # While annealing still holds the heads together, a fit without improvement has not settled.
    settling = math.ceil(ANNEALED_SHARE * plan.epochs) if held_out.known is not None and plan.anneal else 0
    tracks = [_Track(setting, plan.patience, settling) for setting in settings]
    active = tracks
    for epoch in range(1, plan.epochs + 1):
        train_nll = solver.epoch().tolist()
        validated = (one.tolist() for one in held_out.figures(solver.stack))
        for position, (track, *figures) in enumerate(zip(active, train_nll, *validated, strict=True)):
            track.add(figures, solver.stack, position)
        going = [position for position, track in enumerate(active) if not track.stopped]
        if progress is not None:
            best = min(track.best_nll for track in tracks)
            progress(FitProgress(*number, epoch, plan.epochs, len(going), best))
        if not going or solver.converged:
            break
        if len(going) < len(active):
            solver.keep(going)
            active = [active[position] for position in going]
    return _fitted(tracks, shared)


def _solver(shared: _Shared, settings: list[FitSetting]) -> tuple[Optimizer, HeldOut]:
    """Return what fits the settings, and what they are validated by."""
    train, validation, plan = shared.train, shared.validation, shared.plan
    master = torch.float64 if shared.dtype == torch.float64 else torch.float32
    weights = [
        {
            name: part.to(shared.device)
            for name, part in initial_weights(setting, train.width, train.router_width or 0, master).items()
        }
        for setting in settings
    ]
    stack = Stack(settings, weights, shared.scales, train.pairs, shared.dtype)
    where = shared.dtype, shared.device, shared.scales.centre
    held_out = open_feed(validation, stack.routed, plan.batch, *where)
    if settings[0].latent == "pair":
        feed = open_feed(train, stack.routed, shared.batch(settings[0]), *where)
        return Lbfgs(stack, feed) if plan.solver == "lbfgs" else AdamW(stack, feed, plan), HeldOut(held_out)
    units = UnitFeed(train, stack.routed, shared.batch(settings[0]), settings[0].weight, *where)
    return AdamW(stack, units, plan), HeldOut(held_out, Known.of(units_of(train), units_of(validation)), units)


def _fitted(tracks: Sequence[_Track], shared: _Shared) -> list[Fitted]:
    lost = [track.setting for track in tracks if not track.weights]
    if lost:
        raise Failure(f"the validation loss of {lost[0]} was never finite: lower its lr, or look for extreme features")
    mixtures = [as_mixture(track.setting, track.weights, shared.scales) for track in tracks]
    if shared.train.lacks_contexts or shared.validation.lacks_contexts:
        mixtures = [with_no_context(mixture, shared.train) for mixture in mixtures]
    known: Sequence[torch.Tensor | None] = [None] * len(tracks)
    if tracks[0].setting.latent != "pair":
        known = known_weights(mixtures, shared.train, shared.validation)
    return [
        Fitted(
            setting=track.setting,
            mixture=mixture,
            best_epoch=track.best_epoch,
            epochs_run=len(track.validation),
            validation_nll=_validation_nll(mixture, weights, shared),
            known=weights,
            train_history=tuple(track.train),
            validation_history=tuple(track.validation),
            validation_accuracy_history=tuple(track.accuracy),
            execution=_execution(track.setting, shared, len(tracks)),
        )
        for track, mixture, weights in zip(tracks, mixtures, known, strict=True)
    ]


def _validation_nll(mixture: Mixture, known: torch.Tensor | None, shared: _Shared) -> float:
    if known is None:
        return mean_nll(mixture, shared.validation, shared.device, shared.plan.batch)
    return nll(pair_log_probability(score(mixture, shared.validation)[0], known))


def _execution(setting: FitSetting, shared: _Shared, chunk: int) -> Execution:
    return Execution(
        device=shared.device.type,
        dtype=str(shared.dtype).removeprefix("torch."),
        batch=shared.batch(setting),
        chunk=chunk,
        lr=setting.lr * width_factor(shared.train.width),
    )
