"""Curves of adaptation and tables of regret as text."""

from __future__ import annotations

from typing import Any

import polars as pl

from micropref.pipeline.people.adapt import Adaptation
from micropref.pipeline.people.online import Online
from micropref.pipeline.show.tables import show_rows

STRENGTHS = {"tempered": "β", "shrunk": "s²"}


def show_adaptation(adaptation: Adaptation) -> str:
    """Return who was adapted to, and accuracy, NLL and gain for each number of shots."""
    rows = [
        {
            "shots": row["shots"],
            "accuracy": f"{row['accuracy']:.4f}",
            "95 %": _range(row, ""),
            "NLL": f"{row['nll']:.4f}",
            "95 % NLL": _range(row, "nll_"),
            "overconfident": f"{row['overconfidence']:+.3f}",
            "gain": f"{row['gain']:+.4f}" if row["shots"] else "",
            "95 % gain": _range(row, "gain_") if row["shots"] else "",
        }
        for row in adaptation.adaptation.iter_rows(named=True)
    ]
    missing, name = adaptation.without_context, STRENGTHS.get(adaptation.method)
    strength = f", {name} = {adaptation.strength:g} chosen on validation pairs" if name else ""
    lines = [
        f"run {adaptation.run}: weights of the heads of {adaptation.parent} for each of {adaptation.groups:,} "
        f"{adaptation.by}s of {adaptation.data}, by {adaptation.method}{strength}",
        f"{adaptation.left_out:,} {adaptation.by}s with too few pairs were left out",
        f"{adaptation.pairs:,} {adaptation.split} pairs scored at every number of shots, none with a prompt of its "
        f"{adaptation.by}'s shots (from {adaptation.shots_from})",
        *([f"{missing:,} of them read by their prompt alone"] if missing else []),
        f"gain over no shots, the run's own weights; intervals over {adaptation.resampled}",
        *([f"weights of each {adaptation.by} in {adaptation.people}"] if adaptation.people else []),
    ]
    return "\n".join(lines) + "\n\n" + show_rows(rows)


def show_online(online: Online) -> str:
    """Return a row for each forecaster, summed over groups."""
    rows = [
        {
            "forecaster": row["forecaster"],
            "accuracy": f"{row['accuracy']:.4f}",
            "95 %": _range(row, ""),
            "on new prompts": f"{row['new_prompt_accuracy']:.4f}",
            "NLL": f"{row['nll']:.4f}",
            "loss": f"{row['loss']:.1f}",
            "best heads": f"{row['best_head_loss']:.1f}",
            "regret": f"{row['regret']:.1f}",
            "bound": "" if row["bound"] is None else f"{row['bound']:.1f}",
        }
        for row in online.forecasters.iter_rows(named=True)
    ]
    bounded = online.regret.filter(pl.col("bound").is_not_null())
    kept = bounded.filter(pl.col("regret") <= pl.col("bound") * (1 + 1e-9)).height
    lines = [
        f"run {online.run}: weights of the heads of {online.parent} for each of {online.groups:,} {online.by}s of "
        f"{online.data}, after {online.pairs:,} {online.split} pairs in order, each predicted and then learned from",
        f"losses, regrets and bounds are sums over {online.by}s, each in the forecaster's own loss; "
        f"{kept:,} of {bounded.height:,} regrets are within their bound (view regret)",
        f"fixed-share has to match the best sequence of heads that changes at most {online.switches} times in each "
        f"{online.by}, the others the best head; intervals over {online.resampled}",
    ]
    return "\n".join(lines) + "\n\n" + show_rows(rows)


def _range(row: dict[str, Any], prefix: str) -> str:
    low, high = row[f"{prefix}low"], row[f"{prefix}high"]
    return f"{low:+.3f} to {high:+.3f}" if prefix == "gain_" else f"{low:.3f}-{high:.3f}"
