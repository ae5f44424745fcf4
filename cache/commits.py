"""Committed files: data files with one small JSON file that says they are whole.

A folder of the store holds `<stem>.<role>.<digest>.<ext>` data files and `<stem>.json` commits. Only what a commit
names exists. Data files carry their content's digest in the name, so writers that race on one stem never
overwrite each other's bytes: the last commit wins and the other file is garbage for `gc`. A commit carries a digest
of itself.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from micropref.cache.atomic import publish, publish_new, staged_file, write_bytes
from micropref.cache.errors import Damaged, Failure, cannot_read
from micropref.cache.keys import canonical_json, digest_file, sha256_hex, signed
from micropref.cache.memory import digest_once

LAYOUT = 1
REBUILD = "embed, train or evaluate again to rebuild it"
COMMIT_ENDING = ".json"
ASIDE = ".aside"
"""Ending of a commit that `gc` has hidden while it looks whether somebody came to rely on it."""
STEM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,120}")
FILE_NAME = re.compile(r"(?P<stem>[A-Za-z0-9][A-Za-z0-9_-]{0,120})\.[a-z_]+\.[0-9a-f]{12}\.[a-z]+")
"""A data file: stem, role, first digits of its digest, extension."""


@dataclass(frozen=True)
class StoredFile:
    """One data file as its commit records it."""

    name: str
    """File name inside the commit's folder."""
    rows: int
    bytes: int
    digest: str
    """sha256 of the file's bytes."""
    extra: dict[str, Any] = field(default_factory=dict)
    """What a format wants to remember of its file, such as check values of the vector layout."""


@dataclass(frozen=True)
class Commit:
    """A set of data files that belong together and are whole."""

    folder: Path
    stem: str
    files: dict[str, StoredFile]
    """Role -> file, for example `pairs` or `vectors`."""
    record: dict[str, Any]
    """What the writer says of them: source, options, counts."""

    @property
    def commit_path(self) -> Path:
        """Return the path of the JSON file that makes the data files exist."""
        return self.folder / f"{self.stem}.json"

    def path(self, role: str) -> Path:
        """Return the path of one data file, its size checked.

        Raises Damaged where the file is missing or has another size, Failure where it cannot be looked at.
        """
        return self._whole(role, digest=False)

    def checked_path(self, role: str) -> Path:
        """Return the path of one data file whose bytes have the recorded digest.

        Raises Damaged where they have not, Failure where they cannot be read.
        """
        return self._whole(role, digest=True)

    def _whole(self, role: str, *, digest: bool) -> Path:
        damage = self.damage(role, digest=digest)
        if damage:
            raise Damaged(f"{damage}; run `micropref verify`, then embed or evaluate again to rebuild it")
        return self.folder / self.files[role].name

    def damage(self, role: str, *, digest: bool) -> str | None:
        """Return in words how a data file differs from what was committed, or None.

        Parquet readers do not notice bit rot, hence the `digest`. Raises Failure where the file cannot be read: a
        read that fails (I/O error, too many open files, no permission) proves nothing about the bytes.
        """
        stored = self.files[role]
        path = self.folder / stored.name
        try:
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode):
                return f"{path}: not a file of its own"
            if status.st_size != stored.bytes:
                return f"{path}: {status.st_size} bytes, {stored.bytes} were committed"
            if digest and digest_once(path, status) != stored.digest:
                return f"{path}: its content changed after it was committed"
        except FileNotFoundError:
            return f"{path}: the file is missing"
        except OSError as error:
            raise cannot_read(path, error) from error
        return None

    def set_aside(self) -> None:
        """Hide the commit from readers, so that who relies on it can be seen before its files are removed."""
        with suppress(FileNotFoundError):
            self.commit_path.rename(self.commit_path.with_suffix(ASIDE))

    def put_back(self) -> None:
        """Undo `set_aside`; what was committed in its place meanwhile stays."""
        put_back(self.commit_path)

    def remove(self) -> None:
        """Forget the commit, then its data files: in this order a reader never sees a commit without data.

        What another writer committed in its place stays.
        """
        now = read_commit(self.commit_path)
        if now is not None and now.files == self.files:
            self.commit_path.unlink(missing_ok=True)
            now = None
        self.remove_files(now)

    def remove_files(self, now: Commit | None) -> None:
        """Remove the data files of a commit that is gone or set aside, but for those that the one there `now` names."""
        self.commit_path.with_suffix(ASIDE).unlink(missing_ok=True)
        kept = {file.name for file in now.files.values()} if now else set()
        for stored in self.files.values():
            if stored.name not in kept:
                (self.folder / stored.name).unlink(missing_ok=True)


def put_back(commit_path: Path) -> None:
    """Show readers again a commit that was set aside, unless another was committed in its place."""
    aside = commit_path.with_suffix(ASIDE)
    if commit_path.exists():
        aside.unlink(missing_ok=True)
    else:
        with suppress(FileNotFoundError):
            aside.rename(commit_path)


def write_file(folder: Path, stem: str, role: str, extension: str, write: Callable[[BinaryIO], int]) -> StoredFile:
    """Write one data file that no commit names yet; `write` gets the open file and returns the number of rows."""
    with staged_file(folder) as (file, temp):
        rows = write(file)
        file.flush()
        digest, size = digest_file(temp), temp.stat().st_size
    name = f"{stem}.{role}.{digest[:12]}.{extension}"
    publish(temp, folder / name)
    return StoredFile(name, rows, size, digest)


def write_table(folder: Path, stem: str, role: str, table: pa.Table) -> StoredFile:
    """Write an Arrow table as zstd Parquet, uncommitted."""

    def write(file: BinaryIO) -> int:
        pq.write_table(table, file, compression="zstd")
        return int(table.num_rows)

    return write_file(folder, stem, role, "parquet", write)


def commit(folder: Path, stem: str, files: dict[str, StoredFile], record: dict[str, Any]) -> Commit:
    """Make data files exist. Those of an earlier commit of the stem are left to `gc`: a reader may be at them."""
    write_bytes(folder / f"{stem}.json", _signed(stem, files, record))
    return Commit(folder, stem, files, record)


def commit_new(folder: Path, stem: str, record: dict[str, Any]) -> bool:
    """Commit a record without data files unless the stem is committed; return whether this call did.

    Of several writers at the same moment exactly one does: the first.
    """
    with staged_file(folder) as (file, temp):
        file.write(_signed(stem, {}, record))
    return publish_new(temp, folder / f"{stem}.json")


def _signed(stem: str, files: dict[str, StoredFile], record: dict[str, Any]) -> bytes:
    assert STEM.fullmatch(stem), stem
    value = {"layout": LAYOUT, "files": {role: asdict(file) for role, file in files.items()}, "record": record}
    return canonical_json(signed(value)).encode()


def read_commit(path: Path) -> Commit | None:
    """Read one commit file; None where there is none.

    Raises Damaged where its content is not what was written, Failure where it cannot be read or has another layout.
    """
    try:
        if path.is_symlink() or not path.is_file():
            return None
        data = path.read_bytes()
    except FileNotFoundError:  # removed a moment ago
        return None
    except OSError as error:
        raise cannot_read(path, error) from error
    try:
        value = json.loads(data)
        layout, digest = value["layout"], value.pop("digest", None)
        whole = digest == sha256_hex(canonical_json(value))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{path}: the commit file is damaged; {REBUILD}") from error
    if layout != LAYOUT:
        raise Failure(f"{path}: layout {layout}, this version reads {LAYOUT}; use the version that wrote it")
    if not whole:
        raise Damaged(f"{path}: the commit file was changed; {REBUILD}")
    files = {role: StoredFile(**entry) for role, entry in value["files"].items()}
    if any(not FILE_NAME.fullmatch(file.name) for file in files.values()):
        raise Damaged(f"{path}: names a file outside its folder; {REBUILD}")
    record = dict(value["record"])
    return Commit(path.parent, path.stem, files, record)


def commit_paths(folder: Path) -> list[Path]:
    """Return the paths of a folder's commit files by name; files of other names are none of ours and are left out.

    Raises Failure where the folder cannot be listed: it must not look empty, or `gc` would take what it needs.
    """
    try:
        names = [path.name for path in folder.iterdir()]  # a glob would pass over what it may not list
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise cannot_read(folder, error) from error
    found = (folder / name for name in names if name.endswith(COMMIT_ENDING))
    return sorted(path for path in found if STEM.fullmatch(path.stem))


def read_commits(folder: Path) -> list[Commit]:
    """Return the commits of a folder by name. Raises Damaged or Failure at the first that `read_commit` refuses."""
    return [found for found in map(read_commit, commit_paths(folder)) if found is not None]
