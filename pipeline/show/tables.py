"""Reports as text for a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa

from cache.sql.render import render
from pipeline.progress import progress_bar
from pipeline.show.groups import about_units, known_columns

if TYPE_CHECKING:  # the commands that list and verify have no need of torch
    from cache.maintenance.listing import Listing
    from heads.fitting.settings import FitProgress
    from pipeline.demo.demo import Demo
    from pipeline.embedding.cost import Price
    from pipeline.embedding.report import EmbedReport
    from pipeline.evaluation.evaluate import Evaluation
    from pipeline.training.sweep import Swept
    from pipeline.training.train import Trained


def show_rows(rows: Iterable[dict[str, Any]]) -> str:
    """Return rows of equal keys as an aligned table."""
    return render(pa.Table.from_pylist(list(rows)), "table")


def with_error(value: float, error: float | None) -> str:
    """Return a figure with its standard error, where that is known."""
    return f"{value:.4f}" + (f" ± {error:.4f}" if error is not None and math.isfinite(error) else "")


def counted(count: int, word: str) -> str:
    """Return a number of things, in the singular where it is one."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def show_embedding(report: EmbedReport, *, planned: bool) -> str:
    """Return the counts that a person checks before trusting what was embedded."""
    splits = ", ".join(f"{count:,} {split}" for split, count in report.splits.items())
    lines = [
        f"data set {report.data}: {report.pairs:,} pairs ({splits}), "
        f"features {report.features or 'not known without the weights'} ({report.backbone})",
        f"{report.texts:,} distinct texts: {report.texts_embedded:,} {'to embed' if planned else 'embedded'}, "
        f"{report.texts_reused:,} already stored ({report.store_bytes / 1e6:,.1f} MB in all)",
    ]
    if report.price is not None:
        lines += _price(report, report.price)
    elif report.texts_embedded:
        more = report.tokens_forwarded / report.tokens_unique - 1
        rate = f"{report.tokens_per_second:,.0f} tokens/s"
        lines.append(f"{report.tokens_unique:,} tokens at {rate} ({report.pass_name} pass, which read {more:.1%} more)")
    notes = {
        "left out": ", ".join(f"{count:,} {reason}" for reason, count in report.dropped.items()),
        "pairs whose prompt was cut to fit": report.trimmed,
        "pairs with an empty response": report.empty_responses,
        "pairs without a context": report.without_context if report.without_context < report.pairs else 0,
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


def _price(report: EmbedReport, price: Price) -> list[str]:
    """Return what forwarding would cost, and what the usual loop would read for the same pairs."""
    hours = ", ".join(f"{name} {f'{value:,.2f}' if value >= 0.01 else '< 0.01'}" for name, value in price.hours.items())
    return [
        f"{report.tokens_unique:,} unique tokens to forward, {report.forward_flops / 1e12:,.1f} TFLOP; a padded loop "
        f"over all pairs (batch {price.padded_batch}, nothing reused) would forward {price.padded_tokens:,}",
        *([f"hours at {price.utilisation:.0%} of the published bf16 peak: {hours}"] if report.tokens_unique else []),
    ]


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


def interval(name: str) -> pl.Expr:
    """Return the expression of an interval's text from columns low and high."""
    low, high = (pl.col(column).round(3).map_elements(lambda x: f"{x:.3f}", pl.String) for column in ("low", "high"))
    return pl.format("{}-{}", low, high).alias(name)


def show_listing(listing: Listing) -> str:
    """Return three tables, or what to do where there is nothing."""
    blocks = []
    for title, rows in (("features", listing.features), ("data sets", listing.datasets), ("runs", listing.runs)):
        shown = [{name: value for name, value in row.items() if name != "damage"} for row in rows]
        blocks.append(f"{title}\n{show_rows(shown)}" if rows else f"{title}: none yet\n")
    blocks += [f"{row['damage']}\n" for row in listing.runs if row["damage"]]
    return "\n".join(blocks)


def show_demo(demo: Demo) -> str:
    """Return the comparison, three queries to try, and what the first returns."""
    queries = "\n".join(f'  micropref sql "{query}"' for query in demo.queries)
    return f"\n{show_rows(demo.rows)}\nTry:\n{queries}\n\nThe first of them:\n{demo.answer}"


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
