"""Loading with transformers: one model at a time, without reports on heads that are left out.

While a model is loaded transformers replaces functions of torch and of its own for the whole process. Two threads that
do so at once leave some of them replaced.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

from transformers.utils import logging

_reports: Any = logging  # its functions carry no types
_one_at_a_time = Lock()


@contextmanager
def loading() -> Iterator[None]:
    """Load or save within the block, without transformers' lines and bars; its settings are as before after it."""
    with _one_at_a_time:
        level, bars = _reports.get_verbosity(), _reports.is_progress_bar_enabled()
        _reports.set_verbosity_error()
        _reports.disable_progress_bar()
        try:
            yield
        finally:
            _reports.set_verbosity(level)
            if bars:
                _reports.enable_progress_bar()
