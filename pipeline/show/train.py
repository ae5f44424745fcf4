"""Trained runs and sweeps as text, and their progress."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from micropref.pipeline.progress import progress_bar
from micropref.pipeline.show.groups import about_units, known_columns

if TYPE_CHECKING:  # the commands that list and verify have no need of torch
    from micropref.heads.fitting.settings import FitProgress
    from micropref.pipeline.training.sweep import Swept
    from micropref.pipeline.training.train import Trained
from micropref.pipeline.show.tables import counted, show_rows, with_error


def show_training(trained: Trained) -> str:
    """Return the run's id and the figures it was chosen by."""
    record = trained.record
    nlls = sorted(restart["validation_nll"] for restart in trained.restarts)
    agreeing = "" if record["restarts_agreeing"] is None else f", {record['restarts_agreeing']:.0%} of the others agree"
    best = f"best of {counted(len(nlls), 'restart')} ({nlls[0]:.4f} to {nlls[-1]:.4f}{agreeing})"
    known = about_units(record)
    # The range is of the figures that restarts are chosen by, so it stands behind those.
    by_known = "validation_nll_known" in record
    lines = [
        f"run {trained.run}: {record['method']}, K = {record['k']}, λ = {record['lam']}, {_reads(record)}",
        f"{record['train_pairs']:,} pairs to fit, {record['validation_pairs']:,} to validate "
        f"({record['pairs_without_context']:,} without context){', streamed from disk' if record['streamed'] else ''}",
        f"validation NLL {with_error(record['validation_nll'], record['validation_nll_se'])}, "
        f"accuracy {record['validation_accuracy']:.4f}, {record['effective_heads']:.2f} heads in use"
        f"{'' if by_known else f', {best}'}",
    ]
    if by_known:
        known.append(f"chosen by that: {best}")
    return "\n".join([*lines, *known, *_about_heads(record)]) + "\n"


def _reads(record: dict[str, Any]) -> str:
    if record["method"] != "mixture" or record["k"] == 1:
        return "no router"
    return f"router reads the {record['settings']['router_input']}"


def _about_heads(record: dict[str, Any]) -> list[str]:
    """Return what a person should know of a saved run's width and heads, nothing where all is well."""
    lines = []
    if record.get("validation_nll_known", record["validation_nll"]) > math.log(2):
        lines.append("warning: worse than a coin (NLL ln 2 = 0.6931): too high an lr, too little data, or no signal")
    if record["widths_tried"]:
        tried = ", ".join(f"{width}: {value:.4f}" for width, value in record["widths_tried"].items())
        lines.append(f"fitted on {record['fit_width']} components (validation NLL by width: {tried})")
    if record["dead_heads"]:
        lines.append(f"dead heads, next to no weight anywhere: {', '.join(map(str, record['dead_heads']))}")
    for first, second, correlation in record["duplicate_heads"]:
        lines.append(f"heads {first} and {second} predict alike (correlation {correlation:.3f})")
    if record["pruned"] is not None:
        removed, before = record["pruned"]["removed"], record["pruned"]["before"]
        lines.append(
            f"pruned {len(removed)} of {len(removed) + record['k']} heads: validation accuracy "
            f"{before['validation_accuracy']:.4f} before, {record['validation_accuracy']:.4f} after"
        )
    elif record["duplicate_heads"]:
        lines.append("--prune 0.95 removes duplicates")
    return lines


def show_sweep(swept: Swept) -> str:
    """Return a row for each K and λ, what K was chosen by, and the saved run."""
    rows = [
        {
            "K": row["k"],
            "λ": row["lam"],
            **known_columns(row),
            "validation NLL": with_error(row["validation_nll"], row["validation_nll_se"]),
            "accuracy": round(row["validation_accuracy"], 4),
            "heads in use": round(row["effective_heads"], 2),
            "restarts that agree": "" if row["restarts_agreeing"] is None else f"{row['restarts_agreeing']:.0%}",
        }
        for row in swept.leaderboard
    ]
    by_k = ", ".join(f"{one.size}: {with_error(one.nll, one.nll_se)}" for one in swept.by_k)
    record = swept.record
    lines = [
        f"validation NLL by K, with its standard error over prompts: {by_k}",
        f"run {swept.run}: K = {record['k']}, the smallest within one standard error of the best, λ = {record['lam']}, "
        f"seed {record['seed']}, of {swept.settings:,} settings",
        *about_units(record),
        *_about_heads(record),
    ]
    return show_rows(rows) + "\n".join(lines) + "\n"


@contextmanager
def training_progress() -> Iterator[Callable[[FitProgress], None]]:
    """Yield what shows epochs as they pass, a bar for each fit; settings that stop early make it leap."""
    with ExitStack() as bar:
        advance: list[Callable[[int], None]] = []
        shown = 0

        def show(now: FitProgress) -> None:
            nonlocal shown
            done = (now.chunk - 1) * now.epochs + now.epoch
            if not advance or done <= shown:
                bar.close()
                advance[:] = [bar.enter_context(progress_bar(now.chunks * now.epochs, "training", "epoch"))]
                shown = 0
            advance[0](done - shown)
            shown = done

        yield show
