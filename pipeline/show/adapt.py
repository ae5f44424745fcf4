"""Curves of adaptation and tables of regret as text."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from micropref.pipeline.people.adapt import Adaptation
from micropref.pipeline.people.online import Online
from micropref.pipeline.show.figures import accuracy, counted, few_clusters, gain_with_interval, with_interval
from micropref.pipeline.show.lines import next_step, paragraphs, rows_of
from micropref.pipeline.show.tables import show_rows

STRENGTHS = {"tempered": "β", "shrunk": "s²"}


def show_adaptation(adaptation: Adaptation, store: Path | None = None) -> str:
    """Return who was adapted to, and accuracy, NLL and gain for each number of shots."""
    rows = [
        {
            "shots": row["shots"],
            "accuracy (95 %)": with_interval(row["accuracy"], row["low"], row["high"]),
            "gain (95 %)": gain_with_interval(row["gain"], row["gain_low"], row["gain_high"]) if row["shots"] else "",
            "NLL (95 %)": with_interval(row["nll"], row["nll_low"], row["nll_high"]),
            "overconfident by": f"{row['overconfidence']:+.3f}",
        }
        for row in adaptation.adaptation.iter_rows(named=True)
    ]
    missing, name = adaptation.without_context, STRENGTHS.get(adaptation.method)
    strength = f", {name} = {adaptation.strength:g} chosen on validation pairs" if name else ""
    groups = counted(adaptation.groups, adaptation.by)
    lines = [
        f"run {adaptation.run}: weights of the heads of {adaptation.parent} for each of {groups} of {adaptation.data}, "
        f"by {adaptation.method}{strength}",
        *(
            [f"{counted(adaptation.left_out, adaptation.by)} with too few pairs left out"]
            if adaptation.left_out
            else []
        ),
        f"{adaptation.pairs:,} {adaptation.split} pairs scored at every number of shots, none with a prompt of its "
        f"{adaptation.by}'s shots (from {adaptation.shots_from})",
        *([f"{missing:,} of them without a context"] if missing else []),
        f"gain over no shots, the run's own weights; intervals over {adaptation.resampled}",
        *few_clusters(adaptation.clusters),
        *([f"weights of each {adaptation.by} in {adaptation.people}"] if adaptation.people else []),
    ]
    ending = next_step(*rows_of("adaptation", adaptation.run), store=store)
    return f"{paragraphs(lines)}\n{show_rows(rows)}\n{ending}"


def show_online(online: Online, store: Path | None = None) -> str:
    """Return a row for each forecaster, summed over groups."""
    rows = [
        {
            "forecaster": row["forecaster"],
            "accuracy (95 %)": with_interval(row["accuracy"], row["low"], row["high"]),
            "on new prompts": accuracy(row["new_prompt_accuracy"]),
            "NLL": accuracy(row["nll"]),
            "loss": f"{row['loss']:,.1f}",
            "best heads": f"{row['best_head_loss']:,.1f}",
            "regret": f"{row['regret']:,.1f}",
            "bound": "" if row["bound"] is None else f"{row['bound']:,.1f}",
        }
        for row in online.forecasters.iter_rows(named=True)
    ]
    bounded = online.regret.filter(pl.col("bound").is_not_null())
    kept = bounded.filter(pl.col("regret") <= pl.col("bound") * (1 + 1e-9)).height
    lines = [
        f"run {online.run}: weights of the heads of {online.parent} for each of {counted(online.groups, online.by)} of "
        f"{online.data}, after {online.pairs:,} {online.split} pairs in order, each predicted and then learned from",
        f"losses, regrets and bounds are sums over {online.by}s, each in the forecaster's own loss; "
        f"{kept:,} of {bounded.height:,} regrets are within their bound (view regret)",
        f"fixed-share has to match the best sequence of heads that changes at most "
        f"{counted(online.switches, 'time')} in each {online.by}, the others the best head; "
        f"intervals over {online.resampled}",
        *few_clusters(online.clusters),
    ]
    return f"{paragraphs(lines)}\n{show_rows(rows)}\n{next_step(*rows_of('regret', online.run), store=store)}"
