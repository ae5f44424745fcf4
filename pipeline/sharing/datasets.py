"""Pairs that leave with the vectors they are about: without users, and with ids that tell nothing of these.

A pair's id is a hash of all it says, its user among it: who has the text could find the user by trying. So pairs get
ids by the store's key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from micropref.cache.commits import Commit, commit, write_table
from micropref.cache.datasets import Dataset, linked_keys, open_dataset, read_table
from micropref.cache.errors import BadInput
from micropref.cache.schemas import CONTEXT_SCHEMA, LINK_SCHEMA, PAIR_SCHEMA, RATING_SCHEMA
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.context_keys import add_context_keys, context_keys, needed_contexts
from micropref.cache.vectors.features import Features
from micropref.cache.vectors.key_index import Keys, as_series
from micropref.pipeline.sharing.bundle import Content, of_bytes
from micropref.pipeline.sharing.manifest import Manifest, Member, Role
from micropref.pipeline.sharing.people import shared_hash

SCHEMAS: dict[str, pa.Schema] = {
    "pairs": PAIR_SCHEMA.remove(PAIR_SCHEMA.get_field_index("user")),
    "links": LINK_SCHEMA,
    "ratings": RATING_SCHEMA,
    "contexts": CONTEXT_SCHEMA,
}
"""Columns of each table that leaves."""
NAMED_CONTEXTS = 100
"""Contexts that are listed by themselves; of more the number is told."""
TABLES: tuple[Role, ...] = ("pairs", "links", "ratings")


def linked_datasets(store: StoreFolder, features: Features) -> list[str]:
    """Return the data sets of whose texts there are vectors among these, sorted."""
    return [name for name in store.names("datasets") if features.id in open_dataset(store, name).linked_features()]


def unlinked(store: StoreFolder, features: Features, names: list[str]) -> int:
    """Return how many vectors no data set of the store links to: of one that was removed, or that were pulled."""
    datasets = [open_dataset(store, name) for name in names]
    links = [found for dataset in datasets for part in dataset.parts if (found := dataset.links(part, features.id))]
    contexts = context_keys(features)
    own = contexts.filter(pl.col("context").is_in(list(needed_contexts(store, features.id))))["key"]
    needed = Keys.distinct([own, *map(linked_keys, links)])
    there = Keys.distinct([as_series(features.keys())])
    return int((~needed.has(there)).sum())


def shared_datasets(
    store: StoreFolder, features: Features, names: list[str], key: str
) -> tuple[list[Content], dict[str, list[str]]]:
    """Return the tables of some data sets, and the names and texts in them that are to be told first.

    Pairs get ids by the `key`.
    """
    contents: list[Content] = []
    attributes: dict[str, None] = {}
    contexts: dict[str, None] = {}
    for name in names:
        dataset = open_dataset(store, name)
        for place, part in enumerate(dataset.parts):
            links = dataset.links(part, features.id)
            if links is None:
                continue
            pairs = read_table(part, "pairs")
            attributes |= dict.fromkeys(pairs["attribute"].drop_nulls().unique().sort())
            contexts |= dict.fromkeys(pairs["context"].drop_nulls().unique().sort())
            contents += _part(key, name, f"{part.record['split']}-{place:04d}", part, links)
    table = context_keys(features).filter(pl.col("context").is_in(list(needed_contexts(store, features.id))))
    if table.height:
        contents.append(_table(features.id, "contexts", "contexts", table))
    told = list(contexts)[:NAMED_CONTEXTS]
    told += [f"... and {len(contexts) - len(told):,} more"] if len(contexts) > len(told) else []
    return contents, {"data": names, "attribute": list(attributes), "context": told}


def _part(key: str, name: str, stem: str, part: Commit, links: Commit) -> Iterator[Content]:
    def renamed(frame: pl.DataFrame) -> pl.DataFrame:
        ids = [f"{shared_hash(key, f'pair {one}')}-0" for one in frame["pair_id"]]
        return frame.with_columns(pl.Series("pair_id", ids, dtype=pl.String))

    pairs = read_table(part, "pairs")
    if "chosen_id" not in pairs.columns:
        raise BadInput(f"data set {name!r}: made by an early version; embed its sources again, then share it")
    yield _table(name, stem, "pairs", renamed(pairs.drop("user")))
    yield _table(name, stem, "links", renamed(read_table(links, "links")), responses=str(links.record["responses"]))
    if "ratings" in part.files:
        yield _table(name, stem, "ratings", read_table(part, "ratings"))


def _table(owner: str, stem: str, role: Role, frame: pl.DataFrame, **told: str) -> Content:
    schema = SCHEMAS[role]
    table = frame.select(schema.names).to_arrow().cast(pa.schema([_wide(field) for field in schema]))
    table = table.cast(schema).replace_schema_metadata(told)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return of_bytes(owner, stem, role, "parquet", bytes(sink.getvalue()), schema.names, table.num_rows)


def _wide(field: pa.Field) -> pa.Field:
    """Return a field as polars' large types become it, before it is narrowed to the store's own."""
    return field.with_type(pa.large_binary()) if pa.types.is_fixed_size_binary(field.type) else field


def check_free(store: StoreFolder, manifest: Manifest) -> None:
    """Raise BadInput where a data set of the same name is there with other pairs."""
    for name in manifest.owners("pairs"):
        there = {part.stem for part in open_dataset(store, name).parts} if name in store.names("datasets") else set()
        if not there <= {_stem(member) for member in manifest.of("pairs", name)}:
            raise BadInput(
                f"data set {name!r}: store {store.root} has one of that name with other pairs; pull into another "
                "store, or remove it with `micropref rm`"
            )


def is_whole(store: StoreFolder, features: Features, manifest: Manifest, name: str) -> bool:
    """Say whether a data set is there with all its parts and their links: what a stopped `pull` left is not."""
    if name not in store.names("datasets"):
        return False
    dataset = open_dataset(store, name)
    linked = {part.stem for part in dataset.parts if dataset.links(part, features.id) is not None}
    return {_stem(member) for member in manifest.of("pairs", name)} <= linked


def _stem(member: Member) -> str:
    return f"{member.stem}-{member.digest[:16]}"


def install_dataset(
    store: StoreFolder, features: Features, name: str, tables: Iterable[tuple[Member, pa.Table]]
) -> None:
    """Write a data set that came from elsewhere: pairs first, then links, as `embed` does."""
    by_role: dict[str, dict[str, tuple[Member, pa.Table]]] = {role: {} for role in TABLES}
    for member, table in tables:
        by_role[member.role][member.stem] = (member, table)
    dataset = Dataset(name, store.dataset(name))
    folder = dataset.folder / "pairs"
    for ordinal, (stem, (member, pairs)) in enumerate(sorted(by_role["pairs"].items()), 1):
        final = _stem(member)
        at = PAIR_SCHEMA.get_field_index("user")
        full = pairs.add_column(at, PAIR_SCHEMA.field("user"), pa.nulls(len(pairs), pa.string())).cast(PAIR_SCHEMA)
        files = {"pairs": write_table(folder, final, "pairs", full)}
        if stem in by_role["ratings"]:
            files["ratings"] = write_table(folder, final, "ratings", by_role["ratings"][stem][1])
        split = stem.rpartition("-")[0]
        part = commit(folder, final, files, _record(name, split, ordinal, member))
        links_folder = dataset.links_folder(features.id)
        _, links = by_role["links"][stem]
        responses = (links.schema.metadata or {}).get(b"responses", b"plain").decode()
        record = {
            **dict.fromkeys(("indistinguishable", "overlong", "special", "trimmed"), 0),
            "lost": {},
            "pairs_digest": part.files["pairs"].digest,
            "responses": responses,
        }
        commit(links_folder, final, {"links": write_table(links_folder, final, "links", links)}, record)


def _record(name: str, split: str, ordinal: int, member: Member) -> dict[str, Any]:
    """Return what the commit of a part that was pulled says of it: its source is elsewhere."""
    return {
        "source": f"{name}, pulled", "digest": member.digest, "split": split, "ordinal": ordinal,
        "shape": "preference", "rows": member.rows, "rows_digest": member.digest, "limit": None,
        "identity": {"contexts": None, "shape": "auto", "split_by_prompt": None}, "reading": 2, "columns": [],
        "choices": {"attributes": None, "columns": {}}, "dropped": {}, "rejected_rows": 0, "empty_responses": 0,
        "noted": {},
    }  # fmt: skip


def install_contexts(features: Features, tables: Iterable[pa.Table]) -> None:
    """Add what vector each context by itself became."""
    found = {str(row["context"]): bytes(row["key"]) for table in tables for row in table.to_pylist()}
    if found:
        add_context_keys(replace(features), found)
