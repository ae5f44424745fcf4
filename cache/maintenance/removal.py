"""Removing a run or a data set: what goes, what speaks against it, and doing it so that a crash leaves the store whole.

The folder is hidden first, by one rename: from then on no reader sees it. Its files are deleted after that; what a
crash leaves of them `gc` removes.
"""

from __future__ import annotations

import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from micropref.cache.atomic import sync_folder
from micropref.cache.errors import BadInput, Failure
from micropref.cache.maintenance.uses import hold_alone
from micropref.cache.runs.names import drop_name, read_names
from micropref.cache.runs.records import readable_runs, unfinished_runs
from micropref.cache.store import StoreFolder

Kind = Literal["run", "data"]
FOLDERS: dict[Kind, str] = {"run": "runs", "data": "datasets"}
WORDS: dict[Kind, str] = {"run": "run", "data": "data set"}
REMOVED = re.compile(r"\.[0-9a-f]{16}\.removed")
"""A folder that `rm` has hidden and not deleted yet."""


@dataclass(frozen=True)
class Removal:
    """What `rm` is about to remove, or has removed."""

    kind: Kind
    id: str
    """Id of the run, or name of the data set."""
    finished: bool
    """False for what a stopped `sweep` or `route` left of a run."""
    names: list[str]
    """Names of the run, which go with it."""
    files: int
    bytes: int
    people: int
    """Files of people's weights in a run's folder, counted in `files`."""
    trained: list[str]
    """Runs that learned from the data set: they stay, and `ls` marks them."""
    removed: bool
    """Whether it is gone: not before somebody said yes."""


def plan_removal(store: StoreFolder, word: str) -> Removal:
    """Return what removing `word` takes away: the exact name or full id of a run, or the name of a data set.

    `run:NAME` and `data:NAME` say which is meant where both are called so. Raises BadInput where nothing is, or both
    are, or where other runs derive from the run.
    """
    kind, found = _meant(store, word)
    folder = store.root / FOLDERS[kind] / found
    files, size = measure(folder)
    if kind == "data":
        trained = [run.id for run in readable_runs(store) if run.record["data"] == found]
        return Removal(kind, found, True, [], files, size, 0, trained, removed=False)
    _check_derived(store, found)
    people = len(list((folder / "people").glob("*.json")))
    finished = found in store.names("runs")
    return Removal(kind, found, finished, read_names(store).of(found), files, size, people, [], removed=False)


def remove(store: StoreFolder, planned: Removal) -> None:
    """Remove what was planned. Raises BadInput where a command is at work on it, or a run came to derive from it."""
    folder = store.root / FOLDERS[planned.kind] / planned.id
    if not planned.finished:  # its command holds no folder of its own yet, but that of its data
        for name in store.names("datasets"):
            with hold_alone(store.dataset(name)) as holders:
                _check_unused(planned, holders)
    with hold_alone(folder) as holders:
        _check_unused(planned, holders)
        if planned.kind == "run":
            _check_derived(store, planned.id)
        hidden = hide(folder)
        for one in read_names(store).entries if planned.kind == "run" else ():
            if one.run == planned.id:
                drop_name(one)
        delete(hidden)


def _check_unused(planned: Removal, holders: list[str]) -> None:
    if holders:
        what = f"{WORDS[planned.kind]} {planned.id} {'is' if planned.finished else 'may be'} in use by"
        raise BadInput(f"{what} {', '.join(holders)}; remove it when that has ended")


def hide(folder: Path) -> Path:
    """Rename a folder so that no reader sees it any more, durably, and return where it lies."""
    hidden = folder.with_name(f".{secrets.token_hex(8)}.removed")
    try:
        folder.rename(hidden)
        sync_folder(folder.parent)
    except OSError as error:
        raise Failure(f"{folder}: cannot be removed ({error.strerror}); nothing was changed") from error
    return hidden


def delete(hidden: Path) -> None:
    """Delete a hidden folder; two commands may do so at the same moment. Raises Failure where the system refuses."""
    try:
        shutil.rmtree(hidden)
    except FileNotFoundError:
        if hidden.exists():
            delete(hidden)
    except OSError as error:
        raise Failure(f"{hidden}: cannot be deleted ({error.strerror}); `micropref gc` deletes the rest") from error


def removed_folders(store: StoreFolder) -> list[Path]:
    """Return the folders that `rm` has hidden and that are still there."""
    folders = [folder for folder in (store.root / kind for kind in FOLDERS.values()) if folder.is_dir()]
    return sorted(path for folder in folders for path in folder.iterdir() if REMOVED.fullmatch(path.name))


def measure(folder: Path) -> tuple[int, int]:
    """Return the number of files below a folder, and their bytes."""
    sizes = [path.lstat().st_size for path in folder.rglob("*") if not path.is_dir()]
    return len(sizes), sum(sizes)


def _meant(store: StoreFolder, word: str) -> tuple[Kind, str]:
    given, colon, rest = word.partition(":")
    kinds: list[Kind] = [kind for kind in FOLDERS if given == kind] if colon else list(FOLDERS)
    if not kinds:
        raise BadInput(f"{word!r}: expected run:NAME or data:NAME, the name or id alone, and nothing else before ':'")
    wanted = rest if colon else word
    names, ids = read_names(store), [*store.names("runs"), *unfinished_runs(store)]
    named = [one.run for one in names.entries if one.name == wanted and one.run in ids]
    runs = named or [one for one in ids if one == wanted]
    data = [one for one in store.names("datasets") if one == wanted]
    found: list[tuple[Kind, str]] = [("run", one) for one in runs if "run" in kinds]
    found += [("data", one) for one in data if "data" in kinds]
    if len(found) == 1:
        return found[0]
    if found:
        raise BadInput(f"{wanted!r} is a run ({runs[0]}) and a data set; say run:{wanted} or data:{wanted}")
    if wanted in store.names("features"):
        raise BadInput(f"{wanted!r} are features: `micropref gc` removes vectors that no data set needs any more")
    near = [one for one in ids if wanted and one.startswith(wanted)]
    hint = f"; a run begins so, {near[0]}: give its full id" if near else "; `micropref ls` lists what there is"
    what = " or ".join(WORDS[kind] for kind in kinds)
    raise BadInput(f"no {what} is called {wanted!r} in store {store.root}{hint}")


def _check_derived(store: StoreFolder, run_id: str) -> None:
    derived = [run.id for run in readable_runs(store) if run.record.get("parent") == run_id]
    if derived:
        verb = "run derives" if len(derived) == 1 else "runs derive"
        raise BadInput(f"run {run_id}: {len(derived)} {verb} from it: {', '.join(derived)}; remove those first")
