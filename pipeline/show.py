"""Reports as text for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import polars as pl
import pyarrow as pa

from cache.sql_render import render
from heads.settings import FitProgress
from pipeline.demo import Demo
from pipeline.embed_report import EmbedReport
from pipeline.evaluate import Evaluation
from pipeline.listing import Listing
from pipeline.progress import progress_bar
from pipeline.train import Trained


def show_rows(rows: Iterable[dict[str, Any]]) -> str:
    """Return rows of equal keys as an aligned table."""
    return render(pa.Table.from_pylist(list(rows)), "table")


def show_embedding(report: EmbedReport, *, planned: bool) -> str:
    """Return the counts that a person checks before trusting what was embedded."""
    splits = ", ".join(f"{count:,} {split}" for split, count in report.splits.items())
    lines = [
        f"data set {report.data}: {report.pairs:,} pairs ({splits}), features {report.features} ({report.backbone})",
        f"{report.texts:,} distinct texts: {report.texts_embedded:,} {'to embed' if planned else 'embedded'}, "
        f"{report.texts_reused:,} already stored ({report.store_bytes / 1e6:,.1f} MB in all)",
    ]
    if planned:
        lines.append(f"{report.tokens_unique:,} tokens to forward, {report.forward_flops / 1e12:,.1f} TFLOP")
    elif report.texts_embedded:
        padding = report.tokens_forwarded / report.tokens_unique - 1
        rate = f"{report.tokens_per_second:,.0f} tokens/s"
        lines.append(f"{report.tokens_unique:,} tokens at {rate}, {padding:.1%} padding beside them")
    notes = {
        "left out": ", ".join(f"{count:,} {reason}" for reason, count in report.dropped.items()),
        "prompts cut to fit": report.trimmed,
        "pairs this backbone cannot tell apart": report.indistinguishable,
        "pairs that repeat an earlier vote": report.repeated,
        "users": report.users,
    }
    for label, value in notes.items():
        if value:
            lines.append(f"{label}: {value if isinstance(value, str) else format(value, ',')}")
    if report.delta_storage_error is not None:
        lines.append(f"storing changed Δ by {report.delta_storage_error:.2%} (median, relative)")
    if report.shared_prompts:
        lines.append(f"warning: {report.shared_prompts:,} prompts are in another split as well: test is not held out")
    return "\n".join(lines) + "\n"


def show_training(trained: Trained) -> str:
    """Return the run's id and the figures it was chosen by."""
    record = trained.record
    nlls = sorted(restart["validation_nll"] for restart in trained.restarts)
    lines = [
        f"run {trained.run}: {record['method']}, K = {record['k']}, λ = {record['lam']}, "
        f"router reads the {record['settings']['router_input']}",
        f"{record['train_pairs']:,} pairs to fit, {record['validation_pairs']:,} to validate "
        f"({record['pairs_without_context']:,} without context)",
        f"validation NLL {record['validation_nll']:.4f} ± {record['validation_nll_se']:.4f}, "
        f"accuracy {record['validation_accuracy']:.4f}, {record['effective_heads']:.2f} heads in use, "
        f"best of {len(nlls)} restarts ({nlls[0]:.4f} to {nlls[-1]:.4f})",
    ]
    return "\n".join(lines) + "\n"


def show_evaluation(evaluation: Evaluation) -> str:
    """Return one line for each attribute: mixture and best heads with intervals, then every head."""
    mixture = evaluation.mixture_accuracy
    heads = evaluation.head_accuracy.pivot(on="head", index=["part", "attribute"], values="accuracy")
    numbers = [name for name in heads.columns if name not in ("part", "attribute")]
    table = mixture.select("part", "attribute", "n", pl.col("accuracy").alias("mixture"), interval("95 %"))
    for chosen_on, label in (("validation", "head by validation"), ("oracle", "oracle (test)")):
        best = evaluation.best_head.filter(pl.col("chosen_on") == chosen_on)
        columns = ["attribute", pl.col("accuracy").alias(label), interval(f"95 % {chosen_on}")]
        table = table.join(best.select(columns), on="attribute", how="left", nulls_equal=True, maintain_order="left")
    renamed = heads.rename({name: f"head {name}" for name in numbers})
    table = table.join(renamed, on=["part", "attribute"], how="left", nulls_equal=True, maintain_order="left")
    note = f", {evaluation.without_context:,} read by their prompt alone" if evaluation.without_context else ""
    head = (
        f"run {evaluation.run} on {evaluation.data}/{evaluation.split}: {evaluation.pairs:,} pairs{note}, "
        f"mixture accuracy {evaluation.accuracy:.4f}\n"
    )
    return head + render(table.to_arrow(), "table")


def interval(name: str) -> pl.Expr:
    """Return the expression of an interval's text from columns low and high."""
    low, high = (pl.col(column).round(3).map_elements(lambda x: f"{x:.3f}", pl.String) for column in ("low", "high"))
    return pl.format("{}-{}", low, high).alias(name)


def show_listing(listing: Listing) -> str:
    """Return three tables, or what to do where there is nothing."""
    blocks = []
    for title, rows in (("features", listing.features), ("data sets", listing.datasets), ("runs", listing.runs)):
        blocks.append(f"{title}\n{show_rows(rows)}" if rows else f"{title}: none yet\n")
    return "\n".join(blocks)


def show_demo(demo: Demo) -> str:
    """Return the comparison, three queries to try, and what the first returns."""
    queries = "\n".join(f'  micropref sql "{query}"' for query in demo.queries)
    return f"\n{show_rows(demo.rows)}\nTry:\n{queries}\n\nThe first of them:\n{demo.answer}"


@contextmanager
def training_progress() -> Iterator[Callable[[FitProgress], None]]:
    """Yield what shows a fit's epochs as they pass; the total is known with the first."""
    with ExitStack() as stack:
        advance: list[Callable[[int], None]] = []

        def show(now: FitProgress) -> None:
            if not advance:
                advance.append(stack.enter_context(progress_bar(now.chunks * now.epochs, "training", "epoch")))
            advance[0](1)

        yield show
