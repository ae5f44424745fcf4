"""What of a run, or of some features, leaves the store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow.parquet as pq
from safetensors.numpy import load, save

from micropref.cache.errors import BadInput, Damaged
from micropref.cache.keys import sha256_hex
from micropref.cache.runs.names import find_run
from micropref.cache.runs.records import Run, open_run
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.features import ROLE, Features
from micropref.cache.vectors.opening import only_features, open_features
from micropref.heads.choices import PER_UNIT, SHARED_TENSORS
from micropref.pipeline.named.licences import licences_of, run_licences
from micropref.pipeline.sharing.bundle import Bundle, Content, of_bytes, of_file, of_json
from micropref.pipeline.sharing.datasets import linked_datasets, shared_datasets, unlinked
from micropref.pipeline.sharing.people import shared_people, shared_units, sharing_key
from micropref.pipeline.sharing.records import check_settings, shared_about, shared_run

ALWAYS_LEFT = ("vectors", "texts and pairs", "users", "scores and evaluations", "names and notes", "source paths")
"""What no pack of a run has, in words."""


@dataclass(frozen=True)
class SharingOptions:
    """What is asked for when something is shared."""

    with_people: bool = False
    """Whether weights of people go out, under keyed hashes."""
    with_texts: bool = False
    """Whether texts and pairs go out with vectors; user ids never do."""
    licence: str | None = None
    """Licence under which it is published."""
    plan: bool = False
    """Whether it is only asked what would leave: nothing is written then, not even the store's key."""

    def __post_init__(self) -> None:
        text = self.licence
        if text is not None and not (0 < len(text) <= 80 and text.isprintable()):
            raise BadInput(f"license is {text!r}: expected its name, such as apache-2.0 or cc-by-4.0")


def bundle_of(store: StoreFolder, what: str, options: SharingOptions) -> Bundle:
    """Return what is shared of `features:ID`, of `features` where there are only one, or of a run.

    Raises BadInput where there is no such thing, or it cannot be shared.
    """
    kind, _, name = what.partition(":")
    if kind == "features":
        return bundle_features(store, name or None, options)
    if options.with_texts:
        raise BadInput("with_texts is True: a run has no texts to share; push `features:ID` with it")
    return bundle_run(store, what, options)


def bundle_run(store: StoreFolder, word: str, options: SharingOptions) -> Bundle:
    """Return a run's record, its heads, and the record of its features; with it the run whose heads it weighs."""
    run = find_run(store, word)
    parent = [open_run(store, run.record["parent"])] if "groups" in run.record else []
    contents: list[Content] = []
    named: dict[str, list[str]] = {"data": [], "run": [one.id for one in (run, *parent)]}
    left: list[str] = list(ALWAYS_LEFT)
    people = 0
    for one in (run, *parent):
        leaves = _run(store, one, options)
        contents += leaves.contents
        left += leaves.left_out
        people += leaves.people
        for what, texts in leaves.named.items():
            named[what] = list(dict.fromkeys([*named.get(what, []), *texts]))
    if not options.with_people:
        left.append("people")
    for features in _features_of(store, [run, *parent]):
        more, stays = _described(features)
        contents += more
        left += stays
        named.setdefault("context template", []).append(str(features.settings.get("context_template")))
    about = open_features(store, run.record["features"]).about()
    licences = run_licences(store, run, about, options.licence)
    return Bundle.of("run", run.id, contents, named, left, licences, people)


@dataclass(frozen=True)
class _Leaving:
    """One run as it leaves."""

    contents: list[Content]
    named: dict[str, list[str]]
    left_out: list[str]
    people: int


def _run(store: StoreFolder, run: Run, options: SharingOptions) -> _Leaving:
    """Return a run's files, the names that they tell, and what stays."""
    tensors = load(run.heads())
    unknown = sorted(tensors.keys() - PER_UNIT - SHARED_TENSORS)
    if unknown:
        raise BadInput(f"run {run.id}: its tensors {', '.join(unknown)} are not known here: update micropref")
    units = shared_units(store, run, tensors, with_people=options.with_people, plan=options.plan)
    data = save(dict(sorted(units.tensors.items())))
    shared = shared_run({**run.record, "heads_digest": sha256_hex(data)})
    record = shared.record | units.record
    left = [f"{run.id}: {name}" for name in shared.left_out] + [f"{run.id}: {what}" for what in units.left_out]
    if run.contexts() is not None:
        left.append(f"{run.id}: vectors of its contexts")
    if not run.lacks_budget and run.budget() is not None:
        left.append(f"{run.id}: pairs that its router was re-fitted on")
    contents = [
        of_json(run.id, "run", "run", record, sorted(record)),
        of_bytes(run.id, "heads", "heads", "safetensors", data, sorted(units.tensors), len(units.tensors)),
    ]
    people = shared_people(store, run, plan=options.plan) if options.with_people else []
    if people:
        contents.append(of_json(run.id, "people", "people", people, sorted(people[0]), len(people)))
    named = {**units.named, "data": [str(run.record["data"])]}
    return _Leaving(contents, named, left, units.people + len(people))


def _features_of(store: StoreFolder, runs: list[Run]) -> list[Features]:
    ids = [run.record["features"] for run in runs]
    ids += [one for run in runs if (one := run.record["settings"].get("router_features")) is not None]
    return [open_features(store, name) for name in dict.fromkeys(ids)]


def _described(features: Features) -> tuple[list[Content], list[str]]:
    """Return the files that describe features, and what of them stays."""
    check_settings(features.id, features.settings)
    about = shared_about(features.about())
    contents = [
        of_json(features.id, "features", "settings", features.settings, sorted(features.settings)),
        of_json(features.id, "about", "about", about.record, sorted(about.record)),
    ]
    head = features.reward_head()
    if head is not None:
        data = save({"score.weight": head})
        contents.append(of_bytes(features.id, "reward_head", "reward_head", "safetensors", data, ["score.weight"]))
    return contents, list(about.left_out)


def bundle_features(store: StoreFolder, name: str | None, options: SharingOptions) -> Bundle:
    """Return the vectors of some features under their keys, and their record; with texts also the pairs, without users.

    Raises BadInput where there are none, or several and none is named.
    """
    if options.with_people:
        raise BadInput("with_people is True: vectors are of texts, not of people; leave it out")
    features = only_features(store, name)
    contents, left = _described(features)
    contents += _shards(features)
    if not contents[-1].member.name.count(f".{ROLE}."):
        raise BadInput(f"features {features.id}: no vectors in store {store.root}; embed or pull them first")
    data = linked_datasets(store, features)
    named = {"vectors of data": data, "context template": [str(features.settings.get("context_template"))]}
    if spare := unlinked(store, features, data):
        named["vectors that no data set here links to"] = [f"{spare:,}"]
    if options.with_texts:
        more, names = shared_datasets(store, features, data, sharing_key(store, plan=options.plan))
        contents += more
        named |= names
        left += ["users", "source paths", "rejected rows"]
    else:
        left += ["texts and pairs", "users", "source paths", "contexts"]
    licences = licences_of(store, data, features.about(), options.licence)
    if not data:
        licences = licences.filled((features.origin() or {}).get("licences", {}))
    return Bundle.of("features", features.id, contents, named, left, licences)


def _shards(features: Features) -> Iterator[Content]:
    """Yield the shards as they lie on disk. Raises Damaged where one is not whole."""
    for item in features.commits:
        path = item.checked_path(ROLE)
        columns = pq.read_schema(path).names
        if columns != ["key", "embedding"]:
            raise Damaged(f"{path}: has columns {', '.join(columns)}, expected key and embedding")
        yield of_file(features.id, item.stem, "vectors", path, columns, item.files[ROLE].rows)
