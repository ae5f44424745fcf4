"""RPR, reasonable preference reversals: each row is two pairs with opposite labels."""

from __future__ import annotations

from collections.abc import Iterator

from micropref.pipeline.named.adapters.facts import NamedDataset
from micropref.pipeline.sources.adapters import Adapter, Ordinary
from micropref.pipeline.sources.rows import Row

COLUMNS = ("prompt", "response_a", "response_b", "criteria_x", "criteria_y", "category_x", "category_y")


def _reversed(row: Row) -> Iterator[Ordinary]:
    yield {name: row.values[name] for name in COLUMNS}


RPR = NamedDataset(
    "microsoft/rpr",
    licence="CDLA-Permissive-2.0",
    size="10,167 train, 1,000 test rows, two pairs each",
    labels="synthetic, made by a language model: criteria_x prefers response_a and criteria_y response_b, so that "
    "without the context every method is at chance",
    attributes="the categories of the criteria",
    contexts="the criterion of each pair, a sentence",
    users="none",
    configs={"default": Adapter("microsoft/rpr", _reversed, COLUMNS, "reversals")},
    protocol="5.8K train samples; nine categories, with 611 to 965 train and 53 to 104 test pairs each (its table 5); "
    "after training on HelpSteer2 or preference-700K it is the test of unseen preferences",
)
