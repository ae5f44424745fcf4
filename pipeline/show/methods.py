"""A fitted method as text for a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from micropref.heads.methods.registry import methods
from micropref.pipeline.show.figures import about_scale, accuracy, with_error
from micropref.pipeline.show.lines import next_evaluation, paragraphs

if TYPE_CHECKING:
    from micropref.pipeline.training.method_runs import TrainedMethod


def show_method(trained: TrainedMethod, store: Path | None = None) -> str:
    """Return the run's id, what the method learned from, and its figures on validation pairs."""
    record = trained.record
    method, units = methods()[record["method"]], record["units"]
    read = f", {len(units['names']):,} {units['kind']}s" if units else ""
    size = f", K = {record['settings']['k']}" if "k" in record["settings"] else ""
    lines = [
        f"run {trained.run}: {method.title}{size}, learns from {method.supervision}",
        f"{record['train_pairs']:,} pairs to fit{read}, {record['validation_pairs']:,} to validate",
        f"validation NLL {with_error(record['validation_nll'], record['validation_nll_se'])}, "
        f"accuracy {accuracy(record['validation_accuracy'])}",
    ]
    lines += [f"warning: {line}" for line in record.get("warnings", [])]
    return paragraphs([*lines, *about_scale(record)]) + next_evaluation(trained.run, trained.splits, store)
