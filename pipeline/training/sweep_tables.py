"""What a sweep keeps of all its settings: the table `leaderboard`, and every setting's `history` by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from micropref.cache.commits import commit, write_table
from micropref.cache.runs.histories import history_rows
from micropref.pipeline.training.data import FitData
from micropref.pipeline.training.results import Outcome, restarts_agreeing


def save_tables(folder: Path, data: FitData, groups: Mapping[tuple[int, float], Sequence[Outcome]]) -> None:
    """Write the tables of the settings fitted so far, by K and λ, below the run's folder; none of none."""
    board: list[dict[str, Any]] = []
    history: list[dict[str, Any]] = []
    for outcomes in groups.values():
        agreeing = restarts_agreeing(outcomes)
        for one in outcomes:
            setting = _named(folder.name, data, one)
            board.append({**setting, "features": data.features.id, **one.figures, "restarts_agreeing": agreeing})
            history += [{**setting, **row} for row in history_rows(one.fit)]
    if board:
        tables = {"leaderboard": board, "history": history}
        files = {
            role: write_table(folder, "leaderboard", role, pa.Table.from_pylist(rows)) for role, rows in tables.items()
        }
        commit(folder, "leaderboard", files, {"settings": len(board)})


def _named(sweep: str, data: FitData, one: Outcome) -> dict[str, Any]:
    setting = one.setting
    named = {"run": sweep, "sweep": sweep, "method": setting.method, "data": data.dataset.name}
    return named | {"k": setting.k, "lam": setting.lam, "seed": setting.seed}
