"""The rows behind the views, as they lie in a store.

Rows come from committed files whose digest is checked first, through pyarrow: DuckDB itself never opens a file.
Each reader takes the names a query mentions (None: any) and yields Arrow tables with those columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from micropref.cache.choices import TEST
from micropref.cache.commits import Commit, read_commits
from micropref.cache.datasets import Dataset
from micropref.cache.errors import Failure
from micropref.cache.keys import canonical_json
from micropref.cache.runs.histories import run_history
from micropref.cache.runs.names import RunNames, read_names, read_note
from micropref.cache.runs.records import LATER_TABLES, TABLES, Run, readable_runs, router_input, sweep_leaderboards
from micropref.cache.sql.views import column_names
from micropref.cache.store import StoreFolder

ROLES = {
    "prompt": ("prompt_key",),
    "context": ("context_key",),
    "response": ("chosen_key", "rejected_key", "chosen_context_key", "rejected_context_key"),
}
Names = frozenset[str] | None
Rows = Iterator[pa.Table]


def read_columns(part: Commit, role: str, wanted: Callable[[str], bool]) -> pa.Table:
    """Read the wanted columns of a committed table, its first column always: rows are counted by it."""
    path = part.checked_path(role)
    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        return file.read(columns=[name for place, name in enumerate(names) if place == 0 or wanted(name)])
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise Failure(f"{path}: cannot be read ({reason}); run `micropref verify`") from error


def _constant(table: pa.Table, **values: str) -> pa.Table:
    for name, value in values.items():
        table = table.append_column(name, pa.repeat(pa.scalar(value), table.num_rows))
    return table


def _is_wanted(columns: Names, table: str) -> Callable[[str], bool]:
    known = column_names(table)
    return lambda name: name in known and (columns is None or name in columns)


def _datasets(store: StoreFolder) -> Iterator[Dataset]:
    for name in store.names("datasets"):
        yield Dataset(name, store.root / "datasets" / name)


def _dataset_reader(role: str) -> Callable[[StoreFolder, Names], Rows]:
    def rows(store: StoreFolder, columns: Names) -> Rows:
        for dataset in _datasets(store):
            for part in dataset.parts:
                if role in part.files:
                    yield read_columns(part, role, _is_wanted(columns, role))

    return rows


def _columns(store: StoreFolder, columns: Names) -> Rows:  # noqa: ARG001 - a handful of rows
    for dataset in _datasets(store):
        for part in dataset.parts:
            found = part.record.get("columns")  # parts of the first releases have none
            if found:
                about = {"data": dataset.name, "split": part.record["split"], "source": part.record["source"]}
                yield pa.Table.from_pylist([about | one for one in found])


def _links(store: StoreFolder) -> Iterator[tuple[str, str, Commit]]:
    """Yield data set, features id and links of every part, passing over links to an earlier state of a part."""
    for dataset in _datasets(store):
        for part in dataset.parts:
            for features_id in dataset.linked_features():
                links = dataset.links(part, features_id)
                if links is not None:
                    yield dataset.name, features_id, links


def _token_counts(store: StoreFolder, columns: Names) -> Rows:
    for data, features, links in _links(store):
        table = read_columns(links, "links", _is_wanted(columns, "token_counts"))
        yield _constant(table, data=data, features=features)


def _roles(store: StoreFolder, columns: Names) -> Rows:  # noqa: ARG001 - a join needs every column
    for _, features, links in _links(store):
        for role, keys in ROLES.items():
            table = read_columns(links, "links", set(keys).__contains__)
            for name in keys:
                present = pa.table({"key": table.column(name).unique().drop_null()})
                yield _constant(present, features=features, role=role)
    from micropref.cache.vectors.context_keys import context_keys  # polars loads only where vectors are read
    from micropref.cache.vectors.opening import open_features

    for name in store.names("features"):
        keys = context_keys(open_features(store, name))["key"].to_arrow().cast(pa.binary())
        yield _constant(pa.table({"key": keys}), features=name, role="context_only")


def _run_rows(store: StoreFolder, columns: Names) -> Rows:  # noqa: ARG001 - a handful of rows
    names = read_names(store)
    rows = [_run_row(run, names) for run in readable_runs(store)]
    if rows:
        yield pa.Table.from_pylist(rows)


def _run_row(run: Run, names: RunNames) -> dict[str, Any]:
    row = {name: run.record.get(name) for name in column_names("runs")}
    own_test = (part for part in run.tables(run.record["data"]) if part.record["split"] == TEST)
    row["test_accuracy"] = next((part.record["accuracy"] for part in own_test), None)
    reads = row["settings"] and row["settings"].get("router_input")
    row["router_input"] = reads and router_input(run.record)
    row["settings"] = canonical_json(row["settings"])
    row["created"] = _utc(row["created"])
    row["names"], row["note"] = names.of(run.id), read_note(run)
    return row


def _utc(text: str | None) -> datetime | None:
    if text is None:
        return None
    moment = datetime.fromisoformat(text)
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def _sweep_settings(store: StoreFolder, columns: Names) -> Rows:
    for part in sweep_leaderboards(store):
        yield read_columns(part, "leaderboard", _is_wanted(columns, "sweep_settings"))


def _history(store: StoreFolder, columns: Names) -> Rows:
    wanted = _is_wanted(columns, "history")
    for run in readable_runs(store):
        if rows := run_history(run.record):
            made_from = {name: run.record.get(name) for name in ("parent", "data")}
            yield pa.Table.from_pylist([made_from | row for row in rows])
    for part in sweep_leaderboards(store):
        if "history" in part.files:  # sweeps of earlier versions kept none
            yield read_columns(part, "history", wanted)
    for part in _evaluations(store, "history"):
        yield read_columns(part, "history", wanted)


def _evaluations(store: StoreFolder, role: str) -> Iterator[Commit]:
    for run in readable_runs(store):
        for data in run.evaluated():
            yield from (part for part in read_commits(run.eval_folder(data)) if role in part.files)


def _evaluation_reader(role: str) -> Callable[[StoreFolder, Names], Rows]:
    def rows(store: StoreFolder, columns: Names) -> Rows:
        for part in _evaluations(store, role):
            yield read_columns(part, role, _is_wanted(columns, role))

    return rows


def _scores(store: StoreFolder, columns: Names) -> Rows:
    wanted = _is_wanted(columns, "scores")
    weights = columns is None or "weight" in columns

    def keep(name: str) -> bool:
        # Margins always: they say which heads there are.
        return name.startswith("margin_") or (weights and name.startswith("weight_")) or wanted(name)

    for run in readable_runs(store):
        for data in run.evaluated():
            shards = run.score_shards(data)
            for split in sorted({str(part.record["split"]) for part in shards}):
                yield from _first_scores([part for part in shards if part.record["split"] == split], keep)


def _first_scores(shards: list[Commit], keep: Callable[[str], bool]) -> Rows:
    """Yield the score tables of one split, each pair from the first that has it: two evaluations may have met."""
    if len(shards) == 1:
        yield read_columns(shards[0], "scores", keep)
        return
    ids = [read_columns(part, "scores", "pair_id".__eq__).column("pair_id") for part in shards]
    numbers = pa.chunked_array([chunk for one in ids for chunk in one.cast(pa.string()).chunks], pa.string())
    numbers = numbers.combine_chunks().dictionary_encode().indices.to_numpy()
    first = np.zeros(len(numbers), bool)
    first[np.unique(numbers, return_index=True)[1]] = True
    start = 0
    for part, one in zip(shards, ids, strict=True):
        table, kept = read_columns(part, "scores", keep), first[start : start + len(one)]
        yield table if kept.all() else table.filter(pa.array(kept))
        start += len(one)


def count_heads(store: StoreFolder) -> int:
    """Return K, the heads of the widest committed score table; 0 where there is none."""
    schemas = (pq.read_schema(part.checked_path("scores")) for part in _evaluations(store, "scores"))
    return max((sum(name.startswith("margin_") for name in schema.names) for schema in schemas), default=0)


READERS: dict[str, Callable[[StoreFolder, Names], Rows]] = {
    "pairs": _dataset_reader("pairs"),
    "ratings": _dataset_reader("ratings"),
    "columns": _columns,
    "token_counts": _token_counts,
    "roles": _roles,
    "runs": _run_rows,
    "history": _history,
    "sweep_settings": _sweep_settings,
    "scores": _scores,
    **{
        role: _evaluation_reader(role)
        for role in (*TABLES, *LATER_TABLES, "budget_curve", "adaptation", "regret", "regret_by_round")
    },
}
