r"""Templates: how a prompt and a response become the text that a backbone reads.

Three of them, behind one protocol:

- `plain`: `{prompt}\n\n{response}`, the prompt alone as it is; conversations show as role-tagged text.
- `chat`: the tokenizer's own chat template, with the date pinned.
- `pair`: an encoder's two segments (prompt, response); the prompt alone is one segment.
"""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from jinja2.exceptions import TemplateError

from micropref.cache.errors import BadInput
from micropref.pipeline.options import TemplateName
from micropref.pipeline.sources.pairs import Message, Text, display

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Rendered = str | tuple[str, str]
"""What a tokenizer takes: one text, or the two segments of an encoder."""

_PLACEHOLDER = re.compile(r"\{(context|prompt)\}")
DATE_CODES = ("%-d", "%-m", "%A", "%B", "%H", "%I", "%M", "%S", "%Y", "%a", "%b", "%d", "%e", "%j", "%m", "%p", "%y")

# A macro shadows the function of the same name that transformers offers to templates, which reads the clock.
# The block tag ends the line so that the template's own first line is treated as it would be without it.
PINNED_CLOCK = (
    "{%- macro strftime_now(format) -%}"
    "{%- set pinned = namespace(text=format) -%}"
    "{%- for code, value in pinned_date.items() -%}"
    "{%- set pinned.text = pinned.text | replace(code, value) -%}"
    "{%- endfor -%}"
    "{{- pinned.text -}}"
    "{%- endmacro %}\n"
)


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

    tokenizer: PreTrainedTokenizerBase
    """Renders the conversation."""
    source: str
    """The template's Jinja text."""
    date: datetime.date
    """The date that a template gets when it asks for today's."""

    def render(self, prompt: Text, response: Text | None) -> Rendered:
        """Return one text.

        Raises BadInput when the template refuses the conversation (an unknown role, roles that do not alternate).
        """
        answer = () if response is None else _as_messages(response, "assistant")
        messages = [*_as_messages(prompt, "user"), *answer]
        variables: dict[str, Any] = {}
        if "date_string" in self.source:
            variables["date_string"] = self.date.strftime("%d %b %Y")
        if "strftime_now" in self.source:
            variables["pinned_date"] = {code: self.date.strftime(code) for code in DATE_CODES}
        try:
            text = self.tokenizer.apply_chat_template(
                [{"role": message.role, "content": message.content} for message in messages],
                chat_template=PINNED_CLOCK + self.source if "strftime_now" in self.source else self.source,
                tokenize=False,
                add_generation_prompt=response is None,
                **variables,
            )
        except TemplateError as error:
            roles = ", ".join(message.role for message in messages)
            raise BadInput(
                f"the backbone's chat template refuses a conversation with roles {roles} ({error}): "
                "correct the roles, or use the plain template"
            ) from None
        assert isinstance(text, str)
        return text

    def settings(self) -> dict[str, Any]:
        """Return the template's name and, where the template asks for a date, the pinned one."""
        dated = "date_string" in self.source or "strftime_now" in self.source
        return {"template": "chat", "date": self.date.isoformat() if dated else None}


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
    return ChatTemplate(tokenizer, source, date)


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
