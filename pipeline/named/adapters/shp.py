"""SHP: comments of Reddit, the one with more votes preferred."""

from __future__ import annotations

from collections.abc import Iterator

from micropref.pipeline.named.adapters.comparing import comparison, labelled, of_index
from micropref.pipeline.named.adapters.facts import NamedDataset
from micropref.pipeline.sources.adapters import Adapter, Ordinary
from micropref.pipeline.sources.rows import Row


def _votes(row: Row) -> Iterator[Ordinary]:
    values = row.values
    second = of_index(row, "labels", second=0)  # 1 stands for A, the first
    yield comparison(
        values["human_ref_A"],
        values["human_ref_B"],
        second,
        prompt=values["history"],
        **labelled(row, attribute="domain"),
    )


SHP = NamedDataset(
    "stanfordnlp/SHP",
    licence="terms of Reddit's API, see its card",
    size="385,000 pairs in 18 domains: train, validation, test",
    labels="by votes: labels is 1 where human_ref_A is preferred, 0 where human_ref_B is",
    attributes="domain (subreddit and split, as the column says)",
    contexts="none",
    users="none",
    configs={
        "default": Adapter(
            "stanfordnlp/SHP",
            _votes,
            ("history", "human_ref_A", "human_ref_B", "labels"),
            "preference",
            files={split: (f"*/{split}.json*",) for split in ("train", "validation", "test")},
        )
    },
)
