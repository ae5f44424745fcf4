"""Texts of users as they may stand in a page: what cannot be seen is made visible, nothing is markup."""

from __future__ import annotations

import json
import re
from typing import Any

_HIDDEN = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff\ufffe\uffff]"
)
"""Control characters, and those that turn the direction of the text around them."""
LONGEST = 20_000
"""Characters of a text that a page shows."""


def visible(text: str) -> str:
    """Return a text whose hidden characters are written out: `[U+202E]` for a right-to-left override."""
    return _HIDDEN.sub(lambda found: f"[U+{ord(found[0]):04X}]", text.replace("\r\n", "\n"))


def shown(text: str, most: int = LONGEST) -> str:
    """Return a text as a page has it, cut where it is very long, with how much was cut."""
    if len(text) <= most:
        return visible(text)
    return f"{visible(text[:most])}… [{len(text) - most:,} more characters]"


def json_in_page(value: Any) -> str:
    """Return JSON that may stand in a script element: no text of it can end the element or begin a comment."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
