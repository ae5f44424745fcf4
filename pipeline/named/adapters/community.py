"""Community Alignment: people of five countries choose among four answers, in up to four turns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from micropref.cache.choices import TRAIN
from micropref.pipeline.named.adapters.comparing import comparison, one_of
from micropref.pipeline.named.adapters.facts import NamedDataset
from micropref.pipeline.sources.adapters import Adapter, Ordinary
from micropref.pipeline.sources.rows import Row, RowError

TURNS = ("first", "second", "third", "fourth")
LETTERS = ("a", "b", "c", "d")


def _turns(row: Row) -> Iterator[Ordinary]:
    values = row.values
    user = None if values["annotator_id"] is None else str(values["annotator_id"])
    said: list[dict[str, Any]] = []
    for turn in TURNS:
        preferred, asked = values.get(f"{turn}_turn_preferred_response"), values.get(f"{turn}_turn_prompt")
        if preferred is None or asked is None:
            return  # conversations end early
        answers = {f"response_{letter}": values.get(f"{turn}_turn_response_{letter}") for letter in LETTERS}
        best = one_of(f"{turn}_turn_preferred_response", preferred, answers)
        if best is None:
            raise RowError(f"{turn}_turn_{preferred}", "null", "a text, as it is the preferred response")
        said.append({"role": "user", "content": asked})
        for name, answer in answers.items():
            if name != preferred and answer is not None:
                yield comparison(best, answer, False, prompt=list(said), user=user)
        said.append({"role": "assistant", "content": best})


COMMUNITY = NamedDataset(
    "facebook/community-alignment-dataset",
    licence="CC-BY-4.0",
    size="about 200,000 comparisons of 3,500 people; its split filtered is part of train and not read",
    labels="by people: the preferred answer of each turn against each of the three others",
    attributes="none",
    contexts="none",
    users="annotator_id",
    configs={
        "default": Adapter(
            "facebook/community-alignment-dataset",
            _turns,
            ("annotator_id", "first_turn_prompt", "first_turn_response_a", "first_turn_preferred_response"),
            "preference",
            splits={"train": TRAIN},
        )
    },
)
