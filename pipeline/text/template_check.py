"""A template tried on a tiny conversation before any row is read: one that fails there fails on every row."""

from __future__ import annotations

from micropref.cache.errors import BadInput
from micropref.pipeline.sources.pairs import Message, Text
from micropref.pipeline.text.templates import Rendered, Template

_PROMPT, _ANSWER = "zebra", "quartz"
_SYSTEM = Message(role="system", content="You answer.")
_USER = Message(role="user", content=_PROMPT)


def check_template(template: Template) -> None:
    """Raise BadInput where a template cannot render a prompt and its response, or leaves one of them out.

    One that wants a system turn is tried with one too.
    """
    reasons = [_fault(template, prompt) for prompt in (_PROMPT, (_SYSTEM, _USER))]
    if all(reasons):
        raise BadInput(f"{reasons[0]}; so it was with a tiny conversation, before any row: every row would fail")


def _fault(template: Template, prompt: Text) -> str | None:
    try:
        texts = _joined(template.render(prompt, None)), _joined(template.render(prompt, _ANSWER))
    except BadInput as error:
        return str(error)
    if not all(_PROMPT in text for text in texts):
        return "the backbone's chat template leaves out what the user says: correct it, or use the plain template"
    if _ANSWER not in texts[1]:
        return "the backbone's chat template leaves out the response: correct it, or use the plain template"
    return None


def _joined(rendered: Rendered) -> str:
    return rendered if isinstance(rendered, str) else "\n".join(rendered)
