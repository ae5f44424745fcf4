"""The page of `sweep`."""

from __future__ import annotations

from micropref.pipeline.evaluation.curve_tables import SweepTables
from micropref.pipeline.show.page.figures import Figure, Page, PlainTable, Section
from micropref.pipeline.show.sections.sweeps import sweep_figures
from micropref.pipeline.show.sections.values import numbers_of
from micropref.pipeline.training.sweep import Swept


def swept_page(swept: Swept, tables: SweepTables) -> Page:
    """Return the curves by K, λ and epoch, and every setting."""
    record = swept.record
    lead = (
        f"Run {swept.run}: K = {record['k']}, λ = {record['lam']:g}, seed {record['seed']}, of {swept.settings:,} "
        f"settings of {record['data']}.",
    )
    warnings = () if swept.untested is None else (f"no test accuracy of the settings: {swept.untested}",)
    figures = (*sweep_figures(tables, ""), _settings(tables))
    return Page(f"micropref sweep: {record['data']}", lead, (Section("sweep", "Sweep", (), figures),), warnings)


def _settings(tables: SweepTables) -> Figure:
    names = [
        name
        for name in ("k", "lam", "seed", "validation_nll", "validation_accuracy", "test_accuracy", "effective_heads")
        if name in tables.leaderboard
    ]
    table = tables.leaderboard.sort("validation_nll")
    rows = tuple(
        tuple("" if value is None else f"{value:.4f}" if isinstance(value, float) else f"{value}" for value in row)
        for row in table.select(names).rows()
    )
    return Figure(
        "settings",
        "Settings",
        "Every K, λ and seed, lowest validation NLL first.",
        PlainTable(tuple(names), rows, frozenset(range(len(names)))),
        numbers_of(table),
    )
