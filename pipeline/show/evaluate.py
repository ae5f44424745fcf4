"""Accuracies of a run as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from micropref.cache.sql.render import render

if TYPE_CHECKING:  # the commands that list and verify have no need of torch
    from micropref.pipeline.evaluation.evaluate import Evaluation
from micropref.pipeline.show.tables import interval


def show_evaluation(evaluation: Evaluation) -> str:
    """Return one line for each attribute: mixture and best heads with intervals, then every head."""
    mixture = evaluation.mixture_accuracy
    heads = evaluation.head_accuracy.pivot(on="head", index=["part", "attribute"], values="accuracy")
    numbers = [name for name in heads.columns if name not in ("part", "attribute")]
    table = mixture.select("part", "attribute", "n", pl.col("accuracy").alias("mixture"), interval("95 %"))
    evaluated = pl.col("part") != "validation"  # best heads are not judged on what chose them
    for chosen_on, label in (("validation", "head by validation"), ("oracle", f"oracle ({evaluation.split})")):
        best = evaluation.best_head.filter(pl.col("chosen_on") == chosen_on)
        columns = ["attribute", pl.col("accuracy").alias(label), interval(f"95 % {chosen_on}")]
        table = table.join(best.select(columns), on="attribute", how="left", nulls_equal=True, maintain_order="left")
        shown = [pl.when(evaluated).then(pl.col(name)) for name in (label, f"95 % {chosen_on}")]
        table = table.with_columns(shown)
    renamed = heads.rename({name: f"head {name}" for name in numbers})
    table = table.join(renamed, on=["part", "attribute"], how="left", nulls_equal=True, maintain_order="left")
    note = f", {evaluation.without_context:,} read by their prompt alone" if evaluation.without_context else ""
    lowest = f", lowest of any attribute {evaluation.lowest_accuracy:.4f}" if mixture.height > 1 else ""
    head = (
        f"run {evaluation.run} on {evaluation.data}/{evaluation.split}: {evaluation.pairs:,} pairs{note}, "
        f"mixture accuracy {evaluation.accuracy:.4f}{lowest}\n"
    )
    return head + render(table.to_arrow(), "table")
