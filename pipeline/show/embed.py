"""What `embed` did as text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from micropref.cache.choices import TEST
from micropref.pipeline.show.lines import next_step, paragraphs
from micropref.pipeline.sources.columns import in_words

if TYPE_CHECKING:  # the commands that list and verify have no need of torch
    from micropref.pipeline.embedding.cost import Price
    from micropref.pipeline.embedding.embed_report import EmbedReport
    from micropref.pipeline.embedding.import_vectors import ImportReport

SOURCES_SHOWN = 3
"""Sources of the same columns that are named."""


def show_embedding(report: EmbedReport, *, planned: bool, store: Path | None = None) -> str:
    """Return the counts that a person checks before trusting what was embedded."""
    splits = ", ".join(f"{count:,} {split}" for split, count in report.splits.items())
    lines = [
        *_alike(report),
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
    not_rendered = ", ".join(f"{what} ({count:,} pairs)" for what, count in report.not_rendered.items())
    if not_rendered:
        lines.append(f"warning: the chat template does not write {not_rendered}: the vectors know nothing of it")
    lines += _columns(report)
    lines += _notes(
        report,
        {
            "pairs whose prompt was cut to fit": report.trimmed,
            "pairs whose two responses tokenize identically": report.indistinguishable,
            "pairs with special tokens in their texts, read as text": report.special_tokens,
            "distinct contexts, embedded by themselves too": report.contexts,
        },
    )
    if planned:
        return paragraphs([*lines, "nothing was embedded: the same command without --plan does that"])
    return paragraphs(lines) + _next(report, store)


def show_import(report: ImportReport, store: Path | None = None) -> str:
    """Return the counts that a person checks before trusting what was imported."""
    splits = ", ".join(f"{count:,} {split}" for split, count in report.splits.items())
    lines = [
        f"data set {report.data}: {report.pairs:,} pairs ({splits}), features {report.features} (imported, made by "
        f"{report.backbone}, {report.store_dtype}[{report.width}])",
        f"{report.texts:,} distinct texts: {report.texts_imported:,} imported, "
        f"{report.texts_reused:,} already stored ({report.store_bytes / 1e6:,.1f} MB in all)",
    ]
    lines += _columns(report)
    lines += _notes(report, {"pairs whose two responses have the same vector": report.indistinguishable})
    return paragraphs(lines) + _next(report, store)


def _next(report: EmbedReport | ImportReport, store: Path | None) -> str:
    """Return the line that trains on what was stored now, which is named where there is more than one."""
    features = ("--features", report.features) if set(report.all_features) - {report.features} else ()
    return next_step("train", report.data, *features, store=store)


def _columns(report: EmbedReport | ImportReport) -> list[str]:
    """Return a line for each source, or several that were read alike: which column was read as what."""
    sources: dict[str, list[dict[str, Any]]] = {}
    for column in report.columns:
        sources.setdefault(column["source"], []).append(column)
    alike: dict[str, list[str]] = {}
    for source, columns in sources.items():
        alike.setdefault(in_words(columns), []).append(Path(source).name)
    return [f"columns of {_few(names)}: {words}" for words, names in alike.items()]


def _few(names: list[str]) -> str:
    more = len(names) - SOURCES_SHOWN
    return ", ".join(names[:SOURCES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _notes(report: EmbedReport | ImportReport, more: dict[str, int]) -> list[str]:
    """Return a line for each thing that is there to be noted."""
    notes = {
        "left out": ", ".join(f"{count:,} {reason}" for reason, count in report.dropped.items()),
        **more,
        **report.noted,
        "pairs with an empty response": report.empty_responses,
        "pairs without a context": report.without_context if report.without_context < report.pairs else 0,
        "pairs that repeat an earlier vote": report.repeated,
        "users": report.users,
    }
    lines = [
        f"{label}: {value if isinstance(value, str) else format(value, ',')}" for label, value in notes.items() if value
    ]
    if report.delta_storage_error is not None:
        lines.append(f"storing changed Δ by {report.delta_storage_error:.2%} (median, relative)")
    if report.shared_prompts:
        lines.append(f"warning: {report.shared_prompts:,} prompts are in another split as well: test is not held out")
    if TEST not in report.all_splits:
        lines.append(f"no test split yet, which eval needs: the same command with other rows and --split {TEST}")
    return lines


def _alike(report: EmbedReport) -> list[str]:
    """Return a first line where a reward on these vectors could tell few pairs apart."""
    if report.indistinguishable * 2 < max(report.pairs, 1):
        return []
    lost = f" (the chat template leaves out {', '.join(report.not_rendered)})" if report.not_rendered else ""
    return [f"warning: {report.indistinguishable:,} of {report.pairs:,} pairs come out alike to this backbone{lost}"]


def _price(report: EmbedReport, price: Price) -> list[str]:
    """Return what forwarding would cost, and what the usual loop would read for the same pairs."""
    hours = ", ".join(f"{name} {f'{value:,.2f}' if value >= 0.01 else '< 0.01'}" for name, value in price.hours.items())
    return [
        f"{report.tokens_unique:,} unique tokens to forward, {report.forward_flops / 1e12:,.1f} TFLOP; a padded loop "
        f"over all pairs (batch {price.padded_batch}, nothing reused) would forward {price.padded_tokens:,}",
        *([f"hours at {price.utilisation:.0%} of the published bf16 peak: {hours}"] if report.tokens_unique else []),
    ]
