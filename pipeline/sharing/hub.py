"""Repositories of the model hub as places: one commit holds all files, so nobody sees half of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from micropref.cache.errors import BadInput, Failure, MicroprefError
from micropref.pipeline.progress import Announce
from micropref.pipeline.sharing.bundle import Bundle
from micropref.pipeline.sharing.manifest import FILE, Kind, Manifest, Member, read_manifest
from micropref.pipeline.sharing.pushed import CARD_MARK, README, Pushed

_ADDRESS = re.compile(
    r"(?P<scheme>hf://)?(?:(?P<type>models|datasets)/)?(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<at>[\w./-]+))?"
)
_TYPES: dict[Kind, str] = {"run": "model", "features": "dataset"}


def hub_place(url: str, kind: Kind | None, *, public: bool) -> HubPlace | None:
    """Return the repository that an address means, `hf://` or owner/name; None for others: a path there wins.

    `kind` is what is pushed; None where something is pulled, and then either type of repository is looked at. Raises
    BadInput for an address of the hub that is none.
    """
    found = _ADDRESS.fullmatch(url)
    if not url.startswith("hf://") and (found is None or Path(url).exists()):
        return None
    if found is None:
        raise BadInput(f"{url}: expected hf://owner/name or hf://datasets/owner/name, @revision behind it if you like")
    types = [found["type"].rstrip("s")] if found["type"] else [] if kind is None else [_TYPES[kind]]
    if kind is not None and types != [_TYPES[kind]]:
        raise BadInput(f"{url}: {kind} goes into a repository of type {_TYPES[kind]}; leave the type out")
    if kind is not None and found["at"]:
        raise BadInput(f"{url}: a push makes a revision of its own; leave @{found['at']} out")
    return HubPlace(found["id"], tuple(types or _TYPES.values()), found["at"], public)


@dataclass(frozen=True)
class HubPlace:
    """One repository."""

    repository: str
    """owner/name."""
    types: tuple[str, ...]
    """model or dataset; both where either is looked at."""
    at: str | None
    """Revision in its address."""
    public: bool
    """Whether everybody may read it."""
    found: Manifest | None = None
    """What its list says, once it was read."""

    @property
    def url(self) -> str:
        """Return its address."""
        return f"hf://{'datasets/' if self.types == ('dataset',) else ''}{self.repository}"

    @property
    def is_private(self) -> bool:
        """Say whether nobody else can read it."""
        return not self.public

    @property
    def where(self) -> str:
        """Return what it is called in errors."""
        return f"{self.url}@{self.at}" if self.at else self.url

    @property
    def manifest(self) -> Manifest:
        """Return the list that `incoming` read."""
        assert self.found is not None
        return self.found

    def push(self, bundle: Bundle, card: bytes, announce: Announce) -> Pushed:
        """Commit the files that are not there, with the list, in one commit; the repository is made private.

        Raises BadInput where something else was pushed there, or its privacy is not what was asked for, Failure where
        the hub refuses.
        """
        from huggingface_hub import CommitOperationAdd, HfApi

        (kind,) = self.types
        with _asked(self.url):
            api = HfApi()
            api.create_repo(self.repository, repo_type=kind, private=not self.public, exist_ok=True)
            info = api.repo_info(self.repository, repo_type=kind)
            self._check_privacy(bool(info.private))
            before = self._before(kind, info.sha)
            if before is not None and (before.kind, before.id) != (bundle.manifest.kind, bundle.manifest.id):
                raise BadInput(f"{self.url}: holds {before.kind} {before.id} already; give another address")
            if before is not None and before.digest == bundle.manifest.digest:
                return Pushed(0, 0, info.sha)
            there = {one.name for one in before.members} if before else set()
            new = [one for name, one in bundle.contents.items() if name not in there]
            for one in new:
                announce(f"{one.member.name}: {one.member.bytes:,} bytes")
            files: dict[str, Any] = {one.member.name: _uploaded(one.source) for one in new}
            if self._may_write_card(kind, info.sha):
                files[README] = card
            files[FILE] = bundle.manifest.encoded()
            done = api.create_commit(
                self.repository,
                [CommitOperationAdd(name, data) for name, data in files.items()],
                commit_message=f"{bundle.manifest.kind} {bundle.manifest.id}",
                repo_type=kind,
                parent_commit=info.sha,
            )
        return Pushed(len(new), sum(one.member.bytes for one in new), str(done.oid))

    def incoming(self, revision: str | None) -> tuple[HubPlace, str]:
        """Return it open for reading at a revision, and the commit that this is.

        Raises BadInput where there is no such repository or revision, or nothing was pushed there.
        """
        if revision is not None and self.at not in (None, revision):
            raise BadInput(f"revision is {revision!r}, and the address says {self.at!r}: give one of them")
        wanted = revision or self.at
        for kind in self.types:
            with suppress(_Missing):
                path = self._download(kind, FILE, wanted)
                commit = path.parent.name
                place = replace(self, types=(kind,), at=commit)
                return replace(place, found=read_manifest(path.read_bytes(), place.where)), commit
        at = f" at revision {wanted}" if wanted else ""
        raise BadInput(
            f"{self.repository}: the hub has nothing of that name{at} that micropref pushed, or it is private: check "
            "the name, or `hf auth login`"
        )

    @contextmanager
    def open(self, member: Member) -> Iterator[BinaryIO]:
        """Open one of the files, in the hub's cache."""
        with self._download(self.types[0], member.name, self.at).open("rb") as file:
            yield file

    def _before(self, kind: str, revision: str | None) -> Manifest | None:
        with suppress(_Missing):
            return read_manifest(self._download(kind, FILE, revision).read_bytes(), self.url)
        return None

    def _may_write_card(self, kind: str, revision: str | None) -> bool:
        """Say whether the card there is ours, or there is none: what people wrote stays."""
        with suppress(_Missing):
            return CARD_MARK in self._download(kind, README, revision).read_text(encoding="utf-8")
        return True

    def _check_privacy(self, private: bool) -> None:
        if not private and not self.public:
            raise BadInput(f"{self.url}: is there already and public; allow that with `public`, or give another name")
        if private and self.public:
            raise BadInput(
                f"{self.url}: is there already and private; make it public on its page, or leave `public` out"
            )

    def _download(self, kind: str, name: str, revision: str | None) -> Path:
        """Return a file in the hub's cache, fetched where it is not there. Raises _Missing where the hub has none."""
        from huggingface_hub import errors, hf_hub_download

        gone = (errors.EntryNotFoundError, errors.RepositoryNotFoundError, errors.RevisionNotFoundError)
        with _asked(self.url):
            try:
                return Path(hf_hub_download(self.repository, name, repo_type=kind, revision=revision))
            except errors.LocalEntryNotFoundError:
                raise
            except gone as error:
                raise _Missing(f"{self.where}: {name} is not there ({type(error).__name__})") from None


class _Missing(BadInput):
    """The hub has no such file, repository or revision."""


def _uploaded(source: bytes | Path) -> Any:
    return source if isinstance(source, bytes) else str(source)


@contextmanager
def _asked(url: str) -> Iterator[None]:
    """Tell in one line what the hub refused."""
    try:
        yield
    except MicroprefError:
        raise
    except Exception as error:
        line = " ".join(str(error).split())[:200] or type(error).__name__
        raise Failure(
            f"{url}: the hub refused ({line}); check `hf auth login` and the network, then run again"
        ) from error
