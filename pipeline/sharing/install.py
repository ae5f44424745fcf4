"""Writing what came from elsewhere into the store, the file that makes it exist last."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from micropref.cache.commits import commit
from micropref.cache.errors import BadInput, MicroprefError
from micropref.cache.runs.people import write_person
from micropref.cache.runs.records import open_run, write_run
from micropref.cache.store import ORIGIN, StoreFolder
from micropref.cache.vectors.features import Features, shard_stem
from micropref.cache.vectors.opening import planned_features
from micropref.cache.vectors.parquet_layout import vector_schema
from micropref.pipeline.progress import Announce
from micropref.pipeline.sharing.datasets import SCHEMAS, TABLES, check_free, install_contexts, install_dataset, is_whole
from micropref.pipeline.sharing.incoming import (
    Incoming,
    IncomingFeatures,
    IncomingRun,
    check_method,
    read_features,
    read_run,
    read_table,
    unused,
)
from micropref.pipeline.sharing.outgoing import SharingOptions, bundle_run
from micropref.pipeline.sharing.people import person_of

_RUN_ROLES = {"run", "heads", "people", "settings", "about", "reward_head"}
_FEATURES_ROLES = {"settings", "about", "reward_head", "vectors", "contexts", *TABLES}


@dataclass(frozen=True)
class Installed:
    """What `unpack` and `pull` wrote."""

    kind: str
    """run or features."""
    id: str
    came_from: str
    """The pack or URL."""
    revision: str | None
    """The hub's commit; None elsewhere."""
    digest: str
    """sha256 that stands for all of it."""
    runs: list[str]
    """Runs that are new here."""
    features: list[str]
    """Features ids that are described here now."""
    vectors: int
    """Vectors that are new here."""
    datasets: list[str]
    """Data sets that are new here."""
    people: int
    """People, under keyed hashes."""
    backbone: str | None
    """Name of the backbone; None: a folder elsewhere, to be named with `--backbone`."""
    licences: dict[str, str | None]
    """Of what was shared, of its data and its backbone; None: not known."""


def install(store: StoreFolder, source: Incoming, revision: str | None, announce: Announce) -> Installed:
    """Write what came from elsewhere. What is there already stays as it is.

    Raises BadInput where it is damaged, tampered with or of a later version, or where something else has its id; then
    nothing of it is there.
    """
    manifest = source.manifest
    roles = _RUN_ROLES if manifest.kind == "run" else _FEATURES_ROLES
    if odd := unused(manifest, roles):  # type: ignore[arg-type]
        raise BadInput(f"{source.where}: {odd[0]} has no place in shared {manifest.kind}; it is not used")
    if manifest.id not in manifest.owners("run" if manifest.kind == "run" else "settings"):
        raise BadInput(f"{source.where}: has no {manifest.kind} {manifest.id}; ask for a whole copy")
    described = {name: read_features(source, name) for name in manifest.owners("settings")}
    told: dict[str, Any] = {
        "kind": manifest.kind,
        "id": manifest.id,
        "came_from": source.where,
        "revision": revision,
        "digest": manifest.digest,
        "licences": {name: getattr(manifest.licences, name) for name in ("own", "data", "backbone")},
    }
    if manifest.kind == "run":
        return _runs(store, source, described, told)
    return _features(store, source, described, told, announce)


def _runs(
    store: StoreFolder, source: Incoming, described: dict[str, IncomingFeatures], told: dict[str, Any]
) -> Installed:
    runs = [read_run(source, name) for name in source.manifest.owners("run")]
    for run in runs:
        wanted = {run.record["features"], run.record["settings"].get("router_features")} - {None}
        if not wanted <= described.keys():
            raise BadInput(f"{source.where}: lacks the record of features {', '.join(sorted(wanted))}")
        check_method(source, run, described[run.record["features"]].settings["width"])
    people = {run.record["run"]: _people(source, run) for run in runs}
    new = [run for run in runs if not _is_there(store, source, run)]
    made = [name for name in described if name not in store.names("features")]
    for one in described.values():
        planned_features(store, one.settings).create(one.about, one.reward_head)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    for run in sorted(new, key=lambda run: "groups" in run.record):  # the run whose heads are weighed comes first
        folder = store.run(run.record["run"])
        commit(folder, ORIGIN, {}, {**told, "at": now})
        for person in people[run.record["run"]]:
            write_person(folder / "people", person)
        write_run(store, run.record["run"], run.record, run.heads)
    return Installed(
        **told,
        runs=[run.record["run"] for run in new],
        features=made,
        vectors=0,
        datasets=[],
        people=sum(len(people[run.record["run"]]) + _hashed(run) for run in new),
        backbone=next(iter(described.values())).about.get("name"),
    )


def _people(source: Incoming, run: IncomingRun) -> list[Any]:
    try:
        return [person_of(row, run.record) for row in run.people]
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{source.where}: people of run {run.record['run']} are damaged ({error})") from None


def _hashed(run: IncomingRun) -> int:
    """Return how many people a run holds weights of in its tensors."""
    record = run.record
    if "groups" in record:
        return len(record["groups"]) if record["settings"].get("by") == "user" else 0
    units = record.get("units")
    return len(units["names"]) if units and units["kind"] == "user" else 0


def _is_there(store: StoreFolder, source: Incoming, run: IncomingRun) -> bool:
    """Say whether a run is there and would leave as this one came. Raises BadInput where another has its id."""
    name = run.record["run"]
    if name not in store.names("runs"):
        return False
    try:
        mine = [
            bundle_run(store, name, SharingOptions(with_people=with_people, plan=True)).manifest.one("run", name).digest
            for with_people in ((False, True) if "groups" not in run.record else (True,))
        ]
        own = open_run(store, name).record
    except MicroprefError:
        mine, own = [], {}
    # What came from elsewhere before is kept as it came, its people under hashes: it would leave under others.
    if source.manifest.one("run", name).digest in mine or own == run.record:
        return True
    differs = "weights"
    if own.get("heads_digest") == run.record["heads_digest"]:
        fields = sorted(field for field in own.keys() | run.record.keys() if own.get(field) != run.record.get(field))
        differs = f"{', '.join(fields)} in its record"
    raise BadInput(
        f"run {name}: store {store.root} has a run of that id with other {differs} than {source.where}; unpack into "
        "another store, or remove that run with `micropref rm` first"
    )


def _features(
    store: StoreFolder,
    source: Incoming,
    described: dict[str, IncomingFeatures],
    told: dict[str, Any],
    announce: Announce,
) -> Installed:
    manifest = source.manifest
    check_free(store, manifest)
    one = described[manifest.id]
    features = planned_features(store, one.settings)
    made = [] if manifest.id in store.names("features") else [manifest.id]
    fresh = sum(_shard(features, source, member.stem, member) for member in manifest.of("vectors", manifest.id))
    features.create(one.about, one.reward_head)
    features = planned_features(store, one.settings)
    commit(features.folder, ORIGIN, {}, {**told, "at": datetime.now(UTC).isoformat(timespec="seconds")})
    new = [name for name in manifest.owners("pairs") if not is_whole(store, features, manifest, name)]
    for name in new:
        tables = [(member, read_table(source, member, SCHEMAS[member.role])) for role in TABLES
                  for member in manifest.of(role, name)]  # fmt: skip
        _check_links(source, features, name, [table for member, table in tables if member.role == "links"])
        install_dataset(store, features, name, tables)
    install_contexts(features, [read_table(source, member, SCHEMAS["contexts"]) for member in manifest.of("contexts")])
    if fresh and not manifest.owners("pairs"):
        announce("vectors that no data set links to are removed by `micropref gc` after a day: embed your texts first")
    return Installed(
        **told,
        runs=[],
        features=made,
        vectors=fresh,
        datasets=new,
        people=0,
        backbone=one.about.get("name"),
    )


def _check_links(source: Incoming, features: Features, name: str, tables: list[pa.Table]) -> None:
    for table in tables:
        for column in table.column_names:
            if column.endswith("_key") and bool((features.locate(_series(table, column).drop_nulls()) < 0).any()):
                raise BadInput(f"{source.where}: data set {name!r} needs vectors that are not there; it is not used")


def _series(table: pa.Table, column: str) -> pl.Series:
    found = pl.from_arrow(table.column(column).cast(pa.binary()))
    assert isinstance(found, pl.Series)
    return found


def _shard(features: Features, source: Incoming, stem: str, member: Any) -> int:
    """Write a shard of vectors unless it is there whole, and return how many vectors are new."""
    if features.damage(stem) == "":
        return 0
    table = read_table(source, member, vector_schema(features.width, features.dtype))
    keys = table.column("key").to_pylist()
    if shard_stem(keys) != stem or len(set(keys)) < len(keys) or not keys:
        raise BadInput(f"{source.where}: {member.name} has other keys than its name says; it is not used")
    flat = table.column("embedding").combine_chunks().flatten().to_numpy(zero_copy_only=False)
    vectors = np.ascontiguousarray(flat).reshape(len(keys), features.width)
    if not np.isfinite(vectors).all():
        raise BadInput(f"{source.where}: {member.name} holds values that are not finite; it is not used")
    features.write_shard(keys, vectors, {"forwarded_tokens": 0, "pulled": source.where})
    return len(keys)
