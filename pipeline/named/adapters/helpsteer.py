"""HelpSteer2 and HelpSteer3: ratings and preferences of paid annotators."""

from __future__ import annotations

from collections.abc import Iterator

from micropref.pipeline.named.adapters.comparing import comparison, labelled, of_signed
from micropref.pipeline.named.adapters.facts import NamedDataset
from micropref.pipeline.sources.adapters import Adapter, Ordinary
from micropref.pipeline.sources.rows import Row

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def _rated(row: Row) -> Iterator[Ordinary]:
    yield {name: row.values[name] for name in ("prompt", "response", *ATTRIBUTES)}


def _preferred(row: Row) -> Iterator[Ordinary]:
    yield comparison(
        row.values["response_1"],
        row.values["response_2"],
        **of_signed(row, "preference_strength", prompt=row.values["prompt"], attribute="overall"),
    )


def _third(row: Row) -> Iterator[Ordinary]:
    yield comparison(
        row.values["response1"],
        row.values["response2"],
        **of_signed(row, "overall_preference", prompt=row.values["context"], **labelled(row, attribute="domain")),
    )


HELPSTEER2 = NamedDataset(
    "nvidia/HelpSteer2",
    licence="CC-BY-4.0",
    size="20,324 train, 1,038 validation responses (ratings 0-4), two to a prompt",
    labels="by annotators: of two responses to a prompt the one rated higher; ties are dropped, and train pairs that "
    "all attributes agree on. Config preference: which of two is better, by preference_strength (above 0: the second)",
    attributes="helpfulness, correctness, coherence, complexity, verbosity; config preference: overall",
    contexts="none: --contexts FILE with a sentence for each attribute",
    users="none",
    configs={
        "default": Adapter(
            "nvidia/HelpSteer2",
            _rated,
            ("prompt", "response", *ATTRIBUTES),
            "ratings",
            files={"train": ("train.jsonl*",), "validation": ("validation.jsonl*",)},
        ),
        "preference": Adapter(
            "nvidia/HelpSteer2, config preference",
            _preferred,
            ("prompt", "response_1", "response_2", "preference_strength"),
            "preference",
            files={"train": ("preference/preference.jsonl*",), "validation": ("preference/preference.jsonl*",)},
            split_column="split",
        ),
    },
    protocol="trained on train, tested on validation; train pairs by attribute: helpfulness 6,724, correctness 6,298, "
    "coherence 3,708, complexity 2,168, verbosity 4,584 (23.5K, without 131 on which all agree); test pairs: 873, 854, "
    "696, 643, 754; contexts are one sentence for each attribute (its table 6)",
)
HELPSTEER3 = NamedDataset(
    "nvidia/HelpSteer3",
    licence="CC-BY-4.0",
    size="40,476 comparisons, 95 % train, 5 % validation",
    labels="by up to three annotators each: overall_preference from -3 to 3, above 0 the second is better, 0 is a tie "
    "and dropped; its size is the margin",
    attributes="domain: general, stem, code, multilingual",
    contexts="none (its column context is the conversation, which is the prompt here)",
    users="none",
    configs={
        "preference": Adapter(
            "nvidia/HelpSteer3",
            _third,
            ("context", "response1", "response2", "overall_preference"),
            "preference",
            files={"train": ("preference/train.jsonl*",), "validation": ("preference/validation.jsonl*",)},
        )
    },
)
