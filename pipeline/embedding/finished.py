"""An `embed` that has nothing to do, told without loading a backbone: the same command on the same files and store.

What a command found that changed nothing is remembered on this machine: its arguments, the digests of its sources, the
files of the backbone by name, size, times and inode, and the store's files of the data set and of all features by name,
size and time. Where all of them are as they were, the same command has nothing to do again. Whatever differs, or is
not known, takes the whole way, which finds out what is stored by itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from micropref.cache.keys import canonical_json, sha256_hex
from micropref.cache.memory import digest_of, remember, remembered
from micropref.cache.store import StoreFolder
from micropref.pipeline.embedding.embed_report import EmbedReport
from micropref.pipeline.options import PACKAGES

if TYPE_CHECKING:
    from micropref.pipeline.sources.locations import Given

LIBRARIES = ("micropref", "transformers", "tokenizers", "torch")
"""Libraries whose version may change what a text becomes."""
MOST = 2_000
"""Files of a backbone or source at most: a folder with more is no checkpoint."""


def request_of(
    store: StoreFolder, given: Sequence[Given], contexts: Path | None, arguments: Mapping[str, Any]
) -> str | None:
    """Return what names an `embed` with these arguments on these files; None where that is not certain.

    `contexts` is the file of context sentences, None where none is named.

    It is not certain for backbones of the hub, whose name may come to mean another revision, nor for adapters of the
    user's own.
    """
    try:
        backbone = _backbone(str(arguments["backbone"]))
        if backbone is None or any(one.adapter is not None for one in given):
            return None
        value = {
            "store": str(store.root.absolute()),
            "arguments": {name: _told(one) for name, one in arguments.items() if name != "source"},
            "sources": [[str(one.path), one.label, one.config, *_digests(one.path)] for one in given],
            "contexts": None if contexts is None else list(_digests(contexts)),
            "backbone": list(_states(backbone)),
            "libraries": [_version(name) for name in LIBRARIES],
        }
        return sha256_hex(canonical_json(value))
    except (OSError, ValueError):  # what is not there, or too large, is told by the whole way
        return None


@dataclass(frozen=True)
class Finished:
    """What a command that had nothing to do said."""

    report: EmbedReport
    lines: tuple[str, ...]
    """What it announced on the way."""


def finished_before(store: StoreFolder, name: str, request: str) -> Finished | None:
    """Return what a command says that has nothing to do; None where that is not certain."""
    known = remembered(request)
    if known is None:
        return None
    try:
        value = json.loads(known)
        found = Finished(EmbedReport(**value["report"]), tuple(value["lines"]))
        return found if value["state"] == state_of(store, name) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def remember_finished(store: StoreFolder, name: str, request: str, before: str, found: Finished) -> None:
    """Remember what a command found and said, if it changed nothing of the store, whose state was `before`."""
    if state_of(store, name) == before:
        report = replace(found.report, seconds=0.0)
        remember(request, json.dumps({"report": asdict(report), "lines": found.lines, "state": before}))


def state_of(store: StoreFolder, name: str) -> str:
    """Return a hash of the store's files that hold what is embedded: their names, sizes and times.

    Commits, whose times say who relies on them, count by their names and sizes: they name files by their digests.
    """
    folders = [store.dataset(name), store.root / "features"]
    files = sorted(one for folder in folders for one in folder.rglob("*") if one.is_file())
    states = ((one, one.stat()) for one in files)
    listing = [[str(one), now.st_size, 0 if one.suffix == ".json" else now.st_mtime_ns] for one, now in states]
    return sha256_hex(canonical_json(listing))


def _told(value: Any) -> str:
    """Return an argument as a text, a path like its name."""
    return repr(str(value) if isinstance(value, Path) else value)


def _backbone(name: str) -> Path | None:
    """Return the folder or file of a backbone on this machine; None for a name of the hub."""
    if name in PACKAGES:
        spec = find_spec(PACKAGES[name])
        return None if spec is None or spec.origin is None else Path(spec.origin).parent
    path = Path(name)
    return path if path.exists() else None


def _digests(path: Path) -> Iterator[Any]:
    """Yield the name and digest of each file of a source."""
    for file in _files(path):
        yield [str(file), digest_of(file)]


def _states(path: Path) -> Iterator[Any]:
    """Yield the name, size, times and inode of each file of a backbone."""
    for file in _files(path):
        status = file.stat()
        yield [str(file), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _files(path: Path) -> list[Path]:
    found = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    if len(found) > MOST:
        raise ValueError(f"{path}: more than {MOST} files")
    return found


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
