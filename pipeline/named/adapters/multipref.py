"""MultiPref: four people judge each pair by four criteria."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from micropref.pipeline.named.adapters.comparing import NO_LABEL, comparison, listed, member, one_of
from micropref.pipeline.named.adapters.facts import NamedDataset
from micropref.pipeline.sources.adapters import Adapter, Ordinary
from micropref.pipeline.sources.rows import NoPreference, Row

ASPECTS = ("overall", "helpful", "truthful", "harmless")
ANNOTATIONS = ("normal_worker_annotations", "expert_worker_annotations")
MARGINS = {"A-is-clearly-better": -2.0, "A-is-slightly-better": -1.0, "Tie": 0.0, "B-is-slightly-better": 1.0,
           "B-is-clearly-better": 2.0}  # fmt: skip
"""Judgements → strength, above 0 where B is better."""


def _judged(row: Row) -> Iterator[Ordinary]:
    annotated = [(f"{kind}[{at}]", one) for kind in ANNOTATIONS for at, one in enumerate(listed(row, kind))]
    for field, one in annotated:
        for aspect in ASPECTS:
            yield _judgement(row, field, one, aspect)


def _judgement(row: Row, field: str, annotation: Any, aspect: str) -> Ordinary:
    said = member(field, annotation, f"{aspect}_pref")
    if said is None:
        return NoPreference(NO_LABEL)
    strength = one_of(f"{field}.{aspect}_pref", said, MARGINS)
    user = member(field, annotation, "evaluator")
    return comparison(
        row.values["completion_a"],
        row.values["completion_b"],
        None if strength == 0 else strength > 0,
        prompt=row.values["text"],
        attribute=aspect,
        user=user if user is None else str(user),
        margin=abs(strength),
    )


MULTIPREF = NamedDataset(
    "allenai/multipref",
    licence="ODC-BY",
    size="10,461 rows, train only; four people each (two crowd workers, two experts)",
    labels="by people: each person's judgement by each criterion is a pair, ties are dropped, margin is 1 (slightly) "
    "or 2 (clearly)",
    attributes="overall, helpful, truthful, harmless",
    contexts="none: --contexts FILE with a sentence for each attribute",
    users="evaluator",
    configs={
        "default": Adapter(
            "allenai/multipref",
            _judged,
            ("text", "completion_a", "completion_b", *ANNOTATIONS),
            "preference",
            files={"train": ("data/*.parquet",)},
        )
    },
)
