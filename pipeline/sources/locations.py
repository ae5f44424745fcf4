"""Where the rows of a source lie: its files, split by split, and what each split's rows become."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from micropref.cache.choices import TEST, TRAIN
from micropref.cache.errors import BadInput
from micropref.cache.keys import canonical_json, sha256_hex
from micropref.cache.memory import digest_of
from micropref.pipeline.sources.adapters import Adapter, splits_named
from micropref.pipeline.sources.files import read_rows
from micropref.pipeline.sources.folders import (
    SPLIT_WORDS,
    VALIDATION,
    check_encodable,
    folder_files,
    has_configs,
    matching,
    split_word,
)
from micropref.pipeline.sources.kinds import ACCEPTED, kind_of


@dataclass(frozen=True)
class Given:
    """A source as it was given."""

    path: Path
    """A file or a folder."""
    label: str = ""
    """What to call it, such as owner/name@revision; empty: the path."""
    adapter: Adapter | None = None
    """Reads its rows; None: they are in one of the known shapes."""
    config: str | None = None
    """Which config of a folder's README to read; None: its default."""

    @property
    def name(self) -> str:
        """Return what to call it."""
        return self.label or str(self.path)


@dataclass(frozen=True)
class Located:
    """The files of one split of a source."""

    path: Path
    """The file or folder that was given."""
    name: str
    """What to call the source."""
    files: tuple[Path, ...]
    """In the order in which they are read."""
    read_split: str | None = None
    """The source's own name of the split; None: it names none."""
    split: str | None = None
    """What the rows become where the command does not say; None: train."""
    adapter: Adapter | None = None
    """Reads its rows; None: they are in one of the known shapes."""
    beside: tuple[Path, ...] = ()
    """Files that the adapter reads besides."""
    notes: tuple[str, ...] = ()
    """What to say of it before it is read."""

    def digest(self) -> str:
        """Return the sha256 of a file's bytes, or of a folder's sorted [relative name, digest] list."""
        try:
            if not self.path.is_dir():
                return digest_of(self.path)
            named = sorted({file.relative_to(self.path) for file in (*self.files, *self.beside)})
            listing = [[name.as_posix(), digest_of(self.path / name)] for name in named]
        except OSError as error:
            raise BadInput(f"{error.filename or self.path}: cannot be read ({error.strerror or error})") from None
        return sha256_hex(canonical_json(listing))


def locate(given: Given | Path, read_split: str | None = None, split: str | None = None) -> list[Located]:
    """Return the splits of a source that are to be read.

    `read_split` names one of them, `split` is what its rows become. Without them a folder's train and test are both
    read, and its validation split becomes test where it has none. Raises BadInput for what is not there, and for
    a source with several splits where it cannot be told what each becomes.
    """
    source = given if isinstance(given, Given) else Given(given)
    check_encodable(source.path)
    if source.path.is_dir():
        return _split_by_name(source, *_files(source), read_split, split)
    if not source.path.exists():
        raise BadInput(f"{source.path}: no such file or folder; expected {ACCEPTED}")
    if kind_of(source.path) is None:
        raise BadInput(f"{source.path}: found a file of another kind; expected {ACCEPTED}")
    if source.config is not None and source.adapter is None:
        raise BadInput(f"{source.path}: found a file, which has no configs; leave `config` out")
    if source.adapter is not None and source.adapter.split_column is not None:
        return _split_by_name(source, _by_column({None: [source.path]}, source.adapter), (), [], read_split, split)
    if read_split is not None:
        raise BadInput(f"{source.path}: found a file, which has no splits of its own; leave `read_split` out")
    becomes = _becomes(None, False, source.adapter)
    return [Located(source.path, source.name, (source.path,), None, becomes, source.adapter)]


def only_split(source: Located | Path) -> Located:
    """Return a source that is to be read as a whole. Raises BadInput for a folder of several splits."""
    if isinstance(source, Located):
        return source
    found = locate(source)
    if len(found) > 1:
        told = " and ".join(str(one.read_split) for one in found)
        raise BadInput(f"{source}: found files of several splits, {told}; give one split's files")
    return found[0]


def _split_by_name(
    source: Given,
    splits: Mapping[str | None, list[Path]],
    beside: tuple[Path, ...],
    unread: list[str],
    read_split: str | None,
    split: str | None,
) -> list[Located]:
    chosen, notes = _chosen(source, list(splits), read_split, split)
    notes += [f"{source.name}: {one}" for one in unread]
    return [
        Located(
            source.path,
            source.name,
            tuple(splits[name]),
            name,
            becomes,
            source.adapter,
            beside,
            tuple(notes) if at == 0 else (),
        )
        for at, (name, becomes) in enumerate(chosen.items())
    ]


def _files(source: Given) -> tuple[dict[str | None, list[Path]], tuple[Path, ...], list[str]]:
    """Return the files of each split, those the adapter reads besides, and what is to be said of other files."""
    adapter = source.adapter
    if adapter is not None and adapter.files:
        names = [file.relative_to(source.path) for file in source.path.rglob("*") if file.is_file()]
        readable = [name for name in names if kind_of(name)]
        found: dict[str | None, list[Path]] = {
            split: files
            for split, patterns in adapter.files.items()
            if (files := [file for pattern in patterns for file in matching(source.path, readable, pattern)])
        }
        beside = tuple(file for name in adapter.beside for file in matching(source.path, names, name))
        if found:
            return _by_column(found, adapter), beside, []
    config = source.config if adapter is None or has_configs(source.path) else None
    folder = folder_files(source.path, config)
    unread = []
    if folder.passed_over:
        unread.append(f"not read: {_few(folder.passed_over)} (of another kind, or of no split unlike the others)")
    if folder.absent:
        unread.append(f"not there: {_few(folder.absent)}; the copy may not be whole")
    return folder.splits, (), unread


def _few(names: list[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")


def _by_column(splits: dict[str | None, list[Path]], adapter: Adapter) -> dict[str | None, list[Path]]:
    """Return the splits that rows name, where a column says of which they are: then all files hold rows of all."""
    if adapter.split_column is None:
        return splits
    files = list(dict.fromkeys(file for few in splits.values() for file in few))
    return dict.fromkeys(splits_named(read_rows(files), adapter.split_column), files)


def _chosen(
    source: Given, names: list[str | None], read_split: str | None, split: str | None
) -> tuple[dict[str | None, str | None], list[str]]:
    """Return the splits to read and what each becomes, and what is to be said of that."""
    there = ", ".join(str(name) for name in names if name is not None)
    if read_split is not None:
        wanted = read_split if read_split in names else SPLIT_WORDS.get(read_split)
        if wanted not in names or wanted is None:
            raise BadInput(f"{source.name}: found no split {read_split!r} (there: {there or 'none named'})")
        return {wanted: split or _becomes(wanted, False, source.adapter)}, []
    if len(names) == 1:
        becomes = split or _becomes(names[0], False, source.adapter)
        if becomes is None and source.adapter is not None and source.adapter.splits and names[0] is not None:
            raise BadInput(
                f"{source.name}: found the split {there} alone; read it with `read_split` {there} and `split`"
            )
        said = split is None and becomes not in (None, TRAIN)
        return {names[0]: becomes}, [f"{source.name}: its files are of split {names[0]}: {becomes}"] if said else []
    if split is not None:
        raise BadInput(
            f"{source.name}: found the splits {there}; expected one where `split` is {split}: choose it with "
            "`read_split`, or leave `split` out"
        )
    has_test = any(_becomes(name, True, source.adapter) == TEST for name in names)
    placed: dict[str | None, str | None] = {
        name: becomes for name in names if (becomes := _becomes(name, has_test, source.adapter)) is not None
    }
    if not placed or len(set(placed.values())) < len(placed):
        raise BadInput(f"{source.name}: found the splits {there}; choose one with `read_split`")
    notes = [
        f"{source.name}: its split {name} becomes {becomes}" for name, becomes in placed.items() if name != becomes
    ]
    left = [str(name) for name in names if name not in placed]
    if left:
        notes.append(f"{source.name}: not read: split {', '.join(left)}; `read_split` reads one by itself")
    return placed, notes


def _becomes(name: str | None, has_test: bool, adapter: Adapter | None) -> str | None:
    """Return what a source's split becomes; None where that is not known, or it is a second test split."""
    if adapter is not None and adapter.splits:
        places = set(adapter.splits.values())
        return adapter.splits.get(name) if name is not None else next(iter(places)) if len(places) == 1 else None
    if name is None:
        return None
    found = split_word(name)
    return (None if has_test else TEST) if found == VALIDATION else found
