"""The two ways a command ends badly, known to every floor."""

from __future__ import annotations

import os
from typing import ClassVar


class MicroprefError(Exception):
    """An error shown to the user as one line, never as a traceback."""

    exit_code: ClassVar[int] = 1


class BadInput(MicroprefError):  # noqa: N818 - read as "raise BadInput", the field's command-line habit
    """The user gave something that cannot be used: says what was found, where, and what to do."""

    exit_code: ClassVar[int] = 2


class Failure(MicroprefError):  # noqa: N818
    """Something outside the user's input went wrong: disk full, damaged shard, missing weights."""


class Interrupted(MicroprefError):  # noqa: N818
    """The user pressed Ctrl-C: says what is kept and how to go on."""

    exit_code: ClassVar[int] = 130


class Damaged(Failure):
    """The bytes of a stored file were read, and are not those that were committed."""


def cannot_read(path: object, error: OSError) -> Failure:
    """Return what to raise where the system refuses to read a file: that alone says nothing about its content.

    Example: `cannot_read("a.parquet", OSError(5, "Input/output error"))` says "a.parquet: cannot be read
    (Input/output error); it may be whole, so nothing was changed: ...".
    """
    reason = os.strerror(error.errno) if error.errno else str(error).partition("\n")[0] or type(error).__name__
    return Failure(
        f"{path}: cannot be read ({reason}); it may be whole, so nothing was changed: "
        "remove the cause, then run the same command again"
    )
