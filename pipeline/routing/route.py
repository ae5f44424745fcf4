"""Stage 2: a run's router re-fitted on a small budget of pairs with contexts, its heads frozen (Algorithm 1)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace

import polars as pl
import torch
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from micropref.cache.choices import TEST, RewardInput
from micropref.cache.commits import commit, write_table
from micropref.cache.datasets import read_table
from micropref.cache.errors import BadInput
from micropref.cache.keys import short_id
from micropref.cache.maintenance.uses import holds
from micropref.cache.runs.records import Run, save_budget, save_run
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.groups import prompt_clusters
from micropref.cache.vectors.pair_features import PairFeatures
from micropref.heads.adaptation.router_refit import BAYES, TAUS, choose_tau, fresh_router, refit_rounds, refit_router
from micropref.heads.adaptation.routing_budget import RouteSetting
from micropref.heads.evaluation.intervals import RULE, fewest
from micropref.heads.evaluation.metrics import correct
from micropref.heads.mixture import Mixture, Router, pair_log_odds, pair_log_probability
from micropref.pipeline.options import RoutedBy
from micropref.pipeline.routing import curves as route_tables
from micropref.pipeline.routing.data import RouteData, open_route_data
from micropref.pipeline.routing.history import history
from micropref.pipeline.training.method_runs import fitted_contexts
from micropref.pipeline.training.results import Figures, figures_of, provenance


@dataclass(frozen=True)
class RouteOptions:
    """Options of `route`, besides the run and the data set."""

    budgets: tuple[int, ...] = (50,)
    """Pairs of every attribute; several for a curve, the largest makes the run."""
    tau: float | None = None
    """Temperature of Hedge; None: Bayes' rule, or another that is clearly better on wordings held out of the budget."""
    reward_input: RewardInput | None = None
    """Behind which prompt the responses were embedded; None: as the run has it."""
    setting: RouteSetting = field(default_factory=RouteSetting)
    """How the router is re-fitted."""

    def __post_init__(self) -> None:
        if not self.budgets or min(self.budgets) < 1:
            raise BadInput(f"budget is {','.join(map(str, self.budgets)) or 'empty'}: expected numbers of at least 1")
        if self.tau is not None and not 0 < self.tau < math.inf:
            raise BadInput(f"tau is {self.tau}: expected auto or a number above 0")


@dataclass(frozen=True)
class Fit:
    """The router after one size of the budget."""

    size: int
    """Pairs of every group; 0 is the run as it is."""
    tau: float | None
    """Temperature; None where the router was not re-fitted."""
    tau_nll: dict[float, float]
    """Held-out NLL inside the budget by temperature, where it was chosen."""
    start: Router
    """The router that was re-fitted."""
    router: Router
    """What became of it."""


@dataclass(frozen=True)
class Routed:
    """The result of `route`."""

    run: str
    """Id of the saved run, which has the router of the largest budget."""
    parent: str
    """The run whose heads it has."""
    data: str
    drawn_from: str
    """Split of the budget."""
    split: str
    """Split that is scored."""
    by: RoutedBy
    """What has a budget of its own."""
    groups: list[str]
    """Their names."""
    pairs: int
    """Pairs scored, the same for every size; none has a prompt of the largest budget."""
    without_context: int
    """Of these, pairs without a context: they have weights of their own."""
    oracle: float
    """Accuracy of the frozen heads where each attribute has the head that is best on the scored pairs themselves."""
    clusters: dict[str, int]
    """Users, prompts and new wordings of contexts that intervals are over, the fewest of any row."""
    totals: pl.DataFrame
    """One row a size: accuracy over all scored pairs, and the gain over the run as it is, with 95 % intervals."""
    budget_curve: pl.DataFrame
    """One row for each size and attribute, as the view of its name has it."""


@holds(run="run_id", data="data")
def route(store: StoreFolder, run_id: str, data: str | None, options: RouteOptions) -> Routed:
    """Re-fit a run's router for every size of the budget, score them alike, and save the largest as a run.

    Raises BadInput where the run cannot be routed or the data set lacks pairs or contexts.
    """
    sizes = sorted(set(options.budgets))
    found = open_route_data(store, run_id, data, sizes[-1], options.setting.seed, options.reward_input)
    fits = [_fit(found, size, options) for size in sizes]
    validation = _validation_pairs(found)
    run = _save(store, found, fits, options, validation)
    table, margins = found.scored.table, found.mixture.margins(found.scored.delta)
    weights = (routed_mixture(found, fit).log_weights(found.scored.router, len(found.scored)) for fit in fits)
    right = correct(torch.stack([found.stage1, *(pair_log_probability(margins, one) for one in weights)], 1))
    taus = {0: None, **{fit.size: fit.tau for fit in fits}}
    place = {
        "run": run.id,
        "parent": found.fitted.run.id,
        "data": found.dataset.name,
        "split": TEST,
        "seed": options.setting.seed,
    }
    known = fitted_contexts(store, run)
    totals, total = route_tables.totals(table, known, right, taus)
    curve, parts = route_tables.curve(table, known, right, taus)
    by_attribute = curve.select(*(pl.lit(value).alias(name) for name, value in place.items()), pl.all())
    rounds = _rounds(found, fits[-1], options.setting)
    rows = history(rounds, found.first(sizes[-1]), validation, found.scored)
    fitted = {name: run.record[name] for name in ("run", "parent", "method", "data", "k", "lam", "seed")}
    whole = totals.select(*(pl.lit(value).alias(name) for name, value in place.items()), pl.all())
    _keep(
        run,
        {
            "budget_curve": by_attribute,
            "budget_totals": whole,
            "history": pl.DataFrame([fitted | row for row in rows], infer_schema_length=None),
        },
    )
    return Routed(
        run=run.id,
        parent=found.fitted.run.id,
        data=found.dataset.name,
        drawn_from=found.split,
        split=TEST,
        by=found.by,
        groups=sorted(set(found.sample[found.by])),
        pairs=len(found.scored),
        without_context=found.scored.without_context,
        oracle=route_tables.oracle(table, correct(F.logsigmoid(margins))),
        clusters=fewest([total, *parts]),
        totals=totals,
        budget_curve=by_attribute,
    )


def _fit(found: RouteData, size: int, options: RouteOptions) -> Fit:
    """Re-fit the router on one size of the budget; one that does not read contexts starts from its mean weights."""
    budget, setting = found.first(size), options.setting
    start = found.mixture.router if found.fitted.reading.contexts else None
    if start is None:
        start = fresh_router(budget, setting)
    if options.tau is not None:
        return Fit(size, options.tau, {}, start, refit_router(start, budget, setting, options.tau))
    # A router that already reads contexts is left alone unless that is clearly worse; one that read prompts cannot be.
    left_alone = () if _reads_prompts(found) else (math.inf,)
    kept = math.inf if found.fitted.reading.contexts and found.mixture.router is not None else BAYES
    tau, scores = choose_tau(start, budget, setting, (*TAUS, *left_alone), kept)
    return Fit(size, None if math.isinf(tau) else tau, scores, start, refit_router(start, budget, setting, tau))


def _reads_prompts(found: RouteData) -> bool:
    return found.mixture.router is not None and not found.fitted.reading.contexts


def routed_mixture(found: RouteData, fit: Fit) -> Mixture:
    """Return the frozen heads with a re-fitted router; pairs without a context have the run's weights for such."""
    own = found.mixture.no_context
    return Mixture(
        found.mixture.heads, fit.router, no_context=found.first(fit.size).mean_weights() if own is None else own
    )


def _save(
    store: StoreFolder, found: RouteData, fits: list[Fit], options: RouteOptions, validation: PairFeatures
) -> Run:
    """Save the heads with the router of the largest budget.

    The budget is written first, with that of a parent that was routed itself: `eval` leaves both out.
    """
    setting = {**asdict(options.setting), "tau": options.tau or "auto", "budgets": [fit.size for fit in fits]}
    reads: dict[str, str] = {"router_input": found.reads, "reward_input": found.reward_input}
    if (contexts_in := found.fitted.reading.router_features) is not None:
        reads["router_features"] = contexts_in.id
    if found.reads == "context+prompt or prompt":  # the run stays one of the first release, in its words
        reads["router_input"] = "context"
    asked = {"parent": found.fitted.run.id, "settings": setting | reads, **found.record()}
    run_id = f"route-{short_id(asked, 8)}"
    mixture = routed_mixture(found, fits[-1])
    outcome = {
        "method": "mixture",
        "combine": "probability",
        "k": mixture.k,
        "lam": found.fitted.run.record["lam"],
        "seed": options.setting.seed,
        "tau": fits[-1].tau,
        "tau_nll": {str(fit.size): {str(tau): value for tau, value in fit.tau_nll.items()} for fit in fits},
        **_validated(mixture, validation),
    }
    parents = found.fitted.run.budget()
    spent = found.sample if parents is None else pl.concat([read_table(parents, "budget"), found.sample])
    save_budget(store, run_id, spent.to_arrow())
    return save_run(store, run_id, asked | outcome | provenance(), mixture.state())


def _validation_pairs(found: RouteData) -> PairFeatures:
    reads = replace(found.fitted.reading, router_input=found.reads, reward_input=found.reward_input)
    held_out = pl.col("part") == "validation"
    return reads.locate(found.dataset, found.fitted.features, found.split, held_out).load()


def _validated(mixture: Mixture, pairs: PairFeatures) -> Figures:
    """Return the run's figures on validation pairs as `train` has them; None where there are none."""
    if not len(pairs):
        unknown = dict.fromkeys(("validation_nll", "validation_nll_se", "validation_accuracy", "effective_heads"))
        return {"scale": 1.0, **unknown}
    margins, log_weights = mixture.margins(pairs.delta), mixture.log_weights(pairs.router, len(pairs))
    return figures_of(pair_log_odds(margins, log_weights), log_weights, prompt_clusters(pairs.table))


def _rounds(found: RouteData, fit: Fit, setting: RouteSetting) -> Iterator[Mixture]:
    """Yield the frozen heads with the router as it was before and after every round of the re-fit."""
    tau = math.inf if fit.tau is None else fit.tau
    for router in refit_rounds(fit.start, found.first(fit.size), setting, tau):
        yield routed_mixture(found, replace(fit, router=router))


def _keep(run: Run, tables: dict[str, pl.DataFrame]) -> None:
    """Keep tables by role where the views and the report find them."""
    folder, stem = run.eval_folder(run.record["data"]), f"route-{TEST}"
    files = {role: write_table(folder, stem, role, table.to_arrow()) for role, table in tables.items()}
    commit(folder, stem, files, {"split": TEST, "intervals": RULE})
