"""From texts and conversations as Python has them to what is scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from micropref.cache.errors import BadInput

if TYPE_CHECKING:
    from micropref.pipeline.rewards.scoring.candidates import Candidates
    from micropref.pipeline.rewards.scoring.taste import Taste
    from micropref.pipeline.sources.pairs import Text


def candidates_of(
    prompts: Sequence[Any], responses: Sequence[Any], tastes: Sequence[Taste], *, together: bool = False
) -> list[Candidates]:
    """Return what is to be scored: for each prompt its responses, one or several, by its taste.

    Raises BadInput for other numbers of them than of prompts, and texts that are none.
    """
    from micropref.pipeline.rewards.scoring.candidates import Candidates

    if len(prompts) != len(responses):
        raise BadInput(f"{len(prompts)} prompts and {len(responses)} lists of responses: expected as many")
    return [
        Candidates(_text("prompt", prompt), _texts(some), taste, together)
        for prompt, some, taste in zip(prompts, responses, tastes, strict=True)
    ]


def _text(name: str, value: Any) -> Text:
    """Return a text or a conversation as rows of a file have it. Raises BadInput for anything else."""
    from micropref.pipeline.rewards.scoring.candidates import HERE
    from micropref.pipeline.sources.field_parsing import response
    from micropref.pipeline.sources.rows import Row, RowError

    try:
        return response(Row({name: value}, HERE, textual=False, pool={}), name)
    except RowError as error:
        raise BadInput(str(error)) from None


def _texts(given: Any) -> tuple[Text, ...]:
    """Return one or several responses: a text, a conversation, or a list of these."""
    if isinstance(given, str):
        return (given,)
    several = list(given)
    if several and all(isinstance(one, dict) for one in several):
        return (_text("response", several),)
    return tuple(_text(f"responses[{at}]", one) for at, one in enumerate(several))
