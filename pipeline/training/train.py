"""Stage 1: fit reward heads and router on cached features, several restarts at once, and save the best as a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from micropref.cache.choices import RewardInput
from micropref.cache.errors import BadInput
from micropref.cache.keys import short_id
from micropref.cache.maintenance.uses import holds
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.router_inputs import SIDE_BY_SIDE
from micropref.heads.fitting.settings import FitPlan, FitProgress, FitSetting
from micropref.pipeline.options import WantedRouterInput
from micropref.pipeline.training.choose_width import Width, check_width, most_components, project
from micropref.pipeline.training.data import FitData, open_within, read_again
from micropref.pipeline.training.memory_budget import Budget
from micropref.pipeline.training.restarts import CONTEXT_LAM, fit_restarts, reads_contexts
from micropref.pipeline.training.results import save_outcome
from micropref.pipeline.training.router_choice import Rule, rule_applies

UNREAD = (
    *("prior", "hidden", "lr", "weight_decay", "weight", "restarts", "prune"),
    *("epochs", "batch", "data_seed", "dtype", "device", "patience", "warmup", "anneal"),
)
"""Settings that the solver scikit-learn does not read: null in run.json, so that they change no run's id."""


@dataclass(frozen=True)
class TrainOptions:
    """Options of `train` and `sweep`, besides the model's settings and the plan of the fit."""

    router_input: WantedRouterInput = "auto"
    """What the router reads; auto: the context where the data has any, and what router_choice.py adds."""
    reward_input: RewardInput = "plain"
    """Behind which prompt the responses were embedded."""
    restarts: int = 8
    """Initialisations fitted together, seeds counting up from the setting's; the best by validation NLL is kept, or
    the best few merged."""
    features: str | None = None
    """Features id; None: the only one the data set is embedded with."""
    projection: Width = "none"
    """Principal components the fit works on: none (all), a number, or auto (as few as validation allows)."""
    prune: float | None = None
    """Correlation of two heads' validation predictions above which one of them is removed; None: never."""
    memory: int | None = None
    """Most memory of the process in bytes: pairs that need more are streamed; None: a share of the machine's."""
    router_features: str | None = None
    """Features id that contexts are read in; None: that of the pairs."""
    lam_by_data: bool = False
    """Whether `train` replaces λ by CONTEXT_LAM where a router reads contexts."""
    merge: bool = True
    """Whether the best restarts of a mixture that reads contexts become one, see heads/fitting/merging.py."""

    def __post_init__(self) -> None:
        if self.restarts < 1:
            raise BadInput(f"restarts is {self.restarts}: expected at least 1")
        if self.prune is not None and not 0 < self.prune < 1:
            raise BadInput(f"prune is {self.prune}: expected a correlation between 0 and 1, for example 0.95")
        check_width(self.projection)

    def open(self, store: StoreFolder, name: str, setting: FitSetting, plan: FitPlan) -> FitData:
        """Load or stream the pairs that a setting, the largest of several, is fitted and validated on."""
        return open_within(
            self.budget(setting, plan),
            store,
            name,
            features=self.features,
            router_input=self.router_input,
            reward_input=self.reward_input,
            router_features=self.router_features,
        )

    def budget(self, setting: FitSetting, plan: FitPlan) -> Budget:
        """Return the memory of a fit whose largest setting this is."""
        return Budget(self.memory, setting, plan, most_components(self.projection))

    def restarted(self, setting: FitSetting) -> list[FitSetting]:
        """Return a setting with each of its seeds; one head is a convex problem and needs one."""
        seeds = range(setting.seed, setting.seed + (self.restarts if setting.k > 1 else 1))
        return [replace(setting, seed=seed) for seed in seeds]

    def record(self, data: FitData, setting: FitSetting) -> dict[str, Any]:
        """Return what run.json says of the options for a setting, those left to the data resolved."""
        return {
            **({"merge": self.merge} if reads_contexts(setting, data) else {}),
            **({} if data.router_features is None else {"router_features": data.router_features.id}),
            "restarts": self.restarts,
            "router_input": data.router_input,
            "reward_input": data.reward_input,
            "projection": str(self.projection),
            "prune": self.prune,
        }


@dataclass(frozen=True)
class Trained:
    """The result of `train`."""

    run: str
    """Id of the saved run, made of its settings and data: the same fit again is the same run."""
    record: dict[str, Any]
    """run.json."""
    restarts: list[dict[str, Any]]
    """Seed, validation NLL and epochs of every restart."""
    splits: list[str]
    """Splits that the data set has: what the run can be scored on."""


@holds(data="name")
def train(
    store: StoreFolder,
    name: str,
    setting: FitSetting,
    plan: FitPlan,
    options: TrainOptions,
    progress: Callable[[FitProgress], None] | None = None,
) -> Trained:
    """Fit one setting on a data set's train split and save the best restart by validation NLL, or the best few merged.

    Where users or contexts have one group for all their pairs, that is the NLL of known ones: see heads/held_out.py.

    scikit-learn reads all pairs at once: where they are streamed, adamw takes its place. Raises BadInput where the data
    set lacks what the options ask for or has no validation prompt.
    """
    if setting.k == 1:
        setting = replace(setting, lam=0.0)  # without an effect on one head: as a sweep has it
    data = options.open(store, name, setting, plan)
    if data.streamed and plan.solver == "scikit-learn":
        plan = replace(plan, solver="adamw")
    if options.lam_by_data and reads_contexts(setting, data):
        setting = replace(setting, lam=CONTEXT_LAM)
    projected = project(data, options.projection, setting, plan, progress)
    settings = options.restarted(setting)
    found = fit_restarts(data, projected, settings, plan, merge=options.merge, progress=progress)
    chosen: dict[str, Any] = {}
    if options.router_input == "auto" and rule_applies(data, setting):
        rule = Rule(settings, plan, options.merge, progress)
        found, choice = rule.apply(found, read_again(data, SIDE_BY_SIDE, options.budget(setting, plan)))
        data, projected, chosen = found.data, found.projected, choice.record()
    asked = {"parent": None, "settings": _settings(setting, plan, options, data), **data.record()}
    run_id = f"{setting.method}-{short_id(asked, 8)}"
    record = asked | data.group_record() | projected.record() | found.record() | chosen
    run = save_outcome(store, run_id, record, found.chosen, data, options.prune)
    return Trained(run.id, run.record, found.listed, data.dataset.splits())


def _settings(setting: FitSetting, plan: FitPlan, options: TrainOptions, data: FitData) -> dict[str, Any]:
    """Return what run.json says was asked for."""
    settings = asdict(setting) | asdict(plan) | options.record(data, setting)
    return settings | dict.fromkeys(UNREAD) if plan.solver == "scikit-learn" else settings
