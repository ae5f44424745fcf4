"""Which files of a folder hold rows, split by split: hub clones, `save_to_disk` folders, and any others."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from micropref.cache.choices import TEST, TRAIN
from micropref.cache.errors import BadInput, cannot_read
from micropref.pipeline.sources.kinds import ACCEPTED, kind_of

VALIDATION = "validation"
SPLIT_WORDS = {
    "train": TRAIN,
    "training": TRAIN,
    "test": TEST,
    "eval": TEST,
    "validation": VALIDATION,
    "valid": VALIDATION,
    "val": VALIDATION,
    "dev": VALIDATION,
}
"""Words in names of files and splits that tell a split → the split."""
METADATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "cache-*.arrow")
"""Files that `datasets` writes next to rows and that hold none of the data set's."""

SHARD = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})(?P<end>\..+)")
"""Names of files that hold one data set together."""
ABOUT = ("README*", "LICENSE*", "*.md", "*.py")
"""Files about the rows."""


@dataclass(frozen=True)
class FolderFiles:
    """The files of a folder that hold rows."""

    splits: dict[str | None, list[Path]]
    """The source's own name of a split → its files; None: the files name no split."""
    passed_over: list[str]
    """Names of other files that could hold rows: of no split, or of a kind that is not read; links that lead to no
    file."""
    absent: list[str]
    """Names and patterns of files that should be there: those that the README names, shards of a numbered set."""


def folder_files(folder: Path, config: str | None = None) -> FolderFiles:
    """Return a folder's files by split: as saved by `datasets`, as its README says, else by the words in their names.

    Raises BadInput where there are none, and where the README has several configs and `config` names none of them.
    """
    entries = sorted(entry for entry in folder.rglob("*") if not _is_hidden(entry.relative_to(folder)))
    for entry in entries:
        check_encodable(entry)
    shown = sorted(entry.relative_to(folder) for entry in entries if entry.is_file())
    links = [_link_in_words(folder, entry) for entry in entries if entry.is_symlink() and not entry.is_file()]
    readable = [name for name in shown if kind_of(name) and not is_metadata(name)]
    found = _saved(folder) or _configured(folder, readable, config)
    if found is None and config is not None:
        raise BadInput(f"{folder}: found no config {config!r}: its README names none; leave `config` out")
    if found is None:
        found = _by_words(folder, readable)
    used = {file for files in found.values() for file in files}
    if not used:
        leads = f" (there: {', '.join(links[:8])})" if links else ""
        raise BadInput(f"{folder}: found no file to read{leads}; expected {ACCEPTED}")
    silent = [name for name in shown if is_metadata(name) or any(name.match(pattern) for pattern in ABOUT)]
    passed_over = [name.as_posix() for name in shown if folder / name not in used and name not in silent]
    absent = [*_unmatched(folder, readable, config), *_missing_shards(used)]
    return FolderFiles(found, passed_over + links, absent)


def _is_hidden(name: Path) -> bool:
    return any(part.startswith(".") for part in name.parts)


def _link_in_words(folder: Path, link: Path) -> str:
    """Name a link that leads to no file, and where it leads: links to folders are not followed, they may be loops."""
    return f"{link.relative_to(folder).as_posix()} (a link to {'a folder' if link.is_dir() else 'no file'})"


def _missing_shards(used: Iterable[Path]) -> list[str]:
    """Name sets of files such as train-00000-of-00002.parquet of which some are not there."""
    found: dict[tuple[Path, str, str, str], set[str]] = {}
    for file in used:
        if shard := SHARD.fullmatch(file.name):
            found.setdefault((file.parent, shard["name"], shard["total"], shard["end"]), set()).add(shard["number"])
    return [
        f"{int(total) - len(there)} of the {int(total)} files {name}-*-of-{total}{end}"
        for (_, name, total, end), there in found.items()
        if len(there) < int(total)
    ]


def check_encodable(path: Path) -> None:
    """Raise BadInput for a name that no text can hold, and so no report and no JSON."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise BadInput(f"{str(path)!a}: found a file name that is no UTF-8; expected UTF-8: rename it") from None


def has_configs(folder: Path) -> bool:
    """Say whether the README of a folder names configs."""
    return bool(_configs(folder))


def matching(folder: Path, names: Iterable[Path], pattern: str) -> list[Path]:
    """Return the files, given relative to the folder, that a pattern of the hub names, sorted."""
    plain = PurePosixPath(pattern).as_posix().removeprefix("./")
    expression = re.compile(_expression(plain))
    return [folder / name for name in sorted(names) if expression.fullmatch(name.as_posix())]


def is_metadata(name: Path) -> bool:
    """Say whether a file is one that `datasets` writes next to rows."""
    return any(fnmatch.fnmatch(name.name, pattern) for pattern in METADATA)


def split_word(name: str) -> str | None:
    """Return the split that a name tells, such as train for train_prefs; None where it tells none, or two."""
    found = {SPLIT_WORDS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in SPLIT_WORDS}
    return found.pop() if len(found) == 1 else None


def _saved(folder: Path) -> dict[str | None, list[Path]] | None:
    """Return the files of a folder written by `save_to_disk`; None where it is none."""
    if (folder / "dataset_dict.json").is_file():
        splits = _json(folder / "dataset_dict.json").get("splits")
        if not isinstance(splits, list) or not splits:
            raise BadInput(f"{folder / 'dataset_dict.json'}: found no 'splits'; expected what `save_to_disk` writes")
        return {str(split): _saved_files(_inside(folder, str(split))) for split in splits}
    if (folder / "state.json").is_file():
        split = _json(folder / "state.json").get("_split")
        return {split if isinstance(split, str) else None: _saved_files(folder)}
    return None


def _saved_files(folder: Path) -> list[Path]:
    """Return the files that the state of a saved data set names, and no leftovers next to them."""
    state = _json(folder / "state.json")
    named = state.get("_data_files")
    if not isinstance(named, list) or not all(isinstance(one, dict) and "filename" in one for one in named):
        raise BadInput(f"{folder / 'state.json'}: found no '_data_files'; expected what `save_to_disk` writes")
    files = [_inside(folder, str(one["filename"])) for one in named]
    if state.get("_indices_data_files"):
        raise BadInput(
            f"{folder}: found a selection of rows that is kept in files of indices; expected the rows themselves: "
            "load it with `datasets`, call flatten_indices() and save it again"
        )
    for file in files:
        if not file.is_file():
            raise BadInput(f"{file}: no such file, which {folder / 'state.json'} names; expected the whole folder")
    return files


def _configured(folder: Path, readable: Sequence[Path], config: str | None) -> dict[str | None, list[Path]] | None:
    """Return the files that the README's `configs` name; None where it has none."""
    configs = _configs(folder)
    if not configs:
        return None
    chosen = _chosen(folder, configs, config)
    found: dict[str | None, list[Path]] = {}
    wanted = _patterns(chosen)
    base = PurePosixPath(str(chosen.get("data_dir") or "."))
    if not wanted:
        inside = [name for name in readable if name.is_relative_to(base)]
        return _by_words(folder, inside)
    for split, patterns in wanted:
        files = [file for pattern in patterns for file in matching(folder, readable, (base / pattern).as_posix())]
        if files:
            found[split] = list(dict.fromkeys(files))
    if not found:
        told = ", ".join(pattern for _, patterns in wanted for pattern in patterns)
        raise BadInput(f"{folder}: found none of the files that its README names ({told}); expected the whole clone")
    return found


def _unmatched(folder: Path, readable: Sequence[Path], config: str | None) -> list[str]:
    """Return the patterns of the README's config that no file matches."""
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file() or not (found := _configs(folder)):
        return []
    chosen = _chosen(folder, found, config)
    patterns = [
        (PurePosixPath(str(chosen.get("data_dir") or ".")) / one).as_posix()
        for _, few in _patterns(chosen)
        for one in few
    ]
    return [one for one in patterns if not matching(folder, readable, one)]


def _configs(folder: Path) -> list[dict[str, Any]]:
    card = folder / "README.md"
    if not card.is_file() or not card.read_bytes().lstrip().startswith(b"---"):
        return []
    from huggingface_hub.repocard import metadata_load

    try:
        header = metadata_load(card)
    except Exception as error:  # noqa: BLE001 - whatever the YAML reader says of somebody's README
        line = " ".join(str(error).split())
        raise BadInput(f"{card}: its header cannot be read ({line[:120]}); expected YAML between lines ---") from None
    found = (header or {}).get("configs")
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _chosen(folder: Path, configs: list[dict[str, Any]], config: str | None) -> dict[str, Any]:
    by_name = {str(one.get("config_name", "default")): one for one in configs}
    if config is None:
        first = [name for name, one in by_name.items() if one.get("default") is True]
        config = next(iter([*first, *(name for name in by_name if name == "default" or len(by_name) == 1)]), None)
    if config not in by_name:
        found = f"no config {config!r}" if config is not None else "several configs"
        raise BadInput(f"{folder}: found {found} (there: {', '.join(by_name)}); choose one with `config`")
    return by_name[config]


def _patterns(config: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Return (split, patterns) of a config's `data_files`, which the hub allows in several forms."""
    files = config.get("data_files")
    if files is None:
        return []
    items = files if isinstance(files, list) else [files]
    if isinstance(files, dict) and "path" not in files:
        items = [{"split": split, "path": path} for split, path in files.items()]
    if all(isinstance(item, str) for item in items):
        return [(TRAIN, list(items))]
    found = []
    for item in items:
        path = item.get("path", []) if isinstance(item, dict) else item
        split = str(item.get("split", TRAIN)) if isinstance(item, dict) else TRAIN
        found.append((split, [str(one) for one in (path if isinstance(path, list) else [path])]))
    return found


def _by_words(folder: Path, readable: Sequence[Path]) -> dict[str | None, list[Path]]:
    """Return the files by the words in their names; all together where these tell one split at most."""
    told = {name: _word_of(folder, name) for name in readable}
    splits = [split for split in (TRAIN, VALIDATION, TEST) if split in told.values()]
    if len(splits) < 2:
        return {next(iter(splits), None): [folder / name for name in readable]}
    return {split: [folder / name for name in readable if told[name] == split] for split in splits}


def _word_of(folder: Path, name: Path) -> str | None:
    """Return the split that a file's name tells, else the nearest folder's."""
    for part in reversed(name.parts):
        words = {SPLIT_WORDS[word] for word in re.split(r"[^a-z]+", part.lower()) if word in SPLIT_WORDS}
        if len(words) > 1:
            raise BadInput(
                f"{folder / name}: its name tells several splits ({', '.join(sorted(words))}); give the file by itself"
            )
        if words:
            return words.pop()
    return None


def _expression(pattern: str) -> str:
    """Return the regular expression of a pattern: * and ? inside a name, ** over folders; a folder is all in it."""
    pieces = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    found = "".join(pieces.get(piece, re.escape(piece)) for piece in re.split(r"(\*\*/|\*\*|\*|\?)", pattern))
    return f"{found}(?:/.*)?" if pattern not in ("", ".") else ".*"


def _inside(folder: Path, name: str) -> Path:
    """Return a file of a folder. Raises BadInput for a name that leads out of it."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise BadInput(f"{folder}: found the file name {name!r}; expected one inside the folder")
    return folder / name


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file; expected the whole folder that `save_to_disk` wrote") from None
    except OSError as error:
        raise cannot_read(path, error) from error
    except ValueError as error:
        raise BadInput(f"{path}: found broken JSON ({error}); expected what `save_to_disk` writes") from None
    if not isinstance(found, dict):
        raise BadInput(f"{path}: found no object; expected what `save_to_disk` writes")
    return found
