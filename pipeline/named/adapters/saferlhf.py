"""PKU-SafeRLHF: which of two responses is better, and which is safer."""

from __future__ import annotations

from collections.abc import Iterator

from micropref.pipeline.named.adapters.comparing import comparison, of_index
from micropref.pipeline.named.adapters.facts import NamedDataset
from micropref.pipeline.sources.adapters import Adapter, Ordinary
from micropref.pipeline.sources.rows import NoPreference, Row

LABELS = {"helpful": "better_response_id", "harmless": "safer_response_id"}


def _twice(row: Row) -> Iterator[Ordinary]:
    for attribute, field in LABELS.items():
        try:
            second = of_index(row, field, second=1)
        except NoPreference as reason:
            yield reason
        else:
            values = row.values
            yield comparison(
                values["response_0"], values["response_1"], second, prompt=values["prompt"], attribute=attribute
            )


SAFERLHF = NamedDataset(
    "PKU-Alignment/PKU-SafeRLHF",
    licence="CC-BY-NC-4.0",
    size="about 74,000 train, 8,200 test rows, two pairs each",
    labels="by annotators with a language model's help: better_response_id and safer_response_id count from 0",
    attributes="helpful, harmless",
    contexts="none",
    users="none",
    configs={
        "default": Adapter(
            "PKU-Alignment/PKU-SafeRLHF",
            _twice,
            ("prompt", "response_0", "response_1", *LABELS.values()),
            "preference",
            files={"train": ("data/*/train.jsonl*",), "test": ("data/*/test.jsonl*",)},
        )
    },
)
