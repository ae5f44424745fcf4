r"""Templates: how a prompt and a response become the text that a backbone reads.

Three of them, behind one protocol:

- `plain`: `{prompt}\n\n{response}`, the prompt alone as it is; conversations show as role-tagged text.
- `chat`: the tokenizer's own chat template, with the date pinned.
- `pair`: an encoder's two segments (prompt, response); the prompt alone is one segment.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from jinja2.exceptions import TemplateError

from micropref.cache.errors import BadInput
from micropref.pipeline.options import TemplateName
from micropref.pipeline.sources.messages import LINKS
from micropref.pipeline.sources.pairs import Message, Text, as_json, display
from micropref.pipeline.text.jinja_limits import Program, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Rendered = str | tuple[str, str]
"""What a tokenizer takes: one text, or the two segments of an encoder."""

_PLACEHOLDER = re.compile(r"\{(context|prompt)\}")
REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names under which chat templates look for what an assistant thought; the first is the standard one."""


class Template(Protocol):
    """One way to write a prompt, or a prompt with a response, for a backbone."""

    def render(self, prompt: Text, response: Text | None) -> Rendered:
        """Return what the tokenizer takes for the prompt alone (`response` None) or with a response."""

    def settings(self) -> dict[str, Any]:
        """Return what of this template changes token ids, apart from the tokenizer's files."""


@dataclass(frozen=True, slots=True)
class PlainTemplate:
    r"""`{prompt}\n\n{response}` as one text. Nothing, no end-of-text token either, follows the response."""

    def render(self, prompt: Text, response: Text | None) -> Rendered:
        """Return one text."""
        return display(prompt) if response is None else f"{display(prompt)}\n\n{display(response)}"

    def settings(self) -> dict[str, Any]:
        """Return the template's name."""
        return {"template": "plain"}


@dataclass(frozen=True, slots=True)
class SegmentTemplate:
    """An encoder's segments: the prompt is the first, the response the second."""

    def render(self, prompt: Text, response: Text | None) -> Rendered:
        """Return one text, or two segments when there is a response."""
        return display(prompt) if response is None else (display(prompt), display(response))

    def settings(self) -> dict[str, Any]:
        """Return the template's name."""
        return {"template": "pair"}


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """The tokenizer's chat template; a prompt alone ends where the assistant would begin to speak."""

    program: Program
    """The template, compiled."""
    tools_program: Program
    """The same, or the tokenizer's own template for conversations with tools."""
    special: Mapping[str, Any]
    """The tokenizer's special tokens by name."""
    date: datetime.date
    """The date that a template gets when it asks for today's."""

    def render(self, prompt: Text, response: Text | None) -> Rendered:
        """Return one text.

        Raises BadInput when the template refuses the conversation (an unknown role, roles that do not alternate), goes
        wrong on it, or beyond its limits.
        """
        messages = self._messages(prompt, response)
        try:
            return self._rendered(messages, prompt_alone=response is None)
        except Exception as error:  # noqa: BLE001 - a template may raise anything
            roles = ", ".join(message["role"] for message in messages)
            does = "refuses" if type(error) is TemplateError else "fails on"
            raise BadInput(
                f"the backbone's chat template {does} a conversation with roles {roles[:80]} ({one_line(error)}): "
                "correct the roles, or use the plain template"
            ) from None

    def lost(self, text: str, prompt: Text, response: Text | None) -> frozenset[str]:
        """Return the names of what a rendered text lacks of the response; of the prompt where `response` is None.

        A part is lost if the text is the same without it.
        """
        own = _as_messages(prompt, "user") if response is None else _as_messages(response, "assistant")
        found = set()
        for name in sorted({name for message in own for name in message.parts} - set(LINKS)):
            without = tuple(_without(message, name) for message in own)
            if text == self._try(*((without, None) if response is None else (prompt, without))):
                found.add(name)
        for at, message in enumerate(own):
            if message.content.strip() and message.content.strip() not in text:
                without = (*own[:at], replace(message, content=""), *own[at + 1 :])
                if text == self._try(*((without, None) if response is None else (prompt, without))):
                    found.add(f"{message.role} turns")
        return frozenset(found)

    def settings(self) -> dict[str, Any]:
        """Return the template's name and, where the template asks for a date, the pinned one."""
        source = self.program.source
        dated = "date_string" in source or "strftime_now" in source
        return {"template": "chat", "date": self.date.isoformat() if dated else None}

    def _try(self, prompt: Text, response: Text | None) -> str | None:
        try:
            return str(self.render(prompt, response))
        except BadInput:
            return None

    def _messages(self, prompt: Text, response: Text | None) -> list[dict[str, Any]]:
        """Return the messages as the template takes them."""
        answer = () if response is None else _as_messages(response, "assistant")
        source = self.program.source
        found = []
        for message in (*_as_messages(prompt, "user"), *answer):
            parts = message.parts
            thought = parts.pop("reasoning_content", None)
            if thought is not None:
                known = [name for name in REASONING if name in source] or REASONING[:1]
                parts.update(dict.fromkeys(known, thought))
            found.append({"role": message.role, "content": message.content, **parts})
        return found

    def _rendered(self, messages: list[dict[str, Any]], *, prompt_alone: bool) -> str:
        tools = [tool for message in messages for tool in message.pop("tools", ())] or None
        program = self.tools_program if tools else self.program
        variables = {
            **self.special, "tools": tools, "documents": None, "add_generation_prompt": prompt_alone,
        }  # fmt: skip
        if "date_string" in program.source:
            variables["date_string"] = self.date.strftime("%d %b %Y")
        given = sum(len(value) for message in messages for value in message.values() if isinstance(value, str))
        if any("tool_calls" in message for message in messages) or tools:
            given += len(as_json([messages, tools]))
        try:
            return program(given, {**variables, "messages": messages})
        except TypeError:
            # Some templates join a call's arguments to a text, as which many interfaces send them.
            if not any("tool_calls" in message for message in messages):
                raise
            return program(given, {**variables, "messages": [_with_written_arguments(one) for one in messages]})


def choose_template(
    tokenizer: PreTrainedTokenizerBase, name: TemplateName, *, date: datetime.date, segments: bool
) -> Template:
    """Return the template of a name; `auto` is the tokenizer's chat template where it has one, else plain.

    Encoders (`segments`) take prompt and response as two segments, whatever their tokenizer carries.
    Raises BadInput on `chat` for an encoder, or for a tokenizer without a chat template.
    """
    if segments:
        if name == "chat":
            raise BadInput(
                "template chat: this backbone is an encoder, which takes prompt and response as two segments; use auto"
            )
        return SegmentTemplate()
    if name == "plain" or (name == "auto" and not tokenizer.chat_template):
        return PlainTemplate()
    try:
        source = tokenizer.get_chat_template()
    except ValueError:
        raise BadInput("template chat: the backbone's tokenizer has no default chat template; use plain") from None
    program = Program(source, date)
    known = tokenizer.chat_template
    own = known.get("tool_use", source) if isinstance(known, dict) else source
    return ChatTemplate(program, program if own == source else Program(own, date), tokenizer.special_tokens_map, date)


def with_context(template: str, context: str, prompt: Text) -> Text:
    """Return the prompt behind its context: a text, or a conversation whose first user message holds both."""
    if isinstance(prompt, str):
        parts = {"context": context, "prompt": prompt}
        return _PLACEHOLDER.sub(lambda match: parts[match[1]], template)
    first = next((at for at, message in enumerate(prompt) if message.role == "user"), 0)
    content = with_context(template, context, prompt[first].content)
    assert isinstance(content, str)
    return (*prompt[:first], replace(prompt[first], content=content), *prompt[first + 1 :])


def check_context_template(template: str) -> None:
    """Raise BadInput unless the template holds `{context}` and `{prompt}` once each."""
    if sorted(_PLACEHOLDER.findall(template)) != ["context", "prompt"]:
        raise BadInput(f"context template {template!r}: expected {{context}} and {{prompt}} once each")


def _as_messages(text: Text, role: str) -> tuple[Message, ...]:
    return (Message(role=role, content=text),) if isinstance(text, str) else text


def _without(message: Message, name: str) -> Message:
    parts = {one: value for one, value in message.parts.items() if one != name}
    return replace(message, more=as_json(parts) if parts else "")


def _with_written_arguments(message: dict[str, Any]) -> dict[str, Any]:
    calls = message.get("tool_calls")
    if calls is None:
        return message
    written = [
        {**call, "function": {**call["function"], "arguments": as_json(call["function"]["arguments"])}}
        for call in calls
    ]
    return {**message, "tool_calls": written}
