"""Numbers and ids in every form that files hold them."""

from __future__ import annotations

import math
import re
import uuid
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

NUMBER = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|nan|inf(?:inity)?)", flags=re.ASCII | re.IGNORECASE)
"""Texts that stand for a number; nan and inf are among them to be refused as numbers."""
LONGEST_NUMBER = 400
"""Characters of a text that is looked at as a number."""
WHOLE = re.compile(r"([+-]?\d+)\.0+", flags=re.ASCII)
"""A whole number as pandas writes it into CSV where the column has gaps."""
ABSENT = frozenset({"", "n/a", "na", "null", "none"})
"""Texts, in lower case, that say there is no number."""
TRUTHS = {"true": 1.0, "false": 0.0}
"""How CSV writes booleans, in lower case."""
EXACT_FLOATS = 2**53
"""Whole numbers beyond it are rounded in a float: two ids may have become one."""


def is_absent(value: Any) -> bool:
    """Say whether a value stands for no number: null, an empty text, N/A and the like."""
    return value is None or (isinstance(value, str) and len(value) < 16 and value.strip().lower() in ABSENT)


def to_number(value: Any, *, textual: bool = False) -> float | None:
    """Return a number given as such, as a boolean, a Decimal or digits; None where it is none.

    What a float cannot hold is infinite. `textual`: the file knows text only, so true and false are booleans too.

    >>> to_number("3.5"), to_number(True), to_number("three"), to_number(10**400)
    (3.5, 1.0, None, inf)
    """
    if isinstance(value, str):
        return _written_number(value, textual=textual)
    if not isinstance(value, Real | Decimal):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except ValueError:  # Decimal's signaling NaN
        return math.nan


def _written_number(text: str, *, textual: bool) -> float | None:
    if len(text) > LONGEST_NUMBER:
        return None
    text = text.strip()
    if NUMBER.fullmatch(text):
        return float(text)
    return TRUTHS.get(text.lower()) if textual else None


def to_id(value: Any, *, whole: bool = False) -> str | None:
    """Return an id as text; None where a value is none, such as 1.5 or a list.

    Whole numbers are their digits in any form; `whole`: texts such as 12.0 are as well, since the column has no others.

    >>> to_id(12.0), to_id("a b"), to_id("007"), to_id("12.0"), to_id("12.0", whole=True), to_id(1.5)
    ('12', 'a b', '007', '12.0', '12', None)
    """
    if isinstance(value, str):
        written = WHOLE.fullmatch(value.strip()) if whole else None
        return written[1] if written else value
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, bool) or not isinstance(value, Real | Decimal):
        return None
    if isinstance(value, Integral):
        return str(int(value))
    if isinstance(value, Decimal):
        return str(int(value)) if value.is_finite() and value == value.to_integral_value() else None
    number = float(value)
    return str(int(number)) if number.is_integer() and abs(number) <= EXACT_FLOATS else None
