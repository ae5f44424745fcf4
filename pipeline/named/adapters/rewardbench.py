"""RewardBench 1 and 2."""

from __future__ import annotations

from collections.abc import Iterator

from micropref.cache.choices import TEST
from micropref.pipeline.named.adapters.comparing import labelled, listed
from micropref.pipeline.named.adapters.facts import NamedDataset
from micropref.pipeline.sources.adapters import Adapter, Ordinary
from micropref.pipeline.sources.rows import NoPreference, Row

COLUMNS = ("prompt", "chosen", "rejected", "subset")


def _pair(row: Row) -> Iterator[Ordinary]:
    yield {name: row.values[name] for name in ("prompt", "chosen", "rejected")} | labelled(row, attribute="subset")


def _all_pairs(row: Row) -> Iterator[Ordinary]:
    chosen, rejected = listed(row, "chosen"), listed(row, "rejected")
    if not chosen or not rejected:
        raise NoPreference("one side has no response")
    labels = labelled(row, attribute="subset")
    for better in chosen:
        for worse in rejected:
            yield {"prompt": row.values["prompt"], "chosen": better, "rejected": worse, **labels}


REWARDBENCH = NamedDataset(
    "allenai/reward-bench",
    licence="ODC-BY",
    size="2,985 filtered pairs; split raw has 5,123",
    labels="by construction or checked by people: chosen is right or better, rejected wrong or worse",
    attributes="subset; Chat, Chat-Hard, Safety and Reasoning are sections of subsets",
    contexts="none",
    users="none",
    configs={"default": Adapter("allenai/reward-bench", _pair, COLUMNS, "preference", splits={"filtered": TEST})},
    protocol="a test only: accuracy by section",
)
REWARDBENCH_2 = NamedDataset(
    "allenai/reward-bench-2",
    licence="ODC-BY",
    size="1,865 prompts, mostly one right response and three wrong ones",
    labels="by construction or checked by people; here every right response against every wrong one, while the "
    "benchmark asks for the best of four, and scores the subset Ties (several right ones) apart",
    attributes="subset",
    contexts="none",
    users="none",
    configs={"default": Adapter("allenai/reward-bench-2", _all_pairs, COLUMNS, "preference", splits={"test": TEST})},
)
