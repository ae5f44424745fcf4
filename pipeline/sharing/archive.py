"""A pack: one file that holds what is shared, an ordinary zip whose members are stored as they are.

Nothing in it is unpacked under a name of its own: members are read by the names of the list, and their sizes and
digests are those of the list or nothing is kept.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from micropref.cache.atomic import publish, staged_file
from micropref.cache.errors import BadInput, cannot_read
from micropref.cache.sql.columns import printable
from micropref.pipeline.sharing.bundle import Bundle
from micropref.pipeline.sharing.manifest import FILE, MOST_BYTES, MOST_FILES, Manifest, Member, read_manifest

_TIME = (1980, 1, 1, 0, 0, 0)
"""Of every member, so that the same run makes the same bytes."""
_CHUNK = 1 << 20
MOST_SAID = 120
"""Characters of an error of the standard library that are shown."""
_DAMAGE = (
    zipfile.BadZipFile,
    EOFError,
    ValueError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    struct.error,
    zlib.error,
)
"""What the standard library raises on files that are no zip, or one that was tampered with."""


def write_archive(bundle: Bundle, path: Path) -> int:
    """Write a pack whole or not at all, and return its size. The same content gives the same bytes."""
    with staged_file(path.parent) as (file, temp):
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, strict_timestamps=True) as archive:
            archive.writestr(zipfile.ZipInfo(FILE, _TIME), bundle.manifest.encoded())
            for name, content in bundle.contents.items():
                info = zipfile.ZipInfo(name, _TIME)
                info.file_size = content.member.bytes
                with content.open() as source, archive.open(info, "w") as target:
                    while chunk := source.read(_CHUNK):
                        target.write(chunk)
        file.flush()
        size = temp.stat().st_size
    publish(temp, path)
    return size


@dataclass(frozen=True)
class Archive:
    """An open pack, its list checked against what is in it."""

    where: str
    """What it is called in errors."""
    manifest: Manifest
    file: zipfile.ZipFile

    @contextmanager
    def open(self, member: Member) -> Iterator[BinaryIO]:
        """Open one of its files. What is read is checked by who reads it."""
        try:
            with self.file.open(member.name) as source:
                yield cast("BinaryIO", source)
        except _DAMAGE as error:
            raise BadInput(f"{self.where}: {member.name} is damaged ({_said(error)}); ask for a whole copy") from None


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open a pack. Raises BadInput where it is none, is damaged, or holds what its list does not name."""
    if not path.is_file():
        raise BadInput(f"{path}: no such file; expected a pack that `micropref pack` made")
    try:
        file = zipfile.ZipFile(path)
    except OSError as error:
        raise cannot_read(path, error) from error
    except _DAMAGE as error:
        raise _damaged(path, error) from None
    with file:
        try:
            manifest = _checked(path, file)
        except _DAMAGE as error:
            raise _damaged(path, error) from None
        yield Archive(str(path), manifest, file)


def _damaged(path: Path, error: Exception) -> BadInput:
    return BadInput(f"{path}: no pack, or a damaged one ({type(error).__name__}: {_said(error)}); ask for a whole copy")


def _said(error: Exception) -> str:
    """Return what the standard library says in one short line: it quotes the file, which may hold anything."""
    text = printable(str(error))
    return text if len(text) <= MOST_SAID else f"{text[:MOST_SAID]}..."


def _checked(path: Path, file: zipfile.ZipFile) -> Manifest:
    infos = file.infolist()
    names = [info.filename for info in infos]
    if FILE not in names:
        raise BadInput(f"{path}: a zip file without {FILE}, so no pack; expected one that `micropref pack` made")
    if len(infos) > MOST_FILES + 1 or len(set(names)) < len(names):
        raise BadInput(f"{path}: holds {len(infos)} files, some of one name; it is not used")
    for info in infos:
        odd = info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 0x1 or info.is_dir()
        if odd or info.compress_size != info.file_size:
            raise BadInput(f"{path}: {info.filename[:80]!r} is compressed, locked or a folder; it is not used")
    if sum(info.file_size for info in infos) > path.stat().st_size:
        raise BadInput(f"{path}: its files overlap or are larger than it is; it is not used")
    if file.getinfo(FILE).file_size > MOST_BYTES:
        raise BadInput(f"{path}: {FILE} is larger than {MOST_BYTES >> 20} MB; it is not used")
    manifest = read_manifest(file.read(FILE), str(path))
    sizes = {info.filename: info.file_size for info in infos if info.filename != FILE}
    if sizes != {one.name: one.bytes for one in manifest.members}:
        odd_names = sorted(sizes.keys() ^ {one.name for one in manifest.members}) or ["sizes"]
        raise BadInput(f"{path}: differs from its list in {odd_names[0][:80]!r}; it is not used")
    return manifest
