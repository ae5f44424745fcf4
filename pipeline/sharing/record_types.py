"""Types that the fields of a run's record have, so that no command meets another in a run that came from elsewhere."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

from micropref.cache.store import NAME

MOST_HEADS = 4096
_FEATURES = re.compile(r"[0-9a-f]{12}")
Holds = Callable[[Any], bool]


def check_types(record: dict[str, Any]) -> None:
    """Raise ValueError naming the first field whose value is none of its kind; a field that may be null may lack."""
    for name, holds in _NEEDED.items():
        if not holds(record.get(name)):
            raise ValueError(f"{name} is {str(record.get(name))[:40]!r}")
    for name, holds in _MAY_LACK.items():
        if record.get(name) is not None and not holds(record[name]):
            raise ValueError(f"{name} is {str(record[name])[:40]!r}")
    other = record["settings"].get("router_features")
    if other is not None and not _matches(_FEATURES)(other):
        raise ValueError(f"settings.router_features is {str(other)[:40]!r}")


def all_finite(value: Any) -> bool:
    """Say whether a JSON value holds no number that is infinite or none, such as 1e999."""
    if isinstance(value, dict):
        return all(map(all_finite, value.values()))
    if isinstance(value, list):
        return all(map(all_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def is_time(value: Any) -> bool:
    """Say whether a value is a time with its zone that every command can show and compare."""
    try:
        time = datetime.fromisoformat(value)
        return time.tzinfo is not None and 0 <= time.timestamp() < 1e11
    except (ValueError, TypeError, OverflowError, OSError):
        return False


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _matches(form: re.Pattern[str]) -> Holds:
    return lambda value: isinstance(value, str) and form.fullmatch(value) is not None


def _count(most: int, least: int = 0) -> Holds:
    return lambda value: type(value) is int and least <= value <= most


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300


def _figures(value: Any) -> bool:
    return isinstance(value, list) and all(map(_number, value))


def _words(value: Any) -> bool:
    return isinstance(value, dict) and all(one is None or isinstance(one, str) for one in value.values())


def _restarts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, dict) for one in value)


_LARGE = _count(2**53)
_NEEDED: dict[str, Holds] = {
    **dict.fromkeys(("run", "method", "data_digest", "heads_digest"), _text),
    "data": _matches(NAME),
    "features": _matches(_FEATURES),
    "k": _count(MOST_HEADS, 1),
    "settings": lambda value: isinstance(value, dict),
}
_MAY_LACK: dict[str, Holds] = {
    **dict.fromkeys(("parent", "data_split", "combine"), _text),
    **dict.fromkeys(("lam", "validation_nll", "validation_nll_se", "validation_accuracy", "effective_heads"), _number),
    **dict.fromkeys(("validation_nll_known", "validation_accuracy_known", "lr_factor"), _number),
    **dict.fromkeys(("scale", "scale_known"), lambda value: _number(value) and value >= 0),
    **dict.fromkeys(("seed", "train_pairs", "validation_pairs", "pairs_without_context", "best_epoch"), _LARGE),
    **dict.fromkeys(("epochs_run", "router_reading", "fit_width"), _LARGE),
    **dict.fromkeys(("train_history", "validation_history", "validation_accuracy_history"), _figures),
    "created": is_time,
    "versions": _words,
    "restarts": _restarts,
    "groups": lambda value: isinstance(value, list),
    "units": lambda value: isinstance(value, dict),
}
