"""Where things are pushed to and pulled from: any folder that fsspec opens, or a repository of the model hub.

Files have their digests in their names, so what is there is not sent again and never replaced by other bytes; the list
of what is shared comes last.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast
from urllib.parse import urlsplit, urlunsplit

from micropref.cache.errors import BadInput, Failure
from micropref.pipeline.progress import Announce
from micropref.pipeline.sharing.bundle import Bundle
from micropref.pipeline.sharing.hub import hub_place
from micropref.pipeline.sharing.incoming import Incoming
from micropref.pipeline.sharing.manifest import FILE, MOST_BYTES, Kind, Manifest, Member, read_manifest
from micropref.pipeline.sharing.pushed import README, Pushed

_CHUNK = 1 << 22
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?:::|://)")


class Place(Protocol):
    """Where something is pushed to."""

    @property
    def url(self) -> str:
        """Its address, without any password."""
        ...

    @property
    def is_private(self) -> bool:
        """Say whether nobody else can read it."""
        ...

    def push(self, bundle: Bundle, card: bytes, announce: Announce) -> Pushed:
        """Send what is not there, the list last."""
        ...


def open_place(url: str, kind: Kind, *, public: bool) -> Place:
    """Return a place to push to. Raises BadInput where the address is none, or needs a package that is not there."""
    hub = hub_place(url, kind, public=public)
    if hub is not None:
        return hub
    if public:
        raise BadInput(f"public is True: only repositories of the hub are private or public, not {shown(url)}")
    return _folder(url)


@contextmanager
def open_source(url: str, revision: str | None) -> Iterator[tuple[Incoming, str | None]]:
    """Open what was pushed, with the hub's commit that it was read at. Raises BadInput where there is nothing."""
    hub = hub_place(url, None, public=False)
    if hub is not None:
        yield hub.incoming(revision)
        return
    if revision is not None:
        raise BadInput(f"revision is {revision!r}: only repositories of the hub have revisions, not {shown(url)}")
    yield _folder(url).incoming(), None


def shown(url: str) -> str:
    """Return an address without user, password and query.

    Example:
        >>> shown("https://ann:secret@host.example/runs/1?token=abc")
        'https://host.example/runs/1'

    """
    if not _SCHEME.match(url):
        return url
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _folder(url: str) -> FolderPlace:
    from fsspec.core import url_to_fs

    address = url if _SCHEME.match(url) else Path(url).absolute().as_uri()
    try:
        system, path = url_to_fs(address)
    except (ImportError, ValueError, OSError, TypeError) as error:
        line = str(error).partition("\n")[0]
        raise BadInput(
            f"{shown(url)}: cannot be opened ({line}); expected a URL such as s3://bucket/folder (its package "
            "installed), a folder, or owner/name of the hub"
        ) from None
    return FolderPlace(shown(address), system, path.rstrip("/"))


@dataclass(frozen=True)
class FolderPlace:
    """A folder of a file system that fsspec knows."""

    url: str
    system: Any
    path: str
    found: Manifest | None = None
    """What its list says, once it was read."""
    is_private: bool = False
    """Nothing is known of who reads it."""

    def push(self, bundle: Bundle, card: bytes, announce: Announce) -> Pushed:
        """Send the files that are not there, look whether all are, then write the card and the list.

        Raises BadInput where something else was pushed there, Failure where the place refuses.
        """
        with self._asked():
            before = self._list()
            if before is not None and (before.kind, before.id) != (bundle.manifest.kind, bundle.manifest.id):
                raise BadInput(f"{self.url}: holds {before.kind} {before.id} already; give another address")
            there = self._sizes()
            sent = [one for one in bundle.contents.values() if there.get(one.member.name) != one.member.bytes]
            if before is not None and before.digest == bundle.manifest.digest and not sent:
                return Pushed(0, 0, None)
            for one in sent:
                announce(f"{one.member.name}: {one.member.bytes:,} bytes")
                with one.open() as source:
                    self._write(one.member.name, source)
            there = self._sizes()
            lost = [one.name for one in bundle.manifest.members if there.get(one.name) != one.bytes]
            if lost:
                raise Failure(f"{self.url}: {lost[0]} did not arrive whole; run the same command again")
            self._write_bytes(README, card)
            self._write_bytes(FILE, bundle.manifest.encoded())
        return Pushed(len(sent), sum(one.member.bytes for one in sent), None)

    def incoming(self) -> FolderPlace:
        """Return it open for reading. Raises BadInput where nothing was pushed there, or not to the end."""
        with self._asked():
            found = self._list()
        if found is None:
            raise BadInput(
                f"{self.url}: has no {FILE}, so nothing was pushed there, or not to the end; `micropref push` goes on"
            )
        return replace(self, found=found)

    @property
    def where(self) -> str:
        """Return what it is called in errors."""
        return self.url

    @property
    def manifest(self) -> Manifest:
        """Return the list that `incoming` read."""
        assert self.found is not None
        return self.found

    @contextmanager
    def open(self, member: Member) -> Iterator[BinaryIO]:
        """Open one of the files."""
        with self._asked(), self.system.open(f"{self.path}/{member.name}", "rb") as file:
            yield cast("BinaryIO", file)

    def _list(self) -> Manifest | None:
        path = f"{self.path}/{FILE}"
        if not self.system.exists(path):
            return None
        with self.system.open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise BadInput(f"{self.url}: {FILE} is larger than {MOST_BYTES >> 20} MB; it is not used")
        return read_manifest(data, self.url)

    def _sizes(self) -> dict[str, int]:
        """Return the sizes of all files there, by their names in the list."""
        self.system.invalidate_cache()
        if not self.system.exists(self.path):
            return {}
        found = self.system.find(self.path, detail=True)
        root = str(self.system._strip_protocol(self.path)).rstrip("/") + "/"
        return {str(name).removeprefix(root): int(info["size"]) for name, info in found.items()}

    def _write_bytes(self, name: str, data: bytes) -> None:
        self._write(name, io.BytesIO(data))

    def _write(self, name: str, source: BinaryIO) -> None:
        """Write one file; on local disks under another name first, elsewhere a file appears when it is whole."""
        path = f"{self.path}/{name}"
        local = "file" in ((self.system.protocol,) if isinstance(self.system.protocol, str) else self.system.protocol)
        target = f"{path}.part" if local else path
        self.system.makedirs(path.rpartition("/")[0], exist_ok=True)
        with self.system.open(target, "wb") as file:
            while chunk := source.read(_CHUNK):
                file.write(chunk)
        if local:
            Path(target).replace(path)

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """Tell in one line what a file system refused."""
        try:
            yield
        except (BadInput, Failure):
            raise
        except FileNotFoundError as error:
            raise BadInput(f"{self.url}: a file is missing ({_line(error)}); push it again") from None
        except Exception as error:
            raise Failure(
                f"{self.url}: refused ({type(error).__name__}: {_line(error)}); run the same again"
            ) from error


def _line(error: Exception) -> str:
    return (str(error).partition("\n")[0] or type(error).__name__)[:160]
