"""Many settings of K, λ and seed in one fit: a leaderboard, K by the one-standard-error rule, the winner as a run."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from micropref.cache.errors import BadInput, Interrupted
from micropref.cache.keys import short_id
from micropref.cache.maintenance.uses import holds
from micropref.cache.store import StoreFolder
from micropref.heads.evaluation.selection import Candidate, compare_sizes, smallest_within_one_error
from micropref.heads.fitting.fit import fit_in_chunks
from micropref.heads.fitting.logistic_path import fit_path
from micropref.heads.fitting.pair_source import Source
from micropref.heads.fitting.settings import FitPlan, FitProgress, FitSetting, Fitted, PairTensors
from micropref.pipeline.training.choose_width import project
from micropref.pipeline.training.data import FitData
from micropref.pipeline.training.fresh_pairs import FreshPairs, open_fresh
from micropref.pipeline.training.restarts import fit_restarts, reads_contexts
from micropref.pipeline.training.results import Outcome, restarts_agreeing, save_outcome
from micropref.pipeline.training.sweep_checkpoint import load_chunks, remove_chunks, save_chunk
from micropref.pipeline.training.sweep_tables import save_tables
from micropref.pipeline.training.train import TrainOptions


@dataclass(frozen=True)
class Grid:
    """The values that a sweep combines; `TrainOptions.restarts` seeds of each."""

    k: tuple[int, ...] = (1, 2, 3, 5, 8, 10)
    """Numbers of reward heads; 1 is the single reward, which has neither λ nor local optima and is fitted once."""
    lam: tuple[float, ...] = (0.0, 0.03, 0.1, 0.3, 0.5)
    """Values of λ, the KL penalty towards uniform mixture weights; an ensemble has none and is fitted once a K."""

    def __post_init__(self) -> None:
        for name in ("k", "lam"):
            if not getattr(self, name):
                raise BadInput(f"{name} has no value: give at least one, for example 2")

    def settings(self, base: FitSetting, options: TrainOptions) -> list[FitSetting]:
        """Return the distinct settings, everything but K, λ and seed being those of `base`."""
        combined = [_setting(base, k, lam) for k, lam in itertools.product(self.k, self.lam)]
        return [restart for setting in dict.fromkeys(combined) for restart in options.restarted(setting)]

    def middle(self, base: FitSetting) -> FitSetting:
        """Return the setting in the middle of the values: what the width of a projection is validated with."""
        k, lam = (sorted(set(values))[len(set(values)) // 2] for values in (self.k, self.lam))
        return _setting(base, int(k), lam)


@dataclass(frozen=True)
class Swept:
    """The result of `sweep`."""

    run: str
    """Id of the saved run, and the `sweep` of its settings in the view leaderboard."""
    record: dict[str, Any]
    """run.json."""
    settings: int
    """Settings fitted."""
    by_k: list[Candidate]
    """The best restart of each K: what K was chosen by."""
    leaderboard: list[dict[str, Any]]
    """A row for each K and λ, best first: figures of its best restart, share of its other restarts that agree."""
    splits: list[str]
    """Splits that the data set has: what the run can be scored on."""
    untested: str | None
    """Why the settings have no test accuracy; None where they have."""


@holds(data="name")
def sweep(
    store: StoreFolder,
    name: str,
    grid: Grid,
    base: FitSetting,
    plan: FitPlan,
    options: TrainOptions,
    progress: Callable[[FitProgress], None] | None = None,
) -> Swept:
    """Fit every combination of the grid on a data set's train split; choose by its validation prompts.

    K is the smallest whose best restart's validation NLL is within one standard error over prompts of the best of all;
    λ and seed are those of that restart, and its best seeds are merged as `train` does. Where users or contexts have
    groups, it is the NLL of known ones. Every setting's accuracy on test pairs is kept, and nothing is chosen
    by it.
    Raises BadInput like `train`, and Interrupted on Ctrl-C: finished chunks are kept, and the same call goes on from
    there.
    """
    settings = grid.settings(base, options)
    data = options.open(store, name, max(settings, key=lambda one: one.k), plan)
    asked = {"parent": None, "settings": _asked(grid, base, plan, options, data), **data.record()}
    sweep_id = f"sweep-{short_id(asked, 8)}"
    folder = store.run(sweep_id)
    projected = project(data, options.projection, grid.middle(base), plan, progress)
    fresh = open_fresh(data)
    outcomes = load_chunks(folder, settings, fresh.digest)
    try:
        pairs = projected.train, projected.validation
        for chunk in _chunks(*pairs, projected.scaled(settings), plan, progress, set(outcomes)):
            scored = {place: projected.outcome(one, settings[place], data) for place, one in chunk.items()}
            outcomes = _candidates(outcomes | _reported(scored, fresh))
            save_chunk(folder, [outcomes[place] for place in chunk], fresh.digest)
    except KeyboardInterrupt:
        save_tables(folder, data, _by_setting(outcomes.values()))
        kept = f"{len(outcomes)} of {len(settings)} settings are fitted and in the view leaderboard as {sweep_id}"
        raise Interrupted(f"interrupted: {kept}; the same command again goes on from there") from None
    by_k = compare_sizes({k: one.log_probability for k, one in _best_by_k(outcomes.values()).items()}, data.clusters)
    chosen = _best_by_k(outcomes.values())[smallest_within_one_error(by_k)]
    board = _leaderboard(outcomes.values())
    same = _by_setting(outcomes.values())[chosen.setting.k, chosen.setting.lam]
    found: dict[str, Any] = {"merged": 1, "restarts_agreeing": restarts_agreeing(same)}
    if options.merge and reads_contexts(chosen.setting, data):  # others' weights are gone: they are fitted again
        again = [one.setting for one in sorted(same, key=lambda one: one.setting.seed)]
        restarts = fit_restarts(data, projected, again, plan, merge=True)
        chosen, found = restarts.chosen, restarts.record()
    found["by_k"] = [asdict(one) for one in by_k]
    record = asked | data.group_record() | projected.record() | found
    save_tables(folder, data, _by_setting(outcomes.values()))
    run = save_outcome(store, sweep_id, record, chosen, data, options.prune)
    remove_chunks(folder)
    return Swept(run.id, run.record, len(settings), by_k, board, data.dataset.splits(), fresh.unknown)


def _chunks(
    train: Source,
    validation: Source,
    settings: Sequence[FitSetting],
    plan: FitPlan,
    progress: Callable[[FitProgress], None] | None,
    done: Collection[int],
) -> Iterator[dict[int, Fitted]]:
    """Yield what is fitted by its place: the single reward as `train` fits it, all others in batches."""
    alone = [place for place, setting in enumerate(settings) if _by_path(setting, train)]
    for place in alone:
        if place not in done:
            yield {place: fit_path(train, validation, settings[place], progress)}
    others = [place for place in range(len(settings)) if place not in alone]
    if others:
        batched = [settings[place] for place in others]
        finished = {number for number, place in enumerate(others) if place in done}
        for chunk in fit_in_chunks(train, validation, batched, plan, progress, finished):
            yield {others[number]: fitted for number, fitted in chunk.items()}


def _by_path(setting: FitSetting, train: Source) -> bool:
    """Say whether scikit-learn fits a setting: one head, of pairs in memory that weigh alike."""
    return setting.method == "single" and setting.weight == "pair" and isinstance(train, PairTensors)


def _setting(base: FitSetting, k: int, lam: float) -> FitSetting:
    if k == 1:
        return replace(base, method="single", k=1, lam=0.0)
    return replace(base, k=k, lam=0.0 if base.method == "ensemble" else lam)


def _asked(grid: Grid, base: FitSetting, plan: FitPlan, options: TrainOptions, data: FitData) -> dict[str, Any]:
    shared = {key: value for key, value in asdict(base).items() if key not in ("k", "lam")}
    swept = {"k": list(grid.k), "lam": list(grid.lam)}
    # Only where it differs from earlier versions: other sweeps keep their ids.
    by_path = {"single": "scikit-learn"} if 1 in grid.k and base.weight == "pair" and not data.streamed else {}
    return shared | asdict(plan) | options.record(data, base) | swept | by_path


def _best_by_k(outcomes: Collection[Outcome]) -> dict[int, Outcome]:
    ordered = sorted(outcomes, key=lambda one: one.nll, reverse=True)
    return {one.setting.k: one for one in ordered}


def _reported(outcomes: Mapping[int, Outcome], fresh: FreshPairs) -> dict[int, Outcome]:
    """Return newly fitted settings with what they are worth on test pairs among their figures."""
    mixtures = [one.mixture for one in outcomes.values() if one.mixture is not None]
    places = zip(outcomes.items(), fresh.figures(mixtures), strict=True)
    return {place: replace(one, figures=one.figures | figures) for (place, one), figures in places}


def _candidates(outcomes: dict[int, Outcome]) -> dict[int, Outcome]:
    """Drop all weights but those of the best setting of each K: no other can be chosen."""
    best = {id(one) for one in _best_by_k(outcomes.values()).values()}
    return {place: one if id(one) in best else replace(one, mixture=None) for place, one in outcomes.items()}


def _by_setting(outcomes: Collection[Outcome]) -> dict[tuple[int, float], list[Outcome]]:
    """Return the restarts of every K and λ, best first, in the order of their best."""
    groups: dict[tuple[int, float], list[Outcome]] = {}
    for one in sorted(outcomes, key=lambda one: one.nll):
        groups.setdefault((one.setting.k, one.setting.lam), []).append(one)
    return groups


def _leaderboard(outcomes: Collection[Outcome]) -> list[dict[str, Any]]:
    return [
        {
            "k": k,
            "lam": lam,
            "seed": group[0].setting.seed,
            **group[0].figures,
            "restarts": len(group),
            "restarts_agreeing": restarts_agreeing(group),
        }
        for (k, lam), group in _by_setting(outcomes).items()
    ]
