"""Groups from who chose: recovery against pairs of each person, with and without annealing, and what it costs.

People of four tastes, planted, whose prompts say nothing of them. `accuracy` is that of the head that does best on each
group's validation pairs, on test pairs; `ceiling` that of the heads that made the choices; `known` that of new pairs of
people known by up to 16 choices. With --store and --name the same on a data set with attributes, contexts unread: its
pairs are assigned to made-up people of one attribute each, and one model for each attribute is the ceiling.
Run by `make latent`; --quick is a smoke test of small sizes.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import torch
from harness import BUILD, Bar, alternating, at_least, at_most, median_ratio, report
from torch.nn import functional as F

from micropref.cache.store import StoreFolder
from micropref.cache.vectors.pair_features import load_pairs
from micropref.heads.choices import Latent
from micropref.heads.evaluation.metrics import accuracy, correct
from micropref.heads.evaluation.selection import agreeing_share
from micropref.heads.fitting.fit import FitPlan, FitSetting, Fitted, PairTensors, fit
from micropref.heads.fitting.validation import known_weights
from micropref.heads.mixture import Mixture, pair_log_probability
from micropref.pipeline.comparison.ceiling import CEILING_PLAN
from micropref.pipeline.training.data import open_fit_data
from tests.support.populations import GROUPS, People, plant_people

EACH = (1, 2, 4, 8, 16)
WIDTH, RESTARTS, RATE = 64, 8, 3e-2
PLAN = FitPlan(batch=512, epochs=60)
COST_WIDTH, COST_PAIRS = 384, 9600
Variant = tuple[Latent, bool]
VARIANTS: dict[str, Variant] = {"user": ("user", True), "user, not annealed": ("user", False), "pair": ("pair", True)}


def assigned(store: Path, name: str, each: int) -> People:
    """Deal a data set's pairs to people of one attribute, `each` to fit for all of them; others by chance."""
    data = open_fit_data(StoreFolder(store), name, routed=True, router_input="prompt")
    tested = load_pairs(data.dataset, data.features, "test", router_input="prompt")
    parts = [part.take(part.table["attribute"].is_not_null()) for part in (data.fitting, data.validation, tested)]
    names = sorted(parts[0].table["attribute"].unique())
    groups = [
        part.table["attribute"].replace_strict(names, range(len(names)), return_dtype=pl.Int64).to_torch()
        for part in parts
    ]
    people = torch.bincount(groups[0]) // each
    generator = torch.Generator().manual_seed(each)
    tensors = []
    for part, group in zip(parts, groups, strict=True):
        person = torch.empty_like(group)
        for number, count in enumerate(people.tolist()):
            mine = torch.nonzero(group == number).flatten()
            person[mine[torch.randperm(len(mine), generator=generator)]] = torch.arange(len(mine)) % count
        tensors.append(PairTensors(part.delta, part.router, person * len(names) + group))
    heads = []
    for number in range(len(names)):
        own = [PairTensors(one.delta[g == number], None) for one, g in zip(tensors, groups, strict=True)]
        heads.append(fit(own[0], own[1], [FitSetting("single", 1)], CEILING_PLAN)[0].mixture.heads)
    return People(*tensors, (groups[1], groups[2]), torch.cat(heads))


def evaluated(people: People, fitted: list[Fitted]) -> dict[str, Any]:
    """Return what the best restart reaches, and how many of the others are of one mind with it."""
    ordered, groups = sorted(fitted, key=lambda one: one.validation_nll), len(people.truth)
    mixture = ordered[0].mixture
    right = [correct(F.logsigmoid(mixture.margins(part.delta))) for part in (people.validation, people.test)]
    best = torch.stack([right[0][people.group[0] == group].mean(0).argmax() for group in range(groups)])
    weights = known_weights([one.mixture for one in ordered], people.fit, people.test)
    return {
        "accuracy": right[1].gather(1, best[people.group[1]][:, None]).mean().item(),
        "known": accuracy(pair_log_probability(mixture.margins(people.test.delta), weights[0])),
        "restarts that agree": agreeing_share([one.argmax(1) for one in weights], groups),
    }


def recovery(made: People, of: str, each: int, base: FitSetting, plan: FitPlan) -> list[dict[str, Any]]:
    """Return a row for each variant of a setting, RESTARTS of it fitted together."""
    truth = correct(F.logsigmoid(Mixture(made.truth).margins(made.test.delta)))
    ceiling = truth.gather(1, made.group[1][:, None]).mean().item()
    rows = []
    for name, (latent, anneal) in VARIANTS.items():
        restarts = [replace(base, latent=latent, seed=seed) for seed in range(RESTARTS)]
        found = evaluated(made, fit(made.fit, made.validation, restarts, replace(plan, anneal=anneal)))
        rows.append({"people": of, "pairs each": each, "latent": name, "ceiling": ceiling, **found})
    return rows


def cost(each: int, method: str, pairs: int, rounds: int) -> tuple[dict[str, Any], Bar]:
    """Return the seconds of whole fits of 16 settings, the grouped one's over the other's on the same pairs."""
    made = plant_people(pairs // each, each, COST_WIDTH, 0)
    # Both as `train` fits users.
    plan = FitPlan(patience=0)
    plan = replace(plan, batch=plan.minibatch(made.fit.pairs, "user"))

    def work(latent: Latent) -> None:
        every = [FitSetting(method, 5, seed=seed, latent=latent) for seed in range(16)]  # type: ignore[arg-type]
        fit(made.fit, made.validation, every, plan)

    times = alternating({"user": lambda: work("user"), "pair": lambda: work("pair")}, rounds)
    ratio = median_ratio(times["user"], times["pair"])
    shape = f"{method}, {made.fit.pairs} x {COST_WIDTH}, {each} pairs each"
    row = {"shape": shape, "seconds, user": min(times["user"]), "seconds, pair": min(times["pair"])}
    return row, at_most(f"{shape}: latent user, times the cost of latent pair", ratio, 1.5)


def main() -> None:
    """Print and write the table, the costs and the bars."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few people: does it run")
    parser.add_argument("--out", type=Path, default=BUILD / "latent.json")
    parser.add_argument("--store", type=Path, help="store with embedded pairs, for rows of real features")
    parser.add_argument("--name", default="demo", help="data set in the store")
    asked = parser.parse_args()
    people, pairs, rounds = (60, 600, 1) if asked.quick else (1000, COST_PAIRS, 5)
    planted = FitSetting("static", GROUPS, lr=RATE)
    rows = []
    for each in EACH:
        rows += recovery(plant_people(people, each, WIDTH, each), f"{people:,} planted", each, planted, PLAN)
    for each in EACH if asked.store else ():
        made = assigned(asked.store, asked.name, each)
        rows += recovery(made, asked.name, each, FitSetting("mixture", len(made.truth)), FitPlan())
    bars = []
    for row in rows:
        if row["pairs each"] >= 8 and row["latent"] == "user":
            name = f"{row['people']}, {row['pairs each']} pairs each"
            bars.append(at_most(f"{name}: ceiling less accuracy", row["ceiling"] - row["accuracy"], 0.03))
            bars.append(at_least(f"{name}: restarts that agree", row["restarts that agree"], 1))
    for method in ("mixture", "static"):
        row, bar = cost(8, method, pairs, rounds)
        rows.append(row)
        bars.append(bar)
    report(asked.out, rows, bars, quick=asked.quick, rounds=rounds)


if __name__ == "__main__":
    main()
