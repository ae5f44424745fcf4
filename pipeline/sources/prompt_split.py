"""Where the prompt ends and the responses begin."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from micropref.pipeline.sources.pairs import Message, Text, as_json
from micropref.pipeline.sources.rows import Row, RowError, is_blank

TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
TURN_ROLES = {"Human": "user", "Assistant": "assistant"}
SYSTEM = ("system", "developer")
CUT = "responses that repeated the prompt, cut"
"""What is noted of a response that held more than the response."""
ONE_SIDED = "responses that alone of a row's repeat the prompt, left as they are"
SHORT_PROMPT = 12
"""Characters of a prompt below which an answer may begin with the same words by itself."""
NEW_LINE = re.compile(r"[ \t]*(?:\n|\Z)")
_SEPARATOR = re.compile(r"\s*\n|[ \t]")
"""What stands between a prompt and its answer; the answer's own indentation stays."""

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


def behind_prompt(prompt: Text, responses: Mapping[str, Text], row: Row) -> tuple[Text, list[Text]]:
    """Return the prompt and the responses (field → text) all as texts, or all as messages where one of them is.

    What repeats the prompt is cut to what follows it, and that is noted. A conversation may repeat it with other white
    space around its texts and behind a system turn, which then becomes the prompt's. Raises RowError where what follows
    is not the assistant's.
    """
    if isinstance(prompt, str):
        texts = {field: response for field, response in responses.items() if isinstance(response, str)}
        if len(texts) == len(responses):
            return prompt, list(_cut(prompt, texts, row).values())
    asked = prompt if isinstance(prompt, tuple) else (Message("user", prompt),)
    talks = {field: response for field, response in responses.items() if isinstance(response, tuple)}
    if row.version < 2:
        ends = {field: len(asked) if talk[: len(asked)] == asked else 0 for field, talk in talks.items()}
    else:
        asked, ends = _repeated(asked, talks)
    found: list[Text] = []
    for field, response in responses.items():
        if isinstance(response, str):
            found.append((Message("assistant", response),))
        else:
            found.append(_checked(response[ends[field] :], field))
            if ends[field]:
                row.noted[CUT] += 1
    return asked, found


def _cut(prompt: str, responses: Mapping[str, str], row: Row) -> Mapping[str, str]:
    """Return texts without the prompt where all of them begin with it.

    A short prompt, such as a greeting, may well open an answer: it is cut where a new line follows it alone.
    """
    asked = prompt.strip()
    rests = [text.lstrip()[len(asked) :] for text in responses.values() if text.lstrip().startswith(asked)]
    long = len(asked) >= SHORT_PROMPT and len(asked.split()) > 2
    if row.version < 2 or len(rests) < len(responses) or not asked:
        if long and rests and row.version >= 2:
            row.noted[ONE_SIDED] += len(rests)
        return responses
    ends_there = not asked[-1].isalnum() or all(not rest[:1].isalnum() for rest in rests)
    if not ends_there or (not long and not all(NEW_LINE.match(rest) for rest in rests)):
        return responses
    row.noted[CUT] += len(rests)
    begins = (found.end() if (found := _SEPARATOR.match(rest)) else 0 for rest in rests)
    return {field: rest[begin:] for field, rest, begin in zip(responses, rests, begins, strict=True)}


def _repeated(prompt: Messages, talks: Mapping[str, Messages]) -> tuple[Messages, dict[str, int]]:
    """Return the prompt as the conversations (field → messages) have it, and where it ends in each; 0: not in there."""
    ends = {field: _end(prompt, talk) for field, talk in talks.items()}
    heads = dict.fromkeys(talk[: ends[field]] for field, talk in talks.items() if ends[field])
    if len(talks) > 1 and not any(ends.values()) and (shared := _shared(prompt, tuple(talks.values()))):
        return shared, dict.fromkeys(talks, len(shared))
    systems = {tuple(message.content for message in _system(head)) for head in heads if _system(head)}
    if len(systems) > 1:
        field = list(talks)[-1]
        raise RowError(field, "another system turn than on the other side", "one prompt for all responses")
    if heads and prompt not in heads:
        return next((head for head in heads if _system(head)), prompt if _system(prompt) else next(iter(heads))), ends
    return prompt, ends


def _end(prompt: Messages, talk: Messages) -> int:
    """Return with how many of its messages a conversation repeats the prompt; 0: it does not."""
    if talk[: len(prompt)] == prompt:
        return len(prompt)
    ours, theirs = _system(prompt), _system(talk)
    if ours and theirs and not _alike(ours, theirs):
        return 0
    bare, own = prompt[len(ours) :], talk[len(theirs) :]
    return len(theirs) + len(bare) if bare and _alike(bare, own[: len(bare)]) else 0


def _shared(prompt: Messages, talks: tuple[Messages, ...]) -> Messages | None:
    """Return what two whole conversations have in common where the prompt is one of its turns, such as the last."""
    if len(talks) != 2 or len(prompt) != 1 or any(talk[0].role == "assistant" for talk in talks):
        return None
    try:
        shared, _, _ = split_messages(*talks)
    except RowError:
        return None
    return shared if any(_alike(prompt, (message,)) for message in shared) else None


def _system(messages: Messages) -> Messages:
    """Return the system turns in front of a conversation."""
    count = next((at for at, message in enumerate(messages) if message.role not in SYSTEM), len(messages))
    return messages[:count]


def _alike(first: Messages, second: Messages) -> bool:
    """Say whether messages are the same but for white space around their texts."""
    return [(one.role, one.content.strip(), one.more) for one in first] == [
        (one.role, one.content.strip(), one.more) for one in second
    ]


def with_tools(prompt: Text, responses: list[Text], tools: list[Any] | None) -> tuple[Text, list[Text]]:
    """Return prompt and responses as messages, of which the first carries the tools on offer, if there are any."""
    if tools is None:
        return prompt, responses
    first, *others = prompt if isinstance(prompt, tuple) else (Message("user", prompt),)
    first = replace(first, more=as_json({**first.parts, "tools": tools}))
    said: list[Text] = [(Message("assistant", one),) if isinstance(one, str) else one for one in responses]
    return (first, *others), said


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
