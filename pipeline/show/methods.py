"""A trained system as text for a terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from micropref.heads.methods.registry import methods
from micropref.pipeline.show.tables import with_error

if TYPE_CHECKING:
    from micropref.pipeline.training.method_runs import TrainedMethod


def show_method(trained: TrainedMethod) -> str:
    """Return the run's id, what the system learned from, and its figures on validation pairs."""
    record = trained.record
    method, units = methods()[record["method"]], record["units"]
    read = f", {len(units['names']):,} {units['kind']}s" if units else ""
    lines = [
        f"run {trained.run}: {method.title}, K = {record['k']}, learns from {method.supervision}",
        f"{record['train_pairs']:,} pairs to fit{read}, {record['validation_pairs']:,} to validate",
        f"validation NLL {with_error(record['validation_nll'], record['validation_nll_se'])}, "
        f"accuracy {record['validation_accuracy']:.4f}",
    ]
    if record["validation_nll"] > math.log(2):
        lines.append("worse than a coin (NLL ln 2 = 0.6931)")
    return "\n".join(lines) + "\n"
