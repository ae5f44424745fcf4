"""RM-Bench: three right responses and three wrong ones, from plain to polished."""

from __future__ import annotations

from collections.abc import Iterator

from micropref.cache.choices import TEST
from micropref.pipeline.named.adapters.comparing import labelled, listed
from micropref.pipeline.named.adapters.facts import NamedDataset
from micropref.pipeline.sources.adapters import Adapter, Ordinary
from micropref.pipeline.sources.rows import Row, RowError

STYLES = 3


def _by_style(row: Row) -> Iterator[Ordinary]:
    chosen, rejected = listed(row, "chosen"), listed(row, "rejected")
    for field, responses in (("chosen", chosen), ("rejected", rejected)):
        if len(responses) != STYLES:
            raise RowError(field, f"a list of {len(responses)}", "one response in each of 3 styles")
    domain = labelled(row, attribute="domain").get("attribute", "all")
    for ours, better in enumerate(chosen):
        for theirs, worse in enumerate(rejected):
            hardness = "hard" if ours < theirs else "normal" if ours == theirs else "easy"
            pair = {"prompt": row.values["prompt"], "chosen": better, "rejected": worse}
            yield {**pair, "attribute": f"{domain}, {hardness}"}


RMBENCH = NamedDataset(
    "THU-KEG/RM-Bench",
    licence="not confirmed",
    size="1,327 prompts, nine pairs each (its split train is the benchmark)",
    labels="by construction: right against wrong; easy, normal or hard as the right one is more, equally or less "
    "polished than the wrong one",
    attributes="domain (chat, code, math, safety) and hardness",
    contexts="none",
    users="none",
    configs={
        "default": Adapter(
            "THU-KEG/RM-Bench",
            _by_style,
            ("prompt", "chosen", "rejected"),
            "preference",
            splits={"train": TEST, "test": TEST},
        )
    },
)
