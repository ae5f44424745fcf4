"""Personalized RewardBench: what one person's rubric wants, and what it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from micropref.cache.choices import TEST
from micropref.pipeline.named.adapters.facts import NamedDataset
from micropref.pipeline.sources.adapters import Adapter, Ordinary
from micropref.pipeline.sources.rows import Row

AREAS = ("Art_and_Entertainment", "Lifestyle_and_Personal_Development", "Society_and_Culture")


def _of_area(area: str) -> Callable[[Row], Iterator[Ordinary]]:
    def read(row: Row) -> Iterator[Ordinary]:
        values = row.values
        yield {
            "prompt": values["question"],
            "chosen": values["chosen"],
            "rejected": values["rejected"],
            "attribute": area,
        }

    return read


PERSONALIZED = NamedDataset(
    "QiyaoMa/Personalized-RewardBench",
    licence="not confirmed",
    size="not confirmed; three areas, each a config with a test split",
    labels="of a language model: chosen keeps to a person's rubric, rejected violates it",
    attributes="the area",
    contexts="none: profile is a list of the person's earlier questions, which `eval --benchmark` reads as a context; "
    "rubric and narrative say the label and must not be read",
    users="none: every row is another person",
    configs={
        area: Adapter(
            f"QiyaoMa/Personalized-RewardBench, config {area}",
            _of_area(area),
            ("question", "chosen", "rejected"),
            "preference",
            splits={"test": TEST},
        )
        for area in AREAS
    },
)
