"""What `route` makes of a few pairs with contexts on the demo data: accuracy by size of the budget, over several draws.

The demo's test split has prompts and wordings of contexts that no budget has. A row is one run's heads and one size:
mean, worst and best accuracy over draws (`--seed` 0, 1, ...), the mean gain over the run as it is, the temperatures
chosen, and the widest half of a draw's 95 % interval. Rows of `reads context` start from a router that reads contexts
already, which must not get worse. Writes build/bench/route.json. Run by `make bench-route`; ARGS=--quick tries it.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path
from typing import Any

import polars as pl
from harness import BUILD, Bar, at_least, report

from micropref.cache.store import StoreFolder
from micropref.heads.adaptation.routing_budget import RouteSetting
from micropref.heads.fitting.settings import FitPlan, FitSetting
from micropref.pipeline.demo.demo import HEADS, NAME, run_demo
from micropref.pipeline.routing.route import RouteOptions, route
from micropref.pipeline.training.train import TrainOptions, train

USERS, PAIRS = "latent user, reads prompt", "latent pair, reads prompt"
BARS = {10: 0.80, 50: 0.85}
"""Least mean accuracy with so many pairs a group, for heads that found the groups by who chose."""


def trained(store: StoreFolder, quick: bool) -> dict[str, str]:
    """Embed the demo's data where that is not done yet, and return runs by what they are."""

    def say(line: str) -> None:
        print(line, file=sys.stderr)

    demo = run_demo(store, say).runs
    user, plan = FitSetting("mixture", HEADS, latent="user"), FitPlan()
    found = {USERS: train(store, NAME, user, plan, TrainOptions(router_input="prompt")).run}
    if quick:
        return found
    found["latent user, reads context"] = train(store, NAME, user, plan, TrainOptions(router_input="context")).run
    found[PAIRS] = demo["mixture, router reads prompt"]
    return {**found, "latent pair, reads context": demo["mixture, router reads context"]}


def routed(store: StoreFolder, run: str, budgets: tuple[int, ...], seeds: range) -> pl.DataFrame:
    """Return one row for each draw and size of the budget, 0 being the run as it is."""
    tables = []
    for seed in seeds:
        totals = route(store, run, None, RouteOptions(budgets, setting=RouteSetting(seed=seed))).totals
        tables.append(totals.with_columns(seed=pl.lit(seed)))
    return pl.concat(tables)


def summary(draws: pl.DataFrame) -> list[dict[str, Any]]:
    """Return a row for each size of the budget, over its draws."""
    by_size = draws.group_by("budget", maintain_order=True).agg(
        accuracy=pl.col("accuracy").mean(),
        worst=pl.col("accuracy").min(),
        best=pl.col("accuracy").max(),
        gain=pl.col("gain").mean(),
        half=((pl.col("high") - pl.col("low")) / 2).max(),
        tau=pl.col("tau").cast(pl.String).fill_null("as it was"),
    )
    return [{**row, "tau": " ".join(row["tau"])} for row in by_size.to_dicts()]


def bars_of(name: str, rows: list[dict[str, Any]]) -> list[Bar]:
    """Return what has to hold of one run: the bars by size, no fall along the budget, no loss of what contexts gave."""
    bars = [
        at_least(f"{name}, {row['budget']} pairs a group", row["accuracy"], BARS[row["budget"]])
        for row in rows
        if name == USERS and row["budget"] in BARS
    ]
    first = rows[0] if name.endswith("reads context") else rows[1]
    compared = [(first, row) for row in rows[1:]] + list(itertools.pairwise(rows[1:]))
    falls = [later["accuracy"] - earlier["accuracy"] + later["half"] for earlier, later in compared]
    return [*bars, at_least(f"{name}: no fall beyond the intervals", min(falls), 0.0)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one run, two draws, two sizes: does it run")
    parser.add_argument("--out", type=Path, default=BUILD / "route.json")
    parser.add_argument("--store", type=Path, default=BUILD / "route", help="keeps the demo's vectors and runs")
    parser.add_argument("--seeds", type=int, default=8, help="draws of the budget")
    parser.add_argument("--budgets", default="5,10,20,50,100")
    asked = parser.parse_args()
    budgets = tuple(int(size) for size in asked.budgets.split(","))
    seeds = range(2 if asked.quick else asked.seeds)
    store = StoreFolder(asked.store)
    rows, bars, draws = [], [], []
    for name, run in trained(store, asked.quick).items():
        table = routed(store, run, (5, 10) if asked.quick else budgets, seeds)
        own = summary(table)
        draws += [{"run": name, **row} for row in table.to_dicts()]
        rows += [{"run": name, **row} for row in own]
        bars += bars_of(name, own)
    report(asked.out, rows, bars, quick=asked.quick, seeds=len(seeds), draws=draws)


if __name__ == "__main__":
    main()
