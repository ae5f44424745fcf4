"""Every compared method on the demo data, as the README's table: Markdown on stdout, progress on stderr."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from micropref.cache.store import StoreFolder
from micropref.pipeline.comparison.compare import AVERAGE, ComparedRow, run_comparison
from micropref.pipeline.comparison.experiment import ExperimentOptions
from micropref.pipeline.demo.demo import NAME, run_demo
from micropref.pipeline.options import DEFAULT_STORE


def say(line: str) -> None:
    print(line, file=sys.stderr)


def cells(row: ComparedRow) -> str:
    """Return a row of the table: accuracies averaged over the four groups of people."""
    deviation = row.deviation[AVERAGE]
    spread = "" if deviation is None else f" ± {deviation:.3f}"
    gain = f"{row.difference[AVERAGE]:+.3f} ({row.difference_low[AVERAGE]:+.3f} to {row.difference_high[AVERAGE]:+.3f})"
    interval = f"{row.low[AVERAGE]:.3f} to {row.high[AVERAGE]:.3f}"
    return f"| {row.title} | {row.supervision} | {row.accuracy[AVERAGE]:.3f}{spread} | {interval} | {gain} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--store", type=Path, default=Path(os.environ.get("MICROPREF_STORE", DEFAULT_STORE)))
    asked = parser.parse_args()
    store = StoreFolder(asked.store)
    run_demo(store, say)
    compared = run_comparison(store, NAME, None, ExperimentOptions(seeds=asked.seeds), say)
    print("| method | learns from | accuracy ± over seeds | 95 % over prompts | Δ vs. single reward |")
    print("|---|---|---|---|---|")
    print("\n".join(cells(row) for row in compared.rows))
    print("\n".join(f"\nLeft out: {name}, {reason}" for name, reason in compared.skipped.items()))


if __name__ == "__main__":
    main()
