"""Where the prompt ends and the responses begin."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeAlias

from micropref.pipeline.sources.pairs import Message, Text
from micropref.pipeline.sources.rows import RowError, is_blank

TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
TURN_ROLES = {"Human": "user", "Assistant": "assistant"}

Messages: TypeAlias = tuple[Message, ...]


def turns(transcript: str, field: str) -> Messages:
    """Return the messages of a transcript whose paragraphs "Human: ..." and "Assistant: ..." are the turns.

    White space around a turn's text is part of the notation and is removed. Raises RowError for a text that
    begins otherwise.
    """
    if TURN.match(transcript) is None:
        raise RowError(field, "a text without turns", r'turns that begin with "\n\nHuman: " or "\n\nAssistant: "')
    pieces = TURN.split(transcript)[1:]
    return tuple(
        Message(TURN_ROLES[speaker], content.strip())
        for speaker, content in zip(pieces[::2], pieces[1::2], strict=True)
    )


def behind_prompt(prompt: Text, responses: Mapping[str, Text]) -> tuple[Text, list[Text]]:
    """Return the prompt and the responses (field → text) all as texts, or all as messages where one of them is.

    A conversation that repeats the prompt is cut to what follows it. Raises RowError where that is not the
    assistant's.
    """
    if isinstance(prompt, str) and all(isinstance(response, str) for response in responses.values()):
        return prompt, list(responses.values())
    asked = prompt if isinstance(prompt, tuple) else (Message("user", prompt),)
    return asked, [_answer(asked, field, response) for field, response in responses.items()]


def split_messages(chosen: Messages, rejected: Messages) -> tuple[Messages, Messages, Messages]:
    """Split two conversations into their common prompt and what follows on either side.

    The prompt is the longest common beginning behind which both sides go on with the assistant. Raises
    RowError where no user's turn is common.
    """
    longest = min(len(chosen), len(rejected)) - 1
    end = next((i for i in range(longest) if chosen[i] != rejected[i]), longest)
    while end > 0 and not chosen[end].role == rejected[end].role == "assistant":
        end -= 1
    if not any(message.role == "user" and not is_blank(message.content) for message in chosen[:end]):
        raise RowError(
            "rejected",
            "no user's turn in common with 'chosen'",
            "two conversations that begin alike, or a 'prompt' field",
        )
    return chosen[:end], _checked(chosen[end:], "chosen"), _checked(rejected[end:], "rejected")


def split_texts(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Split two different texts into their common prompt and what follows on either side.

    TRL's convention for a preference row without a prompt: the prompt is the common beginning, and the space
    behind it belongs to the responses. It is cut back to white space, so that no word is split, and as far
    as both responses keep some text. Raises RowError where nothing is left of it.
    """
    for field, text in (("chosen", chosen), ("rejected", rejected)):
        if is_blank(text):
            raise RowError(field, "an empty text", "a text that begins with the prompt, or a 'prompt' field")
    longest = min(len(chosen.rstrip()), len(rejected.rstrip())) - 1
    end = min(_common_length(chosen, rejected), longest)
    while end > 0 and not (chosen[end].isspace() and rejected[end].isspace()):
        end -= 1
    prompt = chosen[:end].rstrip()
    if not prompt:
        raise RowError(
            "rejected",
            "no beginning in common with 'chosen'",
            "two texts that begin with the same prompt, or a 'prompt' field",
        )
    return prompt, chosen[len(prompt) :], rejected[len(prompt) :]


def _answer(prompt: Messages, field: str, response: Text) -> Messages:
    if isinstance(response, str):
        return (Message("assistant", response),)
    repeated = response[: len(prompt)] == prompt
    return _checked(response[len(prompt) :] if repeated else response, field)


def _checked(response: Messages, field: str) -> Messages:
    if not response or response[0].role != "assistant":
        found = f"a turn of the {response[0].role}" if response else "nothing"
        raise RowError(field, f"{found} behind the prompt", "a turn of the assistant behind the prompt")
    return response


def _common_length(first: str, second: str) -> int:
    """Return how many characters two texts have in common at their beginning, by bisection."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first.startswith(second[low:middle], low):
            low = middle
        else:
            high = middle - 1
    return low
