"""What is shared, put together: a list of files and where the bytes of each come from."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from micropref.cache.errors import cannot_read
from micropref.cache.keys import canonical_json, digest_file, sha256_hex
from micropref.pipeline.named.licences import Licences
from micropref.pipeline.sharing.manifest import Kind, Manifest, Member, Role


@dataclass(frozen=True)
class Content:
    """The bytes of one shared file, in memory or where they lie in the store."""

    member: Member
    source: bytes | Path

    def open(self) -> BinaryIO:
        """Open it for reading. Raises Failure where the system refuses."""
        if isinstance(self.source, bytes):
            return io.BytesIO(self.source)
        try:
            return self.source.open("rb")
        except OSError as error:
            raise cannot_read(self.source, error) from error


@dataclass(frozen=True)
class Bundle:
    """Everything that leaves the store at once."""

    manifest: Manifest
    contents: dict[str, Content]
    """Name of each of the manifest's files -> its bytes."""
    people: int = 0
    """People whose weights leave, under keyed hashes."""

    @classmethod
    def of(
        cls,
        kind: Kind,
        name: str,
        contents: Iterable[Content],
        named: dict[str, list[str]],
        left_out: Iterable[str],
        licences: Licences,
        people: int = 0,
    ) -> Bundle:
        """Put files together."""
        ordered = {one.member.name: one for one in sorted(contents, key=lambda one: one.member.name)}
        members = tuple(one.member for one in ordered.values())
        texts = {what: list(texts) for what, texts in named.items() if texts}
        return cls(Manifest(kind, name, members, texts, tuple(dict.fromkeys(left_out)), licences), ordered, people)


def of_bytes(
    owner: str, stem: str, role: Role, ending: str, data: bytes, columns: Iterable[str], rows: int = 1
) -> Content:
    """Return a file that is made for sharing."""
    digest = sha256_hex(data)
    name = f"{owner}/{stem}.{role}.{digest[:12]}.{ending}"
    return Content(Member(name, len(data), digest, rows, tuple(columns)), data)


def of_json(owner: str, stem: str, role: Role, value: Any, columns: Iterable[str], rows: int = 1) -> Content:
    """Return a JSON file that is made for sharing."""
    return of_bytes(owner, stem, role, "json", canonical_json(value).encode(), columns, rows)


def of_file(owner: str, stem: str, role: Role, path: Path, columns: Iterable[str], rows: int) -> Content:
    """Return a file of the store that leaves as it is. Raises Failure where it cannot be read."""
    try:
        digest, size = digest_file(path), path.stat().st_size
    except OSError as error:
        raise cannot_read(path, error) from error
    name = f"{owner}/{stem}.{role}.{digest[:12]}{path.suffix}"
    return Content(Member(name, size, digest, rows, tuple(columns)), path)
