"""Every compared method on the demo data, as in docs/comparing.md: Markdown on stdout, or written into that page."""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path

from micropref.cache.store import StoreFolder
from micropref.pipeline.comparison.compare import AVERAGE, ComparedRow, run_comparison
from micropref.pipeline.comparison.experiment import ExperimentOptions
from micropref.pipeline.demo.demo import NAME, run_demo
from micropref.pipeline.options import DEFAULT_STORE
from micropref.pipeline.show.compare import FALSE_ALARMS


def say(line: str) -> None:
    print(line, file=sys.stderr)


HEAD = "| method | learns from | accuracy ± over seeds | 95 % | Δ vs. single reward | NLL |"
PAGE = Path(__file__).parents[2] / "docs" / "comparing.md"


def cells(row: ComparedRow) -> str:
    """Return a row of the table: accuracies averaged over the four groups of people."""
    deviation = row.deviation[AVERAGE]
    spread = "" if deviation is None else f" ± {deviation:.3f}"
    gain = f"{row.difference[AVERAGE]:+.3f} ({row.difference_low[AVERAGE]:+.3f} to {row.difference_high[AVERAGE]:+.3f})"
    sure = " *" if row.difference_p <= FALSE_ALARMS else ""
    interval = f"{row.low[AVERAGE]:.3f} to {row.high[AVERAGE]:.3f}"
    accuracy = f"{row.accuracy[AVERAGE]:.3f}{spread}"
    return f"| {row.title} | {row.supervision} | {accuracy} | {interval} | {gain}{sure} | {row.nll:.4f} |"


def write(table: list[str]) -> None:
    """Put the table in the place of the page's."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith("| method | learns from |"))
    stop = next(at for at in range(start, len(lines) + 1) if at == len(lines) or not lines[at].startswith("|"))
    PAGE.write_text("\n".join([*lines[:start], *table, *lines[stop:]]) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--store", type=Path, default=Path(os.environ.get("MICROPREF_STORE", DEFAULT_STORE)))
    parser.add_argument("--features", help="where the store has the demo data under several backbones")
    parser.add_argument("--write", action="store_true", help="replace the table of docs/comparing.md")
    asked = parser.parse_args()
    store = StoreFolder(asked.store)
    if asked.features is None:
        run_demo(store, say)
    options = ExperimentOptions(seeds=asked.seeds, features=asked.features)
    compared = run_comparison(store, NAME, None, options, say)
    table = [HEAD, "|---" * 6 + "|", *(cells(row) for row in compared.rows)]
    print("\n".join(table))
    print("\n".join(f"\nLeft out: {name}, {reason}" for name, reason in compared.skipped.items()))
    worst = max(compared.rows, key=lambda row: row.nll)
    print(f"\nHighest NLL: {worst.nll:.5f}, {worst.title}; log 2 is {math.log(2):.5f}")
    if asked.write:
        write(table)


if __name__ == "__main__":
    main()
