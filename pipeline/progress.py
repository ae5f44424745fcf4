"""Progress on stderr: how much is done, at what rate, how long it will take."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import NoReturn

from tqdm import tqdm

Announce = Callable[[str], None]
"""Tells the user one line about what was found or done."""


class Progress:
    """Counts work done, from any thread."""

    def __init__(self, bar: tqdm[NoReturn]) -> None:
        self._bar, self._lock = bar, Lock()

    def __call__(self, count: int) -> None:
        """Count some more."""
        with self._lock:
            self._bar.update(count)

    def expect(self, total: int, remark: str) -> None:
        """Say how much it will be, as far as is known by now, and a few words next to it."""
        with self._lock:
            self._bar.total = total
            self._bar.set_postfix_str(remark, refresh=False)


@contextmanager
def progress_bar(total: int | None, label: str, unit: str) -> Iterator[Progress]:
    """Yield what counts work done; a terminal sees a bar, a log file a line every half minute.

    `total` None: not known yet.
    """
    terminal = sys.stderr.isatty()
    with tqdm(
        total=total,
        desc=label,
        unit=f" {unit}",
        unit_scale=total is None or total >= 10_000,
        disable=total == 0,
        dynamic_ncols=terminal,
        leave=False,
        mininterval=0.2 if terminal else 30,
        maxinterval=10 if terminal else 60,
    ) as bar:
        yield Progress(bar)
