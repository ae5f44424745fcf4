"""Names and notes that people give to runs, and how a command finds the run that a word means.

A name is a small file of the store's folder `names`; the first that is committed has the name. A note is a file in the
run's folder. Neither is part of run.json: a run's id is made of what was asked for, and of nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from micropref.cache.atomic import publish_new, staged_file
from micropref.cache.commits import Commit, commit, commit_new, commit_paths, read_commit
from micropref.cache.errors import BadInput, Damaged, Failure, MicroprefError
from micropref.cache.keys import short_id
from micropref.cache.runs.records import Run, open_run, unfinished_runs
from micropref.cache.store import StoreFolder

NOTE = "note"
NAMES = "names"
SHOWN = 6
"""Runs that an error lists; the others are counted."""
_FORM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LIKE_AN_ID = re.compile(r".+-(?=[0-9]*[a-f])[0-9a-f]{8}")
"""Ids end in eight hexadecimal digits. Eight decimal ones may be a date, which is a good part of a name."""


@dataclass(frozen=True)
class RunName:
    """One name of one run."""

    name: str
    run: str
    created: str
    """When it was given, in UTC."""
    item: Commit
    """The file it lies in."""


@dataclass(frozen=True)
class RunNames:
    """All names of a store."""

    entries: tuple[RunName, ...]
    """In the order they were given."""
    damaged: tuple[str, ...]
    """One line for each name's file that cannot be read."""

    def of(self, run_id: str) -> list[str]:
        """Return the names of a run, the first given first."""
        return [one.name for one in self.entries if one.run == run_id]


def check_run_name(store: StoreFolder, name: str) -> str:
    """Return a name that may be given to a run. Raises BadInput saying what is allowed."""
    if not _FORM.fullmatch(name):
        raise BadInput(
            f"run name {name!r}: expected 1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit"
        )
    if _LIKE_AN_ID.fullmatch(name):
        raise BadInput(f"run name {name!r}: looks like a run's id, '-' and eight hexadecimal digits; choose another")
    if name in store.names("runs"):
        raise BadInput(f"run name {name!r}: is the id of a run; choose another")
    return name


def read_names(store: StoreFolder) -> RunNames:
    """Return all names of a store; files that cannot be read are told and passed over."""
    entries, damaged = [], []
    for path in commit_paths(store.root / NAMES):
        try:
            found = _read(path)
        except Failure as error:
            damaged.append(str(error))
            continue
        if found is not None:
            entries.append(found)
    return RunNames(tuple(sorted(entries, key=lambda one: (one.created, one.name))), tuple(damaged))


def claim_name(store: StoreFolder, name: str, run_id: str) -> RunName:
    """Give a run a name and return who has the name now: another run, where that was first.

    Two names that differ only in capitals are one: some file systems hold them for the same. A name whose run is gone
    is free. Raises BadInput where the name is not allowed, Failure where its file is damaged.
    """
    check_run_name(store, name)
    path = _path(store, name)
    while True:
        record = {"name": name, "run": run_id, "created": datetime.now(UTC).isoformat()}
        commit_new(path.parent, path.stem, record)
        owner = _read(path)
        if owner is not None and owner.run in (run_id, *store.names("runs")):
            return owner
        if owner is not None:
            drop_name(owner)


def drop_name(name: RunName) -> None:
    """Remove a name. One that was given meanwhile, in the same file, stays."""
    path = name.item.commit_path
    with staged_file(path.parent) as (_, aside):
        pass
    with suppress(FileNotFoundError):
        path.replace(aside)
        moved = read_commit(aside)
        if moved is None or moved.record != name.item.record:
            publish_new(aside, path)
    aside.unlink(missing_ok=True)


def rename(store: StoreFolder, run_id: str, *, add: str | None = None, remove: str | None = None) -> RunNames:
    """Give a run a name, take one away, or both, and return all names.

    Raises BadInput where another run has the name to give, or the run lacks the name to take away.
    """
    there = read_names(store)
    going = next((one for one in there.entries if one.run == run_id and one.name == remove), None)
    if remove is not None and going is None:
        names = ", ".join(there.of(run_id)) or "none"
        raise BadInput(f"run {run_id} has no name {remove!r} (its names: {names})")
    if add is not None:
        owner = claim_name(store, add, run_id)
        if (owner.run, owner.name) != (run_id, add):
            raise BadInput(_taken(add, owner))
    if going is not None and remove != add:
        drop_name(going)
    return read_names(store)


def check_new_run_name(store: StoreFolder, name: str | None, announce: Callable[[str], None]) -> None:
    """Check the name, if any, for a run about to be made; say where a run has it: it may be the same run again."""
    if name is None:
        return
    check_run_name(store, name)
    owner = _read(_path(store, name))
    if owner is not None and owner.run in store.names("runs"):
        announce(f"{_taken(name, owner)}; unless this is the same run again, it will have its id alone")


def name_new_run(store: StoreFolder, name: str | None, run_id: str, announce: Callable[[str], None]) -> None:
    """Give a run that was just made its name, if any; where another run was first, say so and leave it at that."""
    if name is None:
        return
    owner = claim_name(store, name, run_id)
    if (owner.run, owner.name) == (run_id, name):
        announce(f"run {run_id} has the name {name}")
    else:
        announce(f"warning: run {run_id} keeps its id: {_taken(name, owner)}")


def _taken(name: str, owner: RunName) -> str:
    spelled = "" if owner.name == name else f", spelled {owner.name!r}"
    free = f"`micropref name {owner.run} --remove {owner.name}` frees it"
    return f"name {name!r} is that of run {owner.run}{spelled}; {free}"


def read_note(run: Run) -> str | None:
    """Return a run's note; None where there is none. Raises Damaged where it is not what was written."""
    path = run.folder / f"{NOTE}.json"
    try:
        found = read_commit(path)
        return None if found is None else str(found.record["note"])
    except (Damaged, KeyError) as error:
        raise Damaged(f"{path}: damaged; write the note again with `micropref note {run.id} TEXT`") from error


def write_note(run: Run, text: str) -> None:
    """Write a run's note in place of an earlier one; an empty text removes it."""
    if text.strip():
        commit(run.folder, NOTE, {}, {"note": text})
    else:
        (run.folder / f"{NOTE}.json").unlink(missing_ok=True)


def find_run(store: StoreFolder, word: str, usable: Callable[[Run], bool] = lambda _: True) -> Run:
    """Return the run that a word means: an exact name, else an exact id, else the start of only one id.

    Starts are looked for among the runs that are `usable` to the command, then among all. Raises BadInput listing the
    candidates of an ambiguous start, or the usable runs there are.
    """
    if not _FORM.fullmatch(word):
        raise BadInput(f"run {word!r}: expected 1 to 64 letters, digits, '.', '_' or '-': a name, an id or its start")
    ids = store.names("runs")
    named = _read(_path(store, word))
    if named is not None and named.name == word and named.run in ids:
        return open_run(store, named.run)
    if word in ids:
        return open_run(store, word)
    if word in unfinished_runs(store):
        raise BadInput(
            f"run {word} is not finished: the command that makes it is at work, or goes on when it is given again; "
            f"`micropref rm {word}` removes what there is of it"
        )
    starting = [one for one in ids if one.startswith(word)]
    found = _usable(store, starting, usable) or starting
    if len(found) == 1:
        return open_run(store, found[0])
    names = read_names(store)
    if found:
        listed = _listed(found, names)
        raise BadInput(f"run {word!r}: {len(found)} ids begin so ({listed}); give more of the id, or a name")
    fitting = _usable(store, ids, usable)
    others = len(ids) - len(fitting)
    more = f", and {others} that this command cannot use" if others else ""
    gone = f"; the run of that name, {named.run}, is gone" if named is not None and named.name == word else ""
    raise BadInput(f"unknown run {word!r} in store {store.root} (there: {_listed(fitting, names)}{more}){gone}")


def holds_heads(run: Run) -> bool:
    """Say whether a run can score pairs; runs of `adapt` hold weights over the heads of another."""
    return "groups" not in run.record


def _usable(store: StoreFolder, ids: Sequence[str], usable: Callable[[Run], bool]) -> list[str]:
    return [one for one in ids if _is_usable(store, one, usable)]


def _is_usable(store: StoreFolder, run_id: str, usable: Callable[[Run], bool]) -> bool:
    try:
        return usable(open_run(store, run_id))
    except MicroprefError:  # damaged, or removed a moment ago
        return False


def _listed(ids: Sequence[str], names: RunNames) -> str:
    shown = [" = ".join([*names.of(one), one]) for one in ids[:SHOWN]]
    return ", ".join([*shown, *([f"{len(ids) - SHOWN} more"] if len(ids) > SHOWN else [])]) or "none yet"


def _path(store: StoreFolder, name: str) -> Path:
    return store.root / NAMES / f"{short_id(name.lower(), 16)}.json"


def _read(path: Path) -> RunName | None:
    try:
        found = read_commit(path)
        if found is None:
            return None
        return RunName(found.record["name"], found.record["run"], found.record["created"], found)
    except (Damaged, KeyError) as error:
        raise Damaged(f"{path}: damaged; remove the file and name its run again") from error
