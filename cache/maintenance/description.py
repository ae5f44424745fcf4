"""One run in full, and what sets two runs apart, for `micropref show`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from micropref.cache.choices import TRAIN
from micropref.cache.commits import read_commits
from micropref.cache.datasets import Dataset
from micropref.cache.errors import Failure, MicroprefError
from micropref.cache.maintenance.listing import data_changed
from micropref.cache.runs.names import find_run, read_names, read_note
from micropref.cache.runs.records import TABLES, Run, readable_runs
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.opening import open_features

_TOLD_ELSEWHERE = {
    *("run", "parent", "method", "data", "data_split", "data_digest", "features", "settings", "created", "versions"),
    *("heads_digest", "train_history", "validation_history", "validation_accuracy_history", "restarts", "groups"),
}
"""Entries of run.json with a place of their own, or of no use to a reader."""
_FITTED = ("train_pairs", "validation_pairs", "pairs_without_context", "streamed", "units")
_ASKED = ("k", "lam", "seed")
SECTIONS = ("settings", "data", "features", "chosen on", "evaluations", "made with")


@dataclass(frozen=True)
class RunDescription:
    """All that is known of one run."""

    run: str
    names: list[str]
    note: str | None
    method: str
    parent: str | None
    """The run whose heads it uses; None where it was fitted by itself."""
    derived: list[str]
    """Runs that use its heads."""
    people: int
    """People whose weights over its heads are kept with it."""
    sections: dict[str, dict[str, Any]]
    """Settings, data, features, what it was chosen on (figures on validation pairs), evaluations, versions."""


@dataclass(frozen=True)
class Difference:
    """One thing in which two runs differ."""

    section: str
    name: str
    first: Any
    """None: the first run has no such thing."""
    second: Any


@dataclass(frozen=True)
class Shown:
    """What `show` says."""

    runs: list[RunDescription]
    """The runs asked for, one or two."""
    differences: list[Difference]
    """Of two runs; empty for one, and for two that are alike."""


def describe(store: StoreFolder, words: list[str]) -> Shown:
    """Describe one run, or two and what sets them apart. Raises BadInput where a run is unknown."""
    described = [_describe(store, find_run(store, word)) for word in words]
    return Shown(described, _differences(*described) if len(described) == 2 else [])


def _describe(store: StoreFolder, run: Run) -> RunDescription:
    record = run.record
    figures = {name: value for name, value in record.items() if name not in (*_TOLD_ELSEWHERE, *_FITTED, *_ASKED)}
    settings = {name: record[name] for name in _ASKED} | record["settings"]
    chosen = {name: record[name] for name in _ASKED if settings[name] != record[name]}  # of the values that were tried
    restarts = {"restarts": len(record["restarts"])} if "restarts" in record else {}
    groups = {"groups": len(record["groups"])} if "groups" in record else {}
    return RunDescription(
        run=run.id,
        names=read_names(store).of(run.id),
        note=read_note(run),
        method=record["method"],
        parent=record["parent"],
        derived=[one.id for one in readable_runs(store) if one.record.get("parent") == run.id],
        people=len(list((run.folder / "people").glob("*.json"))),
        sections={
            "settings": settings,
            "data": _data(store, run) | {name: record[name] for name in _FITTED if name in record} | groups,
            "features": _features(store, record["features"]),
            "chosen on": chosen | figures | restarts,
            "evaluations": _evaluations(run),
            "made with": {"created": record["created"], **record.get("versions", {}), **_origin(run)},
        },
    )


def _data(store: StoreFolder, run: Run) -> dict[str, Any]:
    name = run.record["data"]
    there = Dataset(name, store.dataset(name)) if name in store.names("datasets") else None
    gone = "elsewhere" if run.origin() is not None else "gone"
    state = gone if there is None else "changed since" if data_changed(run, there) else "as it was"
    split = run.record.get("data_split", TRAIN)
    return {"data": name, "split": split, "digest": run.record["data_digest"], "now": state}


def _origin(run: Run) -> dict[str, Any]:
    """Return where a run came from, and under which licences; nothing where it was fitted here."""
    found = run.origin() or {}
    licences = {f"licence of {name}": text for name, text in found.get("licences", {}).items() if text}
    return {name.replace("_", " "): found[name] for name in ("came_from", "revision") if found.get(name)} | licences


def _features(store: StoreFolder, features_id: str) -> dict[str, Any]:
    try:
        features = open_features(store, features_id)
        return {"features": features_id, "backbone": features.about().get("name"), **features.settings}
    except MicroprefError as error:
        return {"features": features_id, "damage": str(error)}


def _evaluations(run: Run) -> dict[str, Any]:
    """Return what there is in the run's folder of evaluations: accuracy by data set and split, and other tables."""
    found: dict[str, Any] = {}
    for data in run.evaluated():
        try:
            commits = read_commits(run.eval_folder(data))
        except Failure as error:
            found[data] = {"damage": str(error)}
            continue
        for item in commits:
            where = f"{data}, {item.record.get('split')}"
            if set(TABLES) <= set(item.files):
                found[where] = {"accuracy": item.record["accuracy"], "pairs": item.record["pairs"]}
            else:
                others = {role: item.files[role].rows for role in item.files if role != "scores"}
                found |= {f"{where}: {role}": {"rows": rows} for role, rows in others.items()}
    return found


def _differences(first: RunDescription, second: RunDescription) -> list[Difference]:
    heads = [
        Difference("run", name, getattr(first, name), getattr(second, name))
        for name in ("names", "note", "method", "parent", "derived", "people")
    ]
    rows = [
        Difference(section, name, first.sections[section].get(name), second.sections[section].get(name))
        for section in SECTIONS
        for name in {**first.sections[section], **second.sections[section]}
    ]
    return [one for one in (*heads, *rows) if one.first != one.second]
