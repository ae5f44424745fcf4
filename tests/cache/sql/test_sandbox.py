"""Hostile queries: nothing outside the views is read, nothing anywhere is written, and every query ends."""

from __future__ import annotations

import os
import time
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from micropref.cache.commits import commit, write_table
from micropref.cache.errors import BadInput, Failure, MicroprefError
from micropref.cache.keys import digest_file
from micropref.cache.schemas import PAIR_SCHEMA
from micropref.cache.sql.given import register_tables
from micropref.cache.sql.parse import read_query
from micropref.cache.sql.query import run_query
from micropref.cache.sql.sandbox import SqlLimits, open_sandbox
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.opening import planned_features

SECRET = "the-secret-of-another-folder"
LIMITS = SqlLimits(memory_mb=256, seconds=20, threads=2)

# {secret}: a CSV file outside the store; {link}: a link to it inside; {shard}: a committed file; {new}: a new path.
WRITES = [
    "COPY (SELECT 1) TO '{new}'",
    "COPY (SELECT 1) TO '{shard}' (FORMAT parquet)",
    "COPY pairs TO '{new}' (FORMAT csv)",
    "COPY pairs FROM '{secret}'",
    "WITH a AS (COPY (SELECT 1) TO '{new}') SELECT * FROM a",
    "WITH a AS (COPY (SELECT 1) TO '{shard}' (FORMAT parquet)) SELECT * FROM a",
    "WITH a AS (INSERT INTO stored.pairs (data) VALUES ('x') RETURNING *) SELECT * FROM a",
    "WITH a AS (DELETE FROM stored.pairs RETURNING *) SELECT * FROM a",
    "WITH a AS (UPDATE stored.pairs SET data = 'x' RETURNING *) SELECT * FROM a",
    "SELECT * FROM (WITH a AS (COPY (SELECT 1) TO '{new}') SELECT * FROM a)",
    "EXPORT DATABASE '{new}'",
    "IMPORT DATABASE '{new}'",
    "ATTACH '{new}' AS other",
    "ATTACH '{secret}' (TYPE sqlite)",
    "DETACH memory",
    "USE memory",
    "CREATE TABLE t AS SELECT 1",
    "CREATE OR REPLACE VIEW pairs AS SELECT 1",
    "CREATE MACRO f() AS TABLE SELECT * FROM read_text('{secret}')",
    "CREATE SECRET (TYPE s3)",
    "INSERT INTO stored.pairs (data) VALUES ('x')",
    "DELETE FROM stored.pairs",
    "UPDATE stored.pairs SET data = 'x'",
    "TRUNCATE stored.pairs",
    "DROP VIEW pairs",
    "ALTER VIEW pairs RENAME TO p",
    "MERGE INTO stored.pairs USING pairs ON true WHEN MATCHED THEN DELETE",
    "SELECT * FROM enable_logging(storage = 'file', storage_path = '{new}')",
    "CALL enable_logging(storage = 'file', storage_path = '{new}')",
    "SELECT * FROM enable_profiling(format = 'json', save_location = '{new}')",
    "CHECKPOINT",
    "VACUUM",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{new}'",
    "SELECT 1; COPY (SELECT 1) TO '{new}'",
    "SELECT 1 /* ; */; COPY (SELECT 1) TO '{new}' --",
    "PREPARE p AS COPY (SELECT 1) TO '{new}'",
    "EXECUTE p",
    "BEGIN TRANSACTION",
]
READS = [
    "SELECT * FROM read_csv('{secret}')",
    "SELECT * FROM READ_CSV_AUTO('{secret}')",
    "SELECT * FROM \"read_csv\"('{secret}')",
    "SELECT * FROM main.read_csv('{secret}')",
    "SELECT * FROM read_csv('{link}')",
    "SELECT * FROM read_text('{secret}')",
    "SELECT * FROM read_text('{link}')",
    "SELECT * FROM read_blob('{secret}')",
    "SELECT * FROM read_json('{secret}')",
    "SELECT * FROM read_ndjson_objects('{secret}')",
    "SELECT * FROM read_parquet('{shard}')",
    "SELECT * FROM parquet_scan('{shard}')",
    "SELECT * FROM parquet_metadata('{shard}')",
    "SELECT * FROM parquet_kv_metadata('{shard}')",
    "SELECT * FROM read_duckdb('{secret}')",
    "SELECT * FROM sniff_csv('{secret}')",
    "SELECT * FROM glob('{folder}/*')",
    "SELECT * FROM '{secret}'",
    "SELECT * FROM '{link}'",
    'SELECT * FROM "{shard}"',
    "FROM '{shard}'",
    "DESCRIBE '{secret}'",
    "DESCRIBE FROM read_csv('{secret}')",
    "SUMMARIZE '{secret}'",
    "SUMMARIZE SELECT * FROM read_csv('{secret}')",
    "PIVOT '{secret}' ON a IN (1) USING count(*)",
    "UNPIVOT '{secret}' ON a",
    "SELECT (SELECT content FROM read_text('{secret}'))",
    "SELECT 1 WHERE EXISTS (FROM read_text('{secret}'))",
    "SELECT list(content) FROM (VALUES (1)) AS t(i), LATERAL (FROM read_text('{secret}'))",
    "WITH t AS (FROM read_text('{secret}')) SELECT * FROM t",
    "WITH RECURSIVE t AS (FROM read_text('{secret}') UNION ALL FROM t) SELECT * FROM t",
    "SELECT 1 UNION ALL SELECT content FROM read_text('{secret}')",
    "SELECT * FROM query('SELECT * FROM read_text(''{secret}'')')",
    "SELECT * FROM query_table('{secret}')",
    "SELECT * FROM query_table(['{secret}'])",
    "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('FROM read_text(''{secret}'')'))",
    "PRAGMA json_execute_serialized_sql('x')",
    "SELECT * FROM 'https://example.com/a.parquet'",
    "SELECT * FROM 's3://bucket/a.parquet'",
    "SELECT * FROM read_csv('/dev/stdin')",
    "SELECT * FROM read_text('/proc/self/environ')",
    "SELECT * FROM arrow_scan(1, 2, 3)",
    "SELECT * FROM pandas_scan(4096)",
    "SELECT * FROM table_of_this_process",
    "SELECT getenv('MICROPREF_SECRET')",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM which_secret('s3://x', 's3')",
    "SELECT * FROM duckdb_settings()",
    "INSTALL httpfs",
    "LOAD '{secret}'",
    "FORCE INSTALL httpfs FROM community",
    "SET enable_external_access = true",
    "SET lock_configuration = false",
    "RESET disabled_filesystems",
    "SET VARIABLE a = 1",
    "PRAGMA enable_profiling",
    "PRAGMA database_list",
    "CALL pragma_version()",
    "CALL read_text('{secret}')",
]
WITH_TABLE = [
    "COPY mine TO '{new}'",
    "COPY (FROM mine) TO '{shard}' (FORMAT parquet)",
    "COPY mine FROM '{secret}'",
    "INSERT INTO mine VALUES ('x')",
    "DROP VIEW mine",
    "CREATE OR REPLACE TEMP VIEW mine AS FROM read_text('{secret}')",
    "WITH a AS (DELETE FROM mine RETURNING *) FROM a",
    "SELECT * FROM mine, read_text(mine.path)",
    "SELECT * FROM mine, LATERAL (FROM read_text(path))",
    "SELECT * FROM mine, LATERAL (FROM query_table(path))",
    "SELECT * FROM read_text((SELECT first(path) FROM mine))",
    "SELECT * FROM query_table((SELECT path FROM mine LIMIT 1))",
    "SELECT * FROM query((SELECT 'FROM ' || path FROM mine LIMIT 1))",
    "SELECT (FROM read_text(path)) FROM mine",
    "SELECT * FROM glob((SELECT path FROM mine))",
    "SELECT * FROM arrow_scan((SELECT 1 FROM mine), 2, 3)",
    "SELECT * FROM mine.read_text('{secret}')",
]
"""Attacks over a table of the user's own, whose rows and column names are hostile too."""
HOSTILE = pa.table(
    {"path": ["{secret}", "'); COPY (SELECT 1) TO '{new}'; --"], "'; FROM read_text('{secret}') --": [1, 2]}
)
table_of_this_process = pa.table({"a": [SECRET]})


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("store")
    outside = tmp_path_factory.mktemp("outside")
    secret = outside / "secret.csv"
    secret.write_text(f"a\n{SECRET}\n", encoding="utf-8")
    features = planned_features(StoreFolder(root), {"width": 2, "store_dtype": "float32"})
    features.create({}, None)
    shard = features.write_shard([b"k" * 16], np.ones((1, 2), np.float32), {})
    folder = root / "datasets" / "tiny" / "pairs"
    pair = dict.fromkeys(PAIR_SCHEMA.names, "x") | {"margin": None}
    file = write_table(folder, "train-0000-aa", "pairs", pa.Table.from_pylist([pair], PAIR_SCHEMA))
    commit(folder, "train-0000-aa", {"pairs": file}, {"ordinal": 0})
    link = root / "link.csv"
    link.symlink_to(secret)
    path = shard.path("vectors")
    return {"store": root, "folder": outside, "secret": secret, "link": link, "shard": path, "new": outside / "new"}


def snapshot(places: dict[str, Path]) -> dict[Path, str]:
    """Return every file of the store and of the folder next to it, with its digest."""
    folders = (places["store"], places["folder"])
    return {path: digest_file(path) for folder in folders for path in folder.rglob("*") if path.is_file()}


def refused_by_reading(query: str) -> bool:
    with duckdb.connect() as connection:
        try:
            read_query(connection, query)
        except (BadInput, duckdb.Error):
            return True
    return False


def outcome_behind_the_fence(query: str) -> str:
    """Run a query that skipped the first check in a locked connection, and return all it says."""
    with open_sandbox(LIMITS) as connection:
        register_tables(connection, {"mine": HOSTILE})
        connection.execute("CREATE SCHEMA stored; CREATE TABLE stored.pairs (data VARCHAR)")
        connection.execute("CREATE VIEW pairs AS FROM stored.pairs")
        try:
            return str([connection.execute(part).fetchall() for part in connection.extract_statements(query)])
        except duckdb.Error as error:
            return str(error).split("\n\nLINE ")[0]


def filled(places: dict[str, Path]) -> dict[str, pa.Table]:
    """Return the hostile table with the paths of files that are there."""
    paths = [text.format(**places) for text in HOSTILE.column("path").to_pylist()]
    table = HOSTILE.set_column(0, "path", pa.array(paths))
    return {"mine": table.rename_columns([name.format(**places) for name in table.column_names])}


@pytest.mark.parametrize("query", WRITES)
def test_nothing_is_written(query: str, places: dict[str, Path]) -> None:
    text = query.format(**places)
    before = snapshot(places)
    assert refused_by_reading(text)
    outcome_behind_the_fence(text)
    assert snapshot(places) == before


# These would follow a made-up address: only that they are refused is tried here.
POINTERS = ("arrow_scan", "pandas_scan")


@pytest.mark.parametrize("query", READS)
def test_nothing_outside_is_read(query: str, places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICROPREF_SECRET", SECRET)
    text = query.format(**places)
    refused = refused_by_reading(text)
    if any(name in query for name in POINTERS):
        assert refused
        return
    said = outcome_behind_the_fence(text)
    assert SECRET not in said
    assert places["secret"].name not in said.replace(str(places["secret"]), "").replace(str(places["link"]), "")
    assert refused or "does not exist" in said or "disabled by configuration" in said


@pytest.mark.parametrize(
    "query", [WRITES[0], WRITES[5], WRITES[33], READS[0], READS[17], READS[18], READS[33], READS[44]]
)
def test_the_command_refuses(query: str, places: dict[str, Path]) -> None:
    before = snapshot(places)
    with pytest.raises(BadInput) as caught:
        run_query(places["store"], query.format(**places), LIMITS)
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)
    assert snapshot(places) == before


@pytest.mark.slow
@pytest.mark.parametrize("query", [*WRITES, *READS])
def test_the_command_refuses_every_attack(query: str, places: dict[str, Path]) -> None:
    test_the_command_refuses(query, places)


def refused_with_a_table(query: str, places: dict[str, Path]) -> None:
    before = snapshot(places)
    with pytest.raises(MicroprefError) as caught:
        run_query(places["store"], query.format(**places), LIMITS, filled(places))
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)
    assert snapshot(places) == before


@pytest.mark.parametrize("query", WITH_TABLE)
def test_nothing_is_read_or_written_by_way_of_an_own_table(query: str, places: dict[str, Path]) -> None:
    text = query.format(**places)
    before = snapshot(places)
    assert refused_by_reading(text)
    if not any(name in query for name in POINTERS):
        assert SECRET not in outcome_behind_the_fence(text)
    assert snapshot(places) == before


@pytest.mark.slow
@pytest.mark.parametrize("query", [*WRITES, *READS, *WITH_TABLE])
def test_the_command_refuses_every_attack_with_an_own_table(query: str, places: dict[str, Path]) -> None:
    refused_with_a_table(query, places)


def test_an_own_table_is_given_as_it_is_and_nothing_is_read_by_its_texts(places: dict[str, Path]) -> None:
    refused_with_a_table(WITH_TABLE[0], places)
    (mine,) = filled(places).values()
    before = snapshot(places)
    assert run_query(places["store"], "FROM mine", LIMITS, {"mine": mine}).to_pylist() == mine.to_pylist()
    assert snapshot(places) == before


@pytest.mark.fresh_process
def test_the_process_knows_nothing_of_the_users_environment(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", SECRET)
    monkeypatch.setenv("HOME", f"/{SECRET}")
    settings = ("http_proxy", "home_directory", "secret_directory", "extension_directories", "temp_directory")
    query = "SELECT " + ", ".join(f"current_setting('{name}')::VARCHAR" for name in settings)
    assert SECRET not in str(run_query(places["store"], query, LIMITS).to_pylist())


@pytest.mark.fresh_process
def test_a_folder_named_like_the_package_is_not_run(
    places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cache", "duckdb"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('taken')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert run_query(places["store"], "SELECT 1 AS one", LIMITS).to_pylist() == [{"one": 1}]


ENDLESS = [
    "WITH RECURSIVE t AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM t) SELECT count(*) FROM t",
    "SELECT sum(a.i * b.i) FROM range(10000000) a(i), range(10000000) b(i)",
    "SELECT sleep_ms(600000)",
]


@pytest.mark.fresh_process
@pytest.mark.parametrize("query", ENDLESS)
def test_an_endless_query_is_killed_at_the_deadline(query: str, places: dict[str, Path]) -> None:
    others, start = children(), time.monotonic()
    with pytest.raises(Failure, match=r"stopped after 1.5 s|needs more than its 256 MiB"):
        run_query(places["store"], query, SqlLimits(memory_mb=256, seconds=1.5, threads=2))
    assert time.monotonic() - start < 6
    assert children() <= others, "the query's process outlived the query"


BOMBS = [
    "SELECT list(i) FROM range(1000000000) t(i)",
    "SELECT string_agg(repeat('x', 1000000), '') FROM range(100000)",
    "SELECT repeat('x', 1000) || i FROM range(1000000000) t(i)",
    "SELECT list_resize([]::INT[], 2000000000)",
    "SELECT len(repeat(repeat('x', 1000000), 3000))",
    "SELECT i, count(*) FROM range(1000000000) t(i) GROUP BY i",
    "SELECT " + "(" * 100_000 + "1" + ")" * 100_000,
]


@pytest.mark.fresh_process
@pytest.mark.parametrize("query", BOMBS)
def test_memory_stays_bounded(query: str, places: dict[str, Path]) -> None:
    others, before = children(), os.times().children_user
    with pytest.raises(MicroprefError) as caught:
        run_query(places["store"], query, SqlLimits(memory_mb=128, seconds=20, threads=2))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert os.times().children_user - before < 40
    assert children() <= others


def children() -> set[str]:
    """Return the ids of this process's children, where the system lists them; other tests may have left helpers."""
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    return set(path.read_text().split()) if path.is_file() else set()
