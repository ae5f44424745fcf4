"""A disk that fails, or a process that is killed, at a step of its writing that is chosen by its number."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from micropref.cache.atomic import TEMP_NAME


class Killed(BaseException):
    """What a process that is killed would feel."""


class Disk:
    """The I/O primitives of cache.atomic below one folder; the `at`-th use of one goes wrong.

    A kill leaves half of a write behind, and from then on nothing more reaches the disk: no cleanup, no second try.
    """

    def __init__(self, root: Path, at: int | None = None, fault: int | None = None, *, unlinks: bool = False) -> None:
        self.root, self.at, self.fault, self.unlinks = root, at, fault, unlinks
        self.steps: list[str] = []
        self.dead = False

    def step(self, name: str, before_fault: Callable[[], object] = lambda: None) -> None:
        if self.dead:
            raise Killed
        self.steps.append(name)
        if len(self.steps) - 1 == self.at:
            before_fault()
            if self.fault is None:
                self.dead = True
                raise Killed
            raise OSError(self.fault, os.strerror(self.fault))

    def install(self, patch: pytest.MonkeyPatch) -> None:
        real = {name: getattr(Path, name) for name in ("open", "replace", "mkdir", "unlink")}

        def watched(name: str) -> Callable[..., Any]:
            def primitive(path: Path, *args: Any, **options: Any) -> Any:
                if self.root in path.parents:
                    if name == "open" and args == ("xb",):
                        self.step(name)
                        return FaultyFile(self, path)
                    if name == "open" and TEMP_NAME.fullmatch(path.name):
                        self.step("read back")
                    elif name in ("replace", "mkdir"):
                        self.step(name)
                    elif name == "unlink" and self.dead:
                        raise Killed
                    elif name == "unlink" and self.unlinks and not TEMP_NAME.fullmatch(path.name):
                        self.step(name)
                return real[name](path, *args, **options)

            return primitive

        for name in real:
            patch.setattr(Path, name, watched(name))
        patch.setattr(
            "micropref.cache.atomic.os", SimpleNamespace(**{**vars(os), "fsync": self.fsync, "open": self.open_folder})
        )

    def fsync(self, descriptor: int) -> None:
        self.step("fsync")  # the faults are made here, so nothing is gained by waiting for the disk

    def open_folder(self, path: Path, flags: int) -> int:
        self.step("open folder")
        return os.open(path, flags)


class FaultyFile(io.FileIO):
    """A new file without a buffer: what was written before a kill is on the disk, the rest is not."""

    def __init__(self, disk: Disk, path: Path) -> None:
        super().__init__(path, "x")
        self.disk = disk

    def write(self, data: Any) -> int:
        self.disk.step("write", lambda: super(FaultyFile, self).write(bytes(data)[: len(data) // 2]))
        return super().write(data)
