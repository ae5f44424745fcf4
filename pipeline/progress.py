"""Progress on stderr: how much is done, at what rate, how long it will take."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

Announce = Callable[[str], None]
"""Tells the user one line about what was found or done."""


@contextmanager
def progress_bar(total: int, label: str, unit: str) -> Iterator[Callable[[int], None]]:
    """Yield a function that counts work done; a terminal sees a bar, a log file a line every half minute."""
    terminal = sys.stderr.isatty()
    with tqdm(
        total=total,
        desc=label,
        unit=f" {unit}",
        unit_scale=total >= 10_000,
        disable=total == 0,
        dynamic_ncols=terminal,
        leave=False,
        mininterval=0.2 if terminal else 30,
        maxinterval=10 if terminal else 60,
    ) as bar:

        def advance(count: int) -> None:
            bar.update(count)

        yield advance
