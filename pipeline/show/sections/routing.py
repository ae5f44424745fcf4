"""How the router mixes heads: by attribute, by context sentence, for single prompts, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import polars as pl

from micropref.pipeline.evaluation.reporting.run_report import MOST_CONTEXTS, RunReport
from micropref.pipeline.show.page.colours import step_of
from micropref.pipeline.show.page.figures import Cell, Figure, HeatTable, PlainTable, Section
from micropref.pipeline.show.page.texts import shown
from micropref.pipeline.show.sections.values import named, numbers_of
from micropref.pipeline.show.train import ROUTER_READS

MOST_SAVED = 2_000
"""Wordings that the CSV has, where the page shows fewer."""
PROMPT = 160
"""Characters of a prompt that names a row."""


def routing_section(run: RunReport, prefix: str, title: str) -> Section | None:
    """Return the mixture weights of a run; None of one that has a single head."""
    if run.heads < 2:
        return None
    parts = [_by_attribute(run, prefix)]
    varies = bool(run.pairs.by_prompt)
    if run.contexts.height and varies:
        parts.append(_by_context(run, prefix))
    if varies and run.reads != "context":  # else weights are those of the context, above
        parts.append(_by_prompt(run, prefix))
    parts.append(_sureness(run, prefix))
    return Section(f"{prefix}router", title, (), tuple(parts))


def _columns(run: RunReport) -> tuple[str, ...]:
    return tuple(f"head {head}" for head in range(run.heads))


def _weights(values: Sequence[float]) -> tuple[Cell, ...]:
    return tuple(Cell(f"{value:.2f}", "", step_of(value, 0.0, 1.0)) for value in values)


def _by_attribute(run: RunReport, prefix: str) -> Figure:
    table = run.tables.router_weights
    several = table["part"].n_unique() > 1
    rows = []
    for (part, attribute), group in table.group_by("part", "attribute", maintain_order=True):
        label = named(None if attribute is None else str(attribute)) + (f" ({part})" if several else "")
        rows.append((label, _weights(group.sort("head")["mean_weight"].to_list())))
    return Figure(
        f"{prefix}weights-attributes",
        "Mixture weights by attribute",
        "Mean weight of each head over an attribute's pairs; weights of a row add up to 1. "
        + (
            f"The router reads {ROUTER_READS[run.reads]}; it never sees the attribute."
            if run.reads is not None and run.pairs.by_prompt
            else "This run has the same weights for every pair."
        ),
        HeatTable("attribute", _columns(run), tuple(rows), "rising"),
        numbers_of(table),
    )


def _by_context(run: RunReport, prefix: str) -> Figure:
    names = [f"weight_{head}" for head in range(run.heads)]
    kept = run.contexts.head(MOST_CONTEXTS)
    rows = [
        (f"{shown(row['context'], 400)} · {row['n']:,} pairs", _weights([row[name] for name in names]))
        for row in kept.iter_rows(named=True)
    ]
    left = run.contexts.height - kept.height
    note = (
        f"{left:,} rarer contexts are left out; the CSV has the first {min(MOST_SAVED, run.contexts.height):,}, and "
        "the view context_weights all."
    )
    return Figure(
        f"{prefix}weights-contexts",
        "Mixture weights by context",
        "Mean weight of each head over the pairs of one context sentence, the most frequent first.",
        HeatTable("context", _columns(run), tuple(rows), "rising"),
        numbers_of(run.contexts.head(MOST_SAVED)),
        (note,) if left else (),
    )


def _by_prompt(run: RunReport, prefix: str) -> Figure:
    rows, saved = [], []
    for pair in run.pairs.by_prompt:
        about = " · ".join(part for part in (named(pair.attribute), pair.context) if part)
        rows.append((f"{shown(pair.prompt, PROMPT)} ({shown(about, 300)})", _weights(pair.weights)))
        of_pair = {"attribute": pair.attribute, "context": pair.context, "prompt": shown(pair.prompt, 1000)}
        saved.append(of_pair | {f"weight_{head}": weight for head, weight in enumerate(pair.weights)})
    return Figure(
        f"{prefix}weights-prompts",
        "Mixture weights of single prompts",
        "For each attribute the prompt whose weights are least even: extremes, not averages. Figure 3 of the MiCRo "
        "paper shows such weights; the pairs to read below have theirs too.",
        HeatTable("prompt", _columns(run), tuple(rows), "rising"),
        numbers_of(pl.DataFrame(saved, schema_overrides={"attribute": pl.String, "context": pl.String})),
    )


def _sureness(run: RunReport, prefix: str) -> Figure:
    rows = tuple(
        (
            named(row["attribute"]),
            f"{row['n']:,}",
            f"{row['entropy']:.3f}",
            f"{math.exp(row['entropy']):.2f} of {run.heads}",
            f"{row['spread']:.3f}",
        )
        for row in run.disagreement.iter_rows(named=True)
    )
    return Figure(
        f"{prefix}entropy-disagreement",
        "Router entropy and head disagreement",
        f"Two different things. Router entropy: how evenly the router spreads its weight, from 0 (one head) to "
        f"{math.log(run.heads):.3f} nats (all {run.heads} alike); its exponential counts heads in use. Head "
        "disagreement: P(chosen) by the head with the highest margin less that by the lowest, whatever their weights: "
        "0 where all agree. An unsure router costs nothing where heads agree.",
        PlainTable(
            ("attribute", "pairs", "router entropy (nats)", "heads in use", "head disagreement"),
            rows,
            frozenset({1, 2, 3, 4}),
        ),
        numbers_of(run.disagreement),
    )
