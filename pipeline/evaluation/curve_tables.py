"""The tables behind the curves of a run: those of the sweep it came from, and of what was made of its heads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from micropref.cache.commits import read_commit, read_commits
from micropref.cache.datasets import read_table
from micropref.cache.keys import canonical_json
from micropref.cache.runs.records import Run, open_run, readable_runs
from micropref.cache.store import StoreFolder
from micropref.heads.evaluation.selection import Candidate

ROLES = frozenset({"budget_curve", "budget_totals", "history", "adaptation", "regret", "regret_by_round"})
"""Tables that curves are made of."""
SEEDED = frozenset({"seed", "budgets", "shots", "strength"})
"""Settings in which runs that are points of one curve may differ: the seed, the points, and what followed from them."""


@dataclass(frozen=True)
class SweepTables:
    """What a sweep left."""

    run: str
    """Its id, `sweep` in the views."""
    leaderboard: pl.DataFrame
    """One row a setting, as the view has it."""
    history: pl.DataFrame | None
    """One row for each setting and epoch, as the view has it; None of sweeps of earlier versions."""
    by_k: list[Candidate] | None
    """What K was chosen by; None where the sweep was interrupted."""


@dataclass(frozen=True)
class Variant:
    """Runs made of one run's heads in one way, with one seed or several."""

    label: str
    """The data set, where it is not the run's own, and settings in which this way differs from others; may be empty."""
    runs: tuple[str, ...]
    tables: dict[str, pl.DataFrame]
    """By role (budget_curve, budget_totals, history; adaptation; regret, regret_by_round), the rows of all runs; each
    has a column `seed` where its runs have one. A role that no run has is absent."""


def sweep_tables(store: StoreFolder, run: Run) -> SweepTables | None:
    """Return the sweep that a run, or the run whose heads it has, was chosen in; None where there was none."""
    found = read_commit(run.folder / "leaderboard.json")
    if found is None:
        parent = run.record.get("parent")
        return (
            None
            if parent is None or parent not in store.names("runs")
            else sweep_tables(store, open_run(store, parent))
        )
    by_k = run.record.get("by_k")
    return SweepTables(
        run.id,
        read_table(found, "leaderboard"),
        read_table(found, "history") if "history" in found.files else None,
        None if by_k is None else [_candidate(one) for one in by_k],
    )


def derived(store: StoreFolder, run: Run, runs: Sequence[Run] | None = None) -> dict[str, list[Variant]]:
    """Return by role what was made of a run's heads and left a table of it, each way by itself, in order of its label.

    `runs` are those of the store, where they have been read already.
    """
    there = readable_runs(store) if runs is None else runs
    children = [(child, _tables(child)) for child in there if child.record.get("parent") == run.id]
    roles = dict.fromkeys(role for _, tables in children for role in tables)
    return {role: _variants(run, [one for one in children if role in one[1]]) for role in roles}


def _tables(run: Run) -> dict[str, list[pl.DataFrame]]:
    """Return the tables that a run left, by role, with its seed where it has one."""
    found: dict[str, list[pl.DataFrame]] = {}
    seed = run.record["settings"].get("seed")
    for data in run.evaluated():
        for item in read_commits(run.eval_folder(data)):
            for role in ROLES & item.files.keys():
                table = read_table(item, role)
                if "seed" not in table and seed is not None:
                    table = table.with_columns(seed=pl.lit(seed, pl.Int64))
                found.setdefault(role, []).append(table)
    return found


def _variants(run: Run, children: Sequence[tuple[Run, dict[str, list[pl.DataFrame]]]]) -> list[Variant]:
    """Return the ways in which runs were made of one run's heads, which each left a table of some role."""
    members: dict[str, list[tuple[Run, dict[str, list[pl.DataFrame]]]]] = {}
    for one in children:
        members.setdefault(canonical_json(_way(one[0])), []).append(one)
    ways = [_way(own[0][0]) for own in members.values()]
    variants = []
    for way, own in zip(ways, members.values(), strict=True):
        roles = dict.fromkeys(role for _, tables in own for role in tables)
        parts = {role: [part for _, tables in own for part in tables.get(role, ())] for role in roles}
        whole = {role: pl.concat(found, how="diagonal_relaxed") for role, found in parts.items()}
        variants.append(Variant(_label(way, ways, run), tuple(child.id for child, _ in own), whole))
    return sorted(variants, key=lambda one: (one.label, one.runs))


def _way(run: Run) -> dict[str, Any]:
    """Return what has to be the same for runs to be points of one curve."""
    settings = {name: value for name, value in run.record["settings"].items() if name not in SEEDED}
    return {"method": run.record["method"], "data": run.record["data"], **settings}


def _label(way: dict[str, Any], ways: Sequence[dict[str, Any]], run: Run) -> str:
    differing = [name for name in way if any(other.get(name) != way[name] for other in ways)]
    if way["data"] != run.record["data"] and "data" not in differing:
        differing.insert(0, "data")
    return ", ".join(f"{name} {way[name]}" for name in differing)


def _candidate(record: dict[str, Any]) -> Candidate:
    """Return what run.json keeps of a size; an error that is not known is infinite, as it was before it was saved."""
    known: dict[str, Any] = {name: math.inf if value is None else value for name, value in record.items()}
    return Candidate(**known)
