"""Choosing how many principal components a fit works on: a number, all of them, or as few as validation allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from micropref.cache.errors import BadInput
from micropref.heads.evaluation.selection import compare_sizes, smallest_equivalent
from micropref.heads.fitting.fit import fit
from micropref.heads.fitting.pair_source import Source
from micropref.heads.fitting.projection import Projection, fit_projection, principal_components, rate_factor
from micropref.heads.fitting.settings import FitPlan, FitProgress, FitSetting, Fitted
from micropref.pipeline.training.data import FitData
from micropref.pipeline.training.results import Outcome, outcome_of

PROBED = (64, 128, 256, 512)
"""Widths that `auto` tries, those below the embeddings' width."""
PROBES = 4
"""Restarts of the probed setting at each width; the best of them counts."""
SLACK = 0.005
"""Nats per pair that a narrower fit may lose even where that is more than chance."""

Width = int | Literal["none", "auto"]


@dataclass(frozen=True)
class Projected:
    """The pairs of a fit in the width it works in."""

    train: Source
    validation: Source
    projection: Projection | None
    """None at full width."""
    width: int
    """Of Δ as it is fitted."""
    lr_factor: float
    """By which learning rates are raised to go as far as in full width, see `heads.fitting.projection.rate_factor`."""
    tried: dict[int, float]
    """Validation NLL by width, of the best probe; empty where the width was given."""

    def scaled(self, settings: Sequence[FitSetting]) -> list[FitSetting]:
        """Return the settings with the learning rates that here go as far as theirs do in full width."""
        return [replace(setting, lr=setting.lr * self.lr_factor) for setting in settings]

    def outcome(self, fitted: Fitted, setting: FitSetting, data: FitData) -> Outcome:
        """Score the fitted `setting`, which was fitted on these pairs as `scaled` has it."""
        return outcome_of(replace(fitted, setting=setting), self.validation, data.clusters, self.projection)

    def record(self) -> dict[str, Any]:
        """Return what run.json says of it."""
        return {
            "fit_width": self.width,
            "lr_factor": self.lr_factor,
            "widths_tried": {str(width): value for width, value in self.tried.items()},
        }


def check_width(wanted: Width) -> None:
    """Raise BadInput for anything but none, auto or a positive number."""
    if wanted not in ("none", "auto") and not (isinstance(wanted, int) and wanted > 0):
        raise BadInput(f"projection is {wanted!r}: expected none, auto, or a number of components such as 256")


def most_components(wanted: Width) -> int:
    """Return how many components `projection` asks to hold at most; 0 where it asks for none."""
    return {"none": 0, "auto": PROBED[-1]}[wanted] if isinstance(wanted, str) else wanted


def project(
    data: FitData,
    wanted: Width,
    setting: FitSetting,
    plan: FitPlan,
    progress: Callable[[FitProgress], None] | None = None,
) -> Projected:
    """Return the pairs in the wanted width; principal components are those of the pairs to fit alone.

    auto probes with `setting`: the smallest width whose validation NLL is within one standard error over prompts
    (paired), or within SLACK, of the best one's, the full width among them.
    """
    full = data.features.width
    if wanted == "none" or (isinstance(wanted, int) and wanted >= full):
        return _projected(data, None, {})
    if isinstance(wanted, int):
        return _projected(data, fit_projection(data.sources()[0], wanted), {})
    return _validated(data, setting, plan, progress)


def _projected(data: FitData, projection: Projection | None, tried: dict[int, float]) -> Projected:
    train, validation = data.sources()
    if projection is None:
        return Projected(train, validation, None, train.width, 1.0, tried)
    narrow = projection.project(train)
    factor = rate_factor(train, narrow)
    return Projected(narrow, projection.project(validation), projection, narrow.delta.shape[1], factor, tried)


def _validated(
    data: FitData, setting: FitSetting, plan: FitPlan, progress: Callable[[FitProgress], None] | None
) -> Projected:
    full = data.features.width
    widths = [width for width in PROBED if width < full]
    widest = principal_components(data.sources()[0], widths[-1]) if widths else None
    bases = {width: widest.projection(width) for width in widths} if widest else {}
    probes = [replace(setting, seed=setting.seed + offset) for offset in range(PROBES if setting.k > 1 else 1)]
    found = {}
    for width in [*widths, full]:
        view = _projected(data, bases.get(width), {})
        fitted = fit(view.train, view.validation, view.scaled(probes), plan, progress)
        found[width] = view.outcome(min(fitted, key=lambda one: one.validation_nll), setting, data)
    candidates = compare_sizes({width: one.log_probability for width, one in found.items()}, data.clusters)
    chosen = smallest_equivalent(candidates, SLACK)
    return _projected(data, bases.get(chosen), {width: one.nll for width, one in found.items()})
