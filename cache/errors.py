"""The two ways a command ends badly, known to every floor."""

from __future__ import annotations

from typing import ClassVar


class MicroprefError(Exception):
    """An error told to the user as one line, never as a traceback."""

    exit_code: ClassVar[int] = 1


class BadInput(MicroprefError):  # noqa: N818 - read as "raise BadInput", the field's command-line habit
    """The user gave something that cannot be used: says what was found, where, and what to do."""

    exit_code: ClassVar[int] = 2


class Failure(MicroprefError):  # noqa: N818
    """Something outside the user's input went wrong: disk full, damaged shard, missing weights."""


class Interrupted(MicroprefError):  # noqa: N818
    """The user pressed Ctrl-C: says what is kept and how to go on."""

    exit_code: ClassVar[int] = 130
