"""A template tried on a tiny conversation before any row is read: one that fails there fails on every row."""

from __future__ import annotations

from micropref.cache.errors import BadInput
from micropref.pipeline.sources.pairs import Message, Text
from micropref.pipeline.text.templates import Rendered, Template

_PROMPT, _ANSWER = "zebra", "quartz"
_SYSTEM = Message(role="system", content="You answer.")
_USER = Message(role="user", content=_PROMPT)


def tried(template: Template) -> Text:
    """Return a prompt that a template can render, alone and with a response: the tiniest, or behind a system turn.

    Raises BadInput where there is none, or the template leaves prompt or response out.
    """
    reasons = []
    for prompt in (_PROMPT, (_SYSTEM, _USER)):
        reason = _fault(template, prompt)
        if reason is None:
            return prompt
        reasons.append(reason)
    raise BadInput(f"{reasons[0]}; tried on a tiny conversation before any row: every row would fail")


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
