"""UltraFeedback and its binarized form: ratings of a language model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from micropref.cache.choices import TEST, TRAIN
from micropref.pipeline.named.adapters.comparing import TIE, comparison, listed, member, number
from micropref.pipeline.named.adapters.facts import NamedDataset
from micropref.pipeline.sources.adapters import Adapter, Ordinary
from micropref.pipeline.sources.rows import NoPreference, Row, RowError, describe

ASPECTS = ("instruction_following", "honesty", "truthfulness", "helpfulness")
UNRATED = ("", "N/A")


def _completions(row: Row) -> Iterator[Ordinary]:
    completions = listed(row, "completions")
    if not completions:
        raise NoPreference("no completions")
    for place, completion in enumerate(completions):
        field = f"completions[{place}]"
        annotations = member(field, completion, "annotations")
        response = member(field, completion, "response")
        rated = {aspect: _rating(field, annotations, aspect) for aspect in ASPECTS}
        yield {"prompt": row.values["instruction"], "response": response, **rated}


def _rating(field: str, annotations: Any, aspect: str) -> float | None:
    """Return an aspect's rating, which the file has as text; None for N/A."""
    annotation = annotations.get(aspect) if isinstance(annotations, dict) else None
    value = annotation.get("Rating") if isinstance(annotation, dict) else None
    if value is None or value in UNRATED:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        raise RowError(f"{field}.annotations.{aspect}.Rating", describe(value), "a number, or N/A") from None


def _binarized(row: Row) -> Iterator[Ordinary]:
    chosen, rejected = number(row, "score_chosen"), number(row, "score_rejected")
    if chosen is not None and chosen == rejected:
        raise NoPreference(TIE)
    margin = None if chosen is None or rejected is None else chosen - rejected
    yield comparison(row.values["chosen"], row.values["rejected"], False, prompt=row.values["prompt"], margin=margin)


ULTRAFEEDBACK = NamedDataset(
    "openbmb/UltraFeedback",
    licence="MIT",
    size="about 64,000 prompts with four responses each, train only",
    labels="of GPT-4: each response rated 1-5 on four aspects, the higher is preferred, N/A is not rated",
    attributes="instruction_following, honesty, truthfulness, helpfulness",
    contexts="none: --contexts FILE with a sentence for each attribute",
    users="none",
    configs={"default": Adapter("openbmb/UltraFeedback", _completions, ("instruction", "completions"), "ratings")},
)
BINARIZED = NamedDataset(
    "HuggingFaceH4/ultrafeedback_binarized",
    licence="MIT",
    size="about 61,000 train_prefs, 2,000 test_prefs; the other splits are of the same rows",
    labels="of GPT-4: the response with the best overall score against one of the others; equal scores are a choice by "
    "chance and are dropped as ties",
    attributes="none",
    contexts="none",
    users="none",
    configs={
        "default": Adapter(
            "HuggingFaceH4/ultrafeedback_binarized",
            _binarized,
            ("prompt", "chosen", "rejected", "score_chosen", "score_rejected"),
            "preference",
            splits={"train_prefs": TRAIN, "test_prefs": TEST},
        )
    },
)
