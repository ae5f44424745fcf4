"""Files that appear whole or not at all: temp name, write, fsync, rename, fsync of the folder.

The order is the one that left nothing unreadable when the writer was killed at any step: a reader never sees a
name whose bytes are not on disk.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from micropref.cache.errors import BadInput, Failure

_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
TEMP_NAME = re.compile(r"\.[0-9a-f]{16}\.tmp")


def check_folder_of(path: Path) -> None:
    """Raise BadInput where the folder that a user's file or folder is to be written in is not there.

    Commands make no folders above what they were told to write: a mistyped path would be found nowhere. To be asked
    before the work, not after it.
    """
    folder = path.absolute().parent
    if not folder.is_dir():
        raise BadInput(f"{path}: there is no folder {folder}; make it first")


def check_new_file(path: Path) -> None:
    """Raise BadInput where a user's file cannot have this name: its folder is missing, or the name is a folder's."""
    check_folder_of(path)
    if path.is_dir():
        raise BadInput(f"{path}: found a folder; expected the name of a file")


@contextmanager
def staged_file(folder: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Open a new temp file of `folder` for writing; on a clean exit it is on disk, on an error it is gone.

    The caller renames it with `publish`. Raises Failure where the disk refuses (full, read-only, I/O error).
    """
    path = folder / f".{secrets.token_hex(8)}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            yield file, path
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _cannot_write(folder, error) from error
        raise


def publish(temp: Path, final: Path) -> None:
    """Give a staged file its final name, durably. Raises Failure and removes the temp file if that fails."""
    try:
        temp.replace(final)
        sync_folder(final.parent)
    except OSError as error:
        with suppress(OSError):
            temp.unlink(missing_ok=True)
        raise _cannot_write(final, error) from error


def publish_new(temp: Path, final: Path) -> bool:
    """Give a staged file its final name unless there is a file of that name; return whether it got it.

    Of several writers at the same moment exactly one gets the name. Raises Failure where the disk refuses.
    """
    try:
        try:
            os.link(temp, final)
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            final.open("xb").close()  # a file system without hard links: take the name, then fill it
            temp.replace(final)
        sync_folder(final.parent)
    except FileExistsError:
        return False
    except OSError as error:
        raise _cannot_write(final, error) from error
    finally:
        with suppress(OSError):
            temp.unlink(missing_ok=True)
    return True


def write_bytes(path: Path, data: bytes) -> None:
    """Write a small file whole or not at all."""
    with staged_file(path.parent) as (file, temp):
        file.write(data)
    publish(temp, path)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cannot_write(where: Path, error: OSError) -> Failure:
    reason = error.strerror or str(error).splitlines()[0]
    return Failure(f"{where}: cannot write: {reason}; nothing was kept of this file, free the cause and run again")
