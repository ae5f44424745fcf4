"""Accuracies of a run as text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from micropref.pipeline.evaluation.claims import head_cards
from micropref.pipeline.show.figures import accuracy, counted, few_clusters, over, with_interval
from micropref.pipeline.show.lines import next_step, paragraphs, rows_of
from micropref.pipeline.show.tables import show_rows

if TYPE_CHECKING:  # the commands that list and verify have no need of torch
    from micropref.pipeline.evaluation.evaluate import Evaluation
    from micropref.pipeline.evaluation.wordings import Wordings


MANY_HEADS = 4
"""More heads get one preference each."""


def show_evaluation(evaluation: Evaluation, store: Path | None = None) -> str:
    """Return mixture and best heads for each attribute with their intervals, then every head."""
    heads = evaluation.head_accuracy["head"].n_unique()
    keys = 1 if evaluation.mixture_accuracy["part"].n_unique() == 1 else 2
    rows = [_row(evaluation, row, heads, keys) for row in evaluation.mixture_accuracy.iter_rows(named=True)]
    note = f", {evaluation.without_context:,} without a context" if evaluation.without_context else ""
    lowest = f", lowest of any attribute {accuracy(evaluation.lowest_accuracy)}" if len(rows) > 1 else ""
    of_what = "mixture accuracy" if heads > 1 else "accuracy"
    lines = [
        f"run {evaluation.run} on {evaluation.data}/{evaluation.split}: {counted(evaluation.pairs, 'pair')}{note}, "
        f"{of_what} {accuracy(evaluation.accuracy)}{lowest}, NLL {accuracy(evaluation.nll)}"
    ]
    if evaluation.wordings is not None:
        lines.append(_about_wordings(evaluation.wordings))
    intervals = f"95 % intervals over {over(evaluation.clusters)}"
    if heads == 1:
        lines.append(f"the run has one head, which is its best head and the oracle as well; {intervals}")
        by_head = ""
    else:
        lines.append(
            "best head: the one of the K heads that is best on the attribute's validation pairs; oracle: the one that "
            f"is best on these {evaluation.split} pairs themselves, an upper bound; {intervals}"
        )
        by_head = "\n" + show_rows([_heads(evaluation, row, keys) for row in rows], keys)
    lines += few_clusters(evaluation.clusters)
    lines += _preferences(evaluation)
    ending = next_step(*rows_of("head_accuracy", evaluation.run), store=store)
    return f"{paragraphs(lines)}\n{show_rows(rows, keys)}{by_head}\n{ending}"


def _preferences(evaluation: Evaluation) -> list[str]:
    """Return in a line what heads prefer, the strongest few of each; nothing where no feature could be measured."""
    if evaluation.head_profile.is_empty() or evaluation.head_profile["p_value"].is_null().all():
        return []
    cards = head_cards(evaluation.head_profile, evaluation.head_correlation, evaluation.head_accuracy)
    few = 2 if len(cards) <= MANY_HEADS else 1
    told = [f"head {card.head} {', '.join(one.rewards for one in card.claims[:few])}" for card in cards if card.claims]
    silent = [str(card.head) for card in cards if not card.claims]
    if silent:
        told.append(f"nothing that these features show: head {', '.join(silent)}")
    return [f"what heads prefer in texts (view head_profile): {'; '.join(told)}"]


def _about_wordings(found: Wordings) -> str:
    """Return how well contexts are predicted that were trained on, and those that were not."""
    parts = ((found.seen_pairs, found.seen_accuracy, "seen"), (found.new_pairs, found.new_accuracy, "new"))
    apart = [
        f"{accuracy(right)} on {counted(pairs, 'pair')} with {what} ones"
        for pairs, right, what in parts
        if right is not None
    ]
    contexts = f"{counted(found.trained, 'context')} seen in training, {found.new} of the {found.here} here are new"
    if found.new and found.context_known is not None:
        contexts += f" ({found.context_known} of them near ones seen)"
    return f"{contexts}: {', '.join(apart)}"


def _named(row: dict[str, Any], keys: int) -> dict[str, Any]:
    """Return what names a row: its attribute, behind its part where the split has several."""
    part = {"part": row["part"]} if keys > 1 else {}
    return part | {"attribute": row["attribute"] or ""}


def _row(evaluation: Evaluation, row: dict[str, Any], heads: int, keys: int) -> dict[str, Any]:
    """Return an attribute's mixture and its best heads, which are not judged on the pairs that chose them."""
    shown = _named(row, keys) | {"n": row["n"]}
    shown["mixture (95 %)" if heads > 1 else "accuracy (95 %)"] = _with_interval(row)
    if heads == 1:
        return shown
    for chosen_on, label in (("validation", "best head (95 %)"), ("oracle", f"oracle ({evaluation.split}, 95 %)")):
        best = evaluation.best_head.filter(
            pl.col("attribute").eq_missing(pl.lit(row["attribute"], pl.String)), chosen_on=chosen_on
        )
        judged = best.height and row["part"] != "validation"
        shown[label] = _with_interval(best.row(0, named=True)) if judged else ""
    return shown


def _heads(evaluation: Evaluation, row: dict[str, Any], keys: int) -> dict[str, Any]:
    """Return an attribute's accuracy under every head."""
    of_row = evaluation.head_accuracy.filter(
        pl.col("attribute").eq_missing(pl.lit(row["attribute"] or None, pl.String)),
        *([pl.col("part") == row["part"]] if keys > 1 else []),
    )
    return _named(row, keys) | {f"head {one['head']}": one["accuracy"] for one in of_row.iter_rows(named=True)}


def _with_interval(row: dict[str, Any]) -> str:
    return with_interval(row["accuracy"], row["low"], row["high"])
