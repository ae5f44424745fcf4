"""Progress on stderr: how much is done, at what rate, how long it will take."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import NoReturn, Protocol

from tqdm import tqdm

Announce = Callable[[str], None]
"""Tells the user one line about what was found or done."""
FIRST_S = 5.0
"""Seconds of work before a log file has a line of it: what is done sooner leaves none."""
EVERY_S = 30.0
"""Seconds between two lines of a log file."""


class _Shown(Protocol):
    """Where progress is shown."""

    def update(self, count: int) -> object:
        """Count some more."""

    def expect(self, total: int, remark: str) -> None:
        """Say how much it will be."""


class Progress:
    """Counts work done, from any thread."""

    def __init__(self, shown: _Shown) -> None:
        self._shown, self._lock = shown, Lock()

    def __call__(self, count: int) -> None:
        """Count some more."""
        with self._lock:
            self._shown.update(count)

    def expect(self, total: int, remark: str) -> None:
        """Say how much it will be, as far as is known by now, and a few words next to it."""
        with self._lock:
            self._shown.expect(total, remark)


@contextmanager
def progress_bar(
    total: int | None, label: str, unit: str, clock: Callable[[], float] = time.monotonic
) -> Iterator[Progress]:
    """Yield what counts work done; a terminal sees a bar, a log file a plain line every half minute.

    `total` None: not known yet. `unit` is the singular of what is counted.
    """
    if not sys.stderr.isatty():
        lines = _Lines(total, label, unit, clock)
        yield Progress(lines)
        lines.finish()
        return
    large = total is None or total >= 10_000
    with tqdm(
        total=total,
        desc=label,
        unit=f" {unit}s",
        unit_scale=large,
        disable=total == 0,
        dynamic_ncols=True,
        leave=False,
        mininterval=0.2,
        maxinterval=10,
    ) as bar:
        yield Progress(_Bar(bar))


class _Bar:
    """A bar that is drawn over in place."""

    def __init__(self, bar: tqdm[NoReturn]) -> None:
        self._bar = bar

    def update(self, count: int) -> None:
        self._bar.update(count)

    def expect(self, total: int, remark: str) -> None:
        self._bar.total = total
        self._bar.set_postfix_str(remark, refresh=False)


class _Lines:
    """Lines, the first after some seconds, a last one where there was any."""

    def __init__(self, total: int | None, label: str, unit: str, clock: Callable[[], float]) -> None:
        self._total, self._label, self._unit, self._clock = total, label, unit, clock
        self._remark, self._done, self._start = "", 0, clock()
        self._due, self._said = self._start + FIRST_S, -1

    def update(self, count: int) -> None:
        self._done += count
        now = self._clock()
        if now >= self._due:
            self._due = now + EVERY_S
            self._say(now - self._start)

    def expect(self, total: int, remark: str) -> None:
        self._total, self._remark = total, remark

    def finish(self) -> None:
        if self._said not in (-1, self._done):
            self._say(self._clock() - self._start)

    def _say(self, seconds: float) -> None:
        self._said = self._done
        told = [f"{self._label}: {self._done:,} {self._unit}s"]
        rate = self._done / seconds if seconds > 0 else 0.0
        if self._total is not None and self._done <= self._total:
            share = self._done / self._total if self._total else 1.0
            told = [f"{self._label}: {self._done:,} of {self._total:,} {self._unit}s ({share:.0%})".replace("%", " %")]
        told.append(f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s")
        if self._total is not None and self._done < self._total and rate:
            told.append(f"{_duration((self._total - self._done) / rate)} left")
        if self._remark:
            told.append(self._remark)
        sys.stderr.write(", ".join(told) + "\n")
        sys.stderr.flush()


def _duration(seconds: float) -> str:
    """Return a time in its two largest units at most."""
    minutes, hours = round(seconds / 60), int(seconds // 3600)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{hours} h {round((seconds - hours * 3600) / 60)} min"
