"""The tables behind the curves of a run: those of the sweep it came from, and of what was made of its heads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from micropref.cache.commits import Commit, read_commit, read_commits
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


def derived(store: StoreFolder, run: Run, role: str, runs: Sequence[Run] | None = None) -> list[Variant]:
    """Return what was made of a run's heads and left a table of this role, each way by itself, in order of its label.

    `runs` are those of the store, where they have been read already.
    """
    found: dict[str, list[tuple[Run, list[Commit]]]] = {}
    for child in readable_runs(store) if runs is None else runs:
        if child.record.get("parent") == run.id:
            commits = [item for data in child.evaluated() for item in read_commits(child.eval_folder(data))]
            if any(role in item.files for item in commits):
                found.setdefault(canonical_json(_way(child)), []).append((child, commits))
    ways = [_way(members[0][0]) for members in found.values()]
    variants = [_variant(_label(way, ways, run), found[canonical_json(way)]) for way in ways]
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


def _variant(label: str, members: Sequence[tuple[Run, Sequence[Commit]]]) -> Variant:
    tables: dict[str, list[pl.DataFrame]] = {}
    for run, commits in members:
        seed = run.record["settings"].get("seed")
        for item in commits:
            for role in ROLES & item.files.keys():
                table = read_table(item, role)
                if "seed" not in table and seed is not None:
                    table = table.with_columns(seed=pl.lit(seed, pl.Int64))
                tables.setdefault(role, []).append(table)
    whole = {role: pl.concat(parts, how="diagonal_relaxed") for role, parts in tables.items()}
    return Variant(label, tuple(run.id for run, _ in members), whole)


def _candidate(record: dict[str, Any]) -> Candidate:
    """Return what run.json keeps of a size; an error that is not known is infinite, as it was before it was saved."""
    known: dict[str, Any] = {name: math.inf if value is None else value for name, value in record.items()}
    return Candidate(**known)
