"""`pack`, `unpack`, `push` and `pull`: what leaves is told before anything is written."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from micropref.cache.atomic import check_folder_of
from micropref.cache.errors import BadInput
from micropref.cache.store import StoreFolder
from micropref.pipeline.progress import Announce
from micropref.pipeline.sharing.archive import open_archive, write_archive
from micropref.pipeline.sharing.bundle import Bundle
from micropref.pipeline.sharing.card import write_card
from micropref.pipeline.sharing.install import Installed, install
from micropref.pipeline.sharing.manifest import Kind
from micropref.pipeline.sharing.outgoing import SharingOptions, bundle_of, bundle_run
from micropref.pipeline.sharing.people import has_key
from micropref.pipeline.sharing.places import open_place, open_source


@dataclass(frozen=True)
class SharedReport:
    """What left the store, or would leave it."""

    kind: Kind
    """run or features."""
    id: str
    to: str
    """The pack or URL."""
    planned: bool
    """Whether nothing was written: it was only asked what would leave."""
    files: list[dict[str, Any]]
    """Name, bytes, rows and columns of every file."""
    bytes: int
    """Of all files."""
    sent_files: int
    """Files that were written; less where some were there already."""
    sent_bytes: int
    named: dict[str, list[str]]
    """Names and texts that leave: of data, attributes, contexts."""
    left_out: list[str]
    """What stays."""
    people: int
    """People whose weights leave, under keyed hashes."""
    licences: dict[str, str | None]
    """own, data, backbone; None: not known."""
    private: bool | None
    """Whether nobody else can read it; None: that is not known of a file or folder."""
    revision: str | None
    """The hub's commit; None elsewhere."""
    digest: str | None
    """sha256 that stands for all of it; None in a plan by a store that has no key for its hashes yet."""


def pack(store: StoreFolder, run: str, path: Path, options: SharingOptions, announce: Announce) -> SharedReport:
    """Write a run as one file. Raises BadInput where there is no such run, or a file of that name already."""
    if not options.plan:
        if path.exists():
            raise BadInput(f"{path}: there is a file already; give another name, or remove it")
        check_folder_of(path)
    bundle = bundle_run(store, run, options)
    _tell(bundle, announce)
    if options.plan:
        return _planned(store, bundle, str(path), options, None)
    write_archive(bundle, path.absolute())
    return _report(bundle, str(path), len(bundle.contents), bundle.manifest.size, None, None)


def unpack(store: StoreFolder, path: Path, announce: Announce) -> Installed:
    """Write the run of a pack into the store. Raises BadInput like `install`."""
    with open_archive(path) as source:
        if source.manifest.kind != "run":
            raise BadInput(f"{path}: holds {source.manifest.kind}, expected a run")
        return install(store, source, None, announce)


def push(
    store: StoreFolder,
    what: str,
    url: str,
    options: SharingOptions,
    announce: Announce,
    *,
    public: bool = False,
) -> SharedReport:
    """Send a run or vectors to a folder that fsspec opens, or to the hub.

    Raises BadInput where a licence is unknown and none is given, unless nobody else reads it there; Failure where the
    place refuses: the same command then goes on.
    """
    bundle = bundle_of(store, what, options)
    manifest = bundle.manifest
    place = open_place(url, manifest.kind, public=public)
    _tell(bundle, announce)
    private = True if place.is_private else False if public else None
    if options.plan:
        return _planned(store, bundle, place.url, options, private)
    if not place.is_private and manifest.licences.unknown and manifest.licences.own is None:
        unknown = " and ".join(manifest.licences.unknown)
        raise BadInput(
            f"{what}: the licence of its {unknown} is not known, and others may read {place.url}: say under which it "
            f"is published, `micropref push {what} {url}{' --public' if public else ''} --license NAME` (such as "
            "apache-2.0, cc-by-4.0)"
        )
    sent = place.push(bundle, write_card(store, bundle, place.url), announce)
    return _report(bundle, place.url, sent.files, sent.bytes, private, sent.revision)


def pull(store: StoreFolder, url: str, revision: str | None, announce: Announce) -> Installed:
    """Write what was pushed into the store. Raises BadInput like `install`, and where nothing was pushed there."""
    with open_source(url, revision) as (source, commit):
        if commit is not None:
            announce(f"{source.where.partition('@')[0]}: revision {commit}")
        return install(store, source, commit, announce)


def _tell(bundle: Bundle, announce: Announce) -> None:
    """Say which names and texts leave, before anything is written."""
    for what, texts in bundle.manifest.named.items():
        announce(f"leaves the store: {what}: {'; '.join(repr(text) for text in texts)}")
    announce(f"stays: {'; '.join(bundle.manifest.left_out)}")


def _planned(
    store: StoreFolder, bundle: Bundle, to: str, options: SharingOptions, private: bool | None
) -> SharedReport:
    """Return what would leave, without a digest where that hangs on a key which the store does not have yet."""
    report = replace(_report(bundle, to, 0, 0, private, None), planned=True)
    hashed = bundle.people or options.with_texts
    return replace(report, digest=None) if hashed and not has_key(store) else report


def _report(bundle: Bundle, to: str, files: int, size: int, private: bool | None, revision: str | None) -> SharedReport:
    manifest = bundle.manifest
    return SharedReport(
        kind=manifest.kind,
        id=manifest.id,
        to=to,
        planned=False,
        files=[{"name": one.name, "bytes": one.bytes, "rows": one.rows, "columns": list(one.columns)}
               for one in manifest.members],
        bytes=manifest.size,
        sent_files=files,
        sent_bytes=size,
        named=manifest.named,
        left_out=list(manifest.left_out),
        people=bundle.people,
        licences=asdict(manifest.licences),
        private=private,
        revision=revision,
        digest=manifest.digest,
    )  # fmt: skip
