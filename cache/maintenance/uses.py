"""Which commands are at work on a run or a data set, so that neither is removed under them.

A command holds the folders that it works on by a shared lock of the system, which ends with the command however it
ends and needs no file. Where a file system knows no such locks, nothing is known to be at work there.
"""

from __future__ import annotations

import fcntl
import functools
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import ParamSpec, TypeVar

from micropref.cache.errors import BadInput, MicroprefError
from micropref.cache.runs.names import find_run
from micropref.cache.store import NAME, StoreFolder

_P = ParamSpec("_P")
_R = TypeVar("_R")
_LOCKS, _PROCESSES = Path("/proc/locks"), Path("/proc")


def holds(*, run: str | None = None, data: str | None = None) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Make a stage hold the run, and the data set, that its arguments of these names say, while it runs.

    Example: `@holds(run="run_id", data="data")` above `def evaluate(store, run_id, data=None, ...)`; data that is None
    is the run's own.
    """

    def decorate(stage: Callable[_P, _R]) -> Callable[_P, _R]:
        signature = inspect.signature(stage)

        @functools.wraps(stage)
        def held(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            told = signature.bind(*args, **kwargs).arguments
            with ExitStack() as stack:
                for folder in _folders(told["store"], told.get(run or ""), told.get(data or "")):
                    stack.enter_context(hold(folder))
                return stage(*args, **kwargs)

        return held

    return decorate


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keep a folder of the store from being removed; one that is not there needs no keeping.

    Raises BadInput where it is being removed.
    """
    with _opened(folder) as descriptor:
        if descriptor is not None and not _lock(descriptor, fcntl.LOCK_SH):
            raise BadInput(f"{folder}: another command is removing it; run this again when that has ended")
        yield


@contextmanager
def hold_alone(folder: Path) -> Iterator[list[str]]:
    """Hold a folder that no other command holds, and yield nothing; or else yield who holds it, in words."""
    with _opened(folder) as descriptor:
        if descriptor is None or _lock(descriptor, fcntl.LOCK_EX):
            yield []
        else:
            yield _holders(descriptor) or ["another command"]


def _folders(store: StoreFolder, run: str | None, data: str | None) -> Iterator[Path]:
    """Yield the folders of a run and a data set; of what is unknown the stage itself tells."""
    if run is not None:
        with suppress(MicroprefError):
            found = find_run(store, run)
            data = data or found.record["data"]
            yield found.folder
    if data is not None and NAME.fullmatch(data):
        yield store.dataset(data)


@contextmanager
def _opened(folder: Path) -> Iterator[int | None]:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no locks on this file system
        return True
    return True


def _holders(descriptor: int) -> list[str]:
    """Return the processes that hold a folder, where the system tells: Linux does."""
    inode = str(os.fstat(descriptor).st_ino)
    found = []
    with suppress(OSError):
        for line in _LOCKS.read_text(encoding="ascii").splitlines():
            words = line.split()  # 1: FLOCK ADVISORY READ 4711 08:01:1234 0 EOF
            if words[1] == "FLOCK" and words[5].rpartition(":")[2] == inode and int(words[4]) > 0:
                found.append(f"process {words[4]}{_command(words[4])}")
    return sorted(set(found))


def _command(process: str) -> str:
    try:
        words = (_PROCESSES / process / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return ""
    at = next((place for place, word in enumerate(words) if Path(word).name in ("micropref", "micropref.cli")), None)
    told = ["micropref", *words[at + 1 :]] if at is not None else [Path(words[0]).name]
    return f" (`{' '.join(told)[:60]}`)"
