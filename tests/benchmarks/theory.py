"""Theorem 3.2 on simulated groups: entropies that bound every model, and what fitted models reach.

Rows are diversities of taste. `known`, `bound` and `marginal` are H_known, H_known + 2 Var and H_marg; `single`,
`blind` and `knowing` are expected cross-entropies of fitted models on new pairs, no label sampled in scoring.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from harness import BUILD, Bar, at_least, at_most, report

from tests.benchmarks.theory_groups import draw_groups, fit_models, floors

SHARES = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
WIDTH, SHARPNESS = 16, 3.0
DIVERSITIES = (0.0, 0.25, 0.5, 0.75, 1.0)
ROUNDING = -1e-6
CLOSE = 0.01
"""Nats within which a fitted model counts as at its floor."""


def measure(diversity: float, pairs: int) -> tuple[dict[str, Any], list[Bar]]:
    """Return a row of means over pairs, and the theorem's four statements as bars."""
    generator = torch.Generator().manual_seed(0)
    groups = draw_groups(SHARES, WIDTH, diversity, SHARPNESS, generator)
    new_pairs = torch.randn(pairs, WIDTH, generator=generator)
    below = floors(groups.probability(new_pairs), groups.shares)
    fitted = fit_models(groups, pairs, new_pairs, generator)
    means = {name: value.mean().item() for name, value in {**asdict(below), **asdict(fitted)}.items()}
    unknowing = torch.stack([fitted.single, fitted.blind])
    name = f"diversity {diversity:g}"
    bars = [
        at_least(f"1. least CE - bound of any pair, {name}", (unknowing - below.bound).min().item(), ROUNDING),
        at_least(f"2. least CE - H_marg of any pair, {name}", (unknowing - below.marginal).min().item(), ROUNDING),
        at_most(f"3. group-blind mixture - H_marg, {name}", means["blind"] - means["marginal"], CLOSE),
        at_most(f"4. group-known heads - H_known, {name}", means["knowing"] - means["known"], CLOSE),
    ]
    return {"diversity": diversity, **means}, bars


def main() -> None:
    """Print and write the table and the statements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few pairs: does it run")
    parser.add_argument("--out", type=Path, default=BUILD / "theory.json")
    asked = parser.parse_args()
    pairs = 2000 if asked.quick else 20_000
    measured = [measure(diversity, pairs) for diversity in DIVERSITIES]
    rows = [row for row, _ in measured]
    report(asked.out, rows, [bar for _, bars in measured for bar in bars], pairs=pairs, quick=asked.quick)


if __name__ == "__main__":
    main()
