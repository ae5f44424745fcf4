"""People in what is shared: nobody, or weights under keyed hashes whose key never leaves the store.

G groups or units, K heads.
"""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from micropref.cache.atomic import publish_new, staged_file
from micropref.cache.errors import BadInput, Damaged, cannot_read
from micropref.cache.runs.forgotten import keyed_hash, read_forgotten
from micropref.cache.runs.people import Person, read_person
from micropref.cache.runs.records import Run, open_run
from micropref.cache.store import StoreFolder
from micropref.heads.choices import PER_UNIT
from micropref.pipeline.rewards.people.feedback import Feedback
from micropref.pipeline.rewards.people.feedback_file import FILE
from micropref.pipeline.sharing.record_types import is_time
from micropref.pipeline.sharing.records import PEOPLE, is_plain

KEY_FILE = "sharing.key"
PERSON = re.compile(r"person-[0-9a-f]{32}")
"""What people are called in what is shared; no other name is taken from elsewhere."""
_KEY_BYTES = 32
Tensors = dict[str, npt.NDArray[Any]]


def has_key(store: StoreFolder) -> bool:
    """Say whether the store has shared people or pairs before."""
    return (store.root / KEY_FILE).exists()


def sharing_key(store: StoreFolder, *, plan: bool = False) -> str:
    """Return the key in hex digits that hashes in what this store shares are made with; made at the first use.

    A `plan` writes nothing: before the first use its hashes are those of some other key. Raises Damaged where the
    key's file is none.
    """
    path = store.root / KEY_FILE
    if plan and not has_key(store):
        return secrets.token_hex(_KEY_BYTES)
    if not has_key(store):
        with staged_file(store.root) as (file, temp):
            temp.chmod(0o600)
            file.write(secrets.token_hex(_KEY_BYTES).encode())
        publish_new(temp, path)
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii"))
    except OSError as error:
        raise cannot_read(path, error) from error
    except ValueError:
        key = b""
    if len(key) != _KEY_BYTES:
        raise Damaged(f"{path}: damaged; restore it from a copy, or remove it: people get other hashes then")
    return key.hex()


def shared_hash(key: str, text: str) -> str:
    """Return the hash of a text that only who has a store's key can compute, 32 hex digits."""
    return keyed_hash(key, text)[:32]


def person_hash(key: str, name: str) -> str:
    """Return what a person is called in what a store of this key shares."""
    return f"person-{shared_hash(key, f'person {name}')}"


@dataclass(frozen=True)
class Units:
    """The units or groups of a run as they leave, and its tensors with their rows."""

    record: dict[str, Any]
    """`units` or `groups` of run.json, where the run has either."""
    tensors: Tensors
    named: dict[str, list[str]]
    """attribute or context -> the names that go out."""
    people: int
    """People whose weights go out."""
    left_out: tuple[str, ...]


def shared_units(store: StoreFolder, run: Run, tensors: Tensors, *, with_people: bool, plan: bool = False) -> Units:
    """Return the rows of units and groups that leave: those of attributes and contexts, of people only with consent.

    People are called by their keyed hash and sorted by it, for the order of names says something of them too.
    Raises BadInput where a run is about people alone and they stay.
    """
    record = run.record
    groups, units = record.get("groups") or [], record.get("units")
    if "groups" not in record and units is None:
        return Units({} if "units" not in record else {"units": None}, tensors, {}, 0, ())
    kind = str(units["kind"] if units is not None else record["settings"]["by"])
    names = [str(name) for name in (groups if units is None else units["names"])]
    per_row = set(tensors) if units is None else PER_UNIT & tensors.keys()
    for name in per_row:
        if len(tensors[name]) not in (len(names), 0):
            raise BadInput(f"run {run.id}: tensor {name} has {len(tensors[name])} rows for {len(names)} {kind}s")
    if kind != "user":
        return Units(_record(units, kind, names), tensors, {kind: names}, 0, ())
    if not with_people:
        if units is None:
            raise BadInput(
                f"run {run.id}: holds nothing but the weights of {len(names)} people over run {record['parent']}: "
                "share that one, or add `with_people`"
            )
        empty = {name: tensors[name][:0] for name in per_row}
        return Units(_record(units, kind, []), {**tensors, **empty}, {}, 0, (f"weights of {len(names)} people",))
    hidden = forgotten_at(store, run, names)
    key = sharing_key(store, plan=plan)
    kept = sorted((person_hash(key, name), at) for at, name in enumerate(names) if name not in hidden)
    rows = np.array([at for _, at in kept], dtype=np.int64)
    moved = {name: tensors[name][rows] if len(tensors[name]) else tensors[name] for name in per_row}
    gone = (f"weights of {len(hidden)} people who were forgotten",) if hidden else ()
    return Units(_record(units, kind, [name for name, _ in kept]), {**tensors, **moved}, {}, len(kept), gone)


def _record(units: dict[str, Any] | None, kind: str, names: list[str]) -> dict[str, Any]:
    return {"groups": names} if units is None else {"units": {"kind": kind, "names": names}}


def shared_people(store: StoreFolder, run: Run, *, plan: bool = False) -> list[dict[str, Any]]:
    """Return the people whose weights a run keeps, by keyed hash and without what they answered."""
    paths = sorted((run.folder / "people").glob("*.json"))
    found = [person for path in paths if (person := read_person(path)) is not None]
    if not found:
        return []
    hidden, key = forgotten_at(store, run, [one.name for one in found]), sharing_key(store, plan=plan)
    rows = [
        {**{name: getattr(one, name) for name in PEOPLE}, "name": person_hash(key, one.name)}
        for one in found
        if one.grouped_by == "user" and one.at > hidden.get(one.name, -math.inf)
    ]
    return sorted(rows, key=lambda row: str(row["name"]))


def forgotten_at(store: StoreFolder, run: Run, names: Sequence[str]) -> dict[str, float]:
    """Return who asked to be forgotten and when, by tombstones of the run and of the run whose heads it weighs.

    Both what the run keeps itself and the file of choices next to it are asked.
    """
    found: dict[str, float] = {}
    parent = run.record["parent"] if "groups" in run.record else None
    for one in (run, *([open_run(store, parent)] if parent in store.names("runs") else [])):
        known = read_forgotten(one.folder)
        path = one.folder / FILE
        if path.is_file():
            with closing(Feedback(path, one.id, int(one.record["k"]), read_only=True)) as feedback:
                known = known.joined(feedback.forgotten())
        for name in names:
            at = known.when(name)
            if at is not None:
                found[name] = max(at, found.get(name, at))
    return found


def person_of(row: dict[str, Any], run: dict[str, Any]) -> Person:
    """Return a person as it is kept with a run that came from elsewhere. Raises ValueError for anything odd."""
    name, weights, scale = row["name"], row["weights"], row["scale"]
    if set(row) != PEOPLE or not PERSON.fullmatch(name):
        raise ValueError("people with other entries")
    for numbers in (weights, *([] if scale is None else [scale])):
        if len(numbers) != run["k"] or not all(type(one) in (int, float) and 0 <= one < 1e300 for one in numbers):
            raise ValueError("people with other weights")
    if not 0.99 <= sum(weights) <= 1.01 or (scale is not None and min(scale) <= 0):
        raise ValueError("people whose weights do not sum to 1, or that divide by 0")
    if not is_time(row["created"]) or not is_plain(row["method"]) or not 0 <= float(row["strength"]) < 1e300:
        raise ValueError("people with another time, method or strength")
    return Person(
        name=name,
        grouped_by="user",
        run=run["run"],
        features=run["features"],
        data=run["data"],
        split="",
        data_digest="",
        method=str(row["method"]),
        strength=float(row["strength"]),
        answers=(),
        weights=tuple(weights),
        scale=None if scale is None else tuple(scale),
        routed=bool(row["routed"]),
        combine="linear" if row["combine"] == "linear" else "probability",
        created=row["created"],
    )
