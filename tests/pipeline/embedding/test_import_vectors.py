"""Imported vectors: the same data set and figures as embedded ones, checked rows, safe files, plain words."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

import micropref
from micropref.cache.datasets import open_dataset
from micropref.cache.maintenance.gc import collect
from micropref.cache.maintenance.verify import verify
from micropref.cache.schemas import KEY_COLUMNS
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.context_keys import context_keys
from micropref.cache.vectors.features import Features
from micropref.cache.vectors.opening import only_features
from micropref.cli import app
from micropref.pipeline.embedding import import_vectors as stage
from tests.pipeline.embedding.test_crash import crash_everywhere

COLUMNS = ("prompt", "context", "chosen", "rejected")
WIDTH = 8


def vector_of(*text: str) -> np.ndarray:
    """Return a made-up vector that only the text decides."""
    seed = hashlib.sha256("\0".join(text).encode()).digest()
    return np.random.default_rng(list(seed)).normal(size=WIDTH).astype(np.float32)


def with_vectors(row: dict[str, Any]) -> dict[str, Any]:
    prompt = row["prompt"]
    made = {f"{side}_vector": vector_of(prompt, row[side]) for side in ("chosen", "rejected")}
    context = {"context_vector": vector_of("context", row["context"], prompt)} if row.get("context") else {}
    return {**row, "prompt_vector": vector_of(prompt), **made, **context}


def with_contexts_alone(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row without the vector of context and prompt together, and with that of the context by itself."""
    alone = vector_of("alone", row["context"]) if row.get("context") else None
    kept = {name: value for name, value in with_vectors(row).items() if name != "context_vector"}
    return {**kept, "context_only_vector": alone}


def write_parquet(path: Path, rows: list[dict[str, Any]], item: pa.DataType | None = None, **options: Any) -> Path:
    """Write rows; `item`: vectors as fixed-size lists of this type, else lists as Arrow infers them."""
    table = pa.Table.from_pylist(rows)
    for at, field in enumerate(table.schema):
        if item is not None and field.name.endswith("_vector"):
            table = table.set_column(at, field.name, table.column(at).cast(pa.list_(item)).cast(pa.list_(item, WIDTH)))
    pq.write_table(table, path, **options)
    return path


@pytest.fixture
def opened(tmp_path: Path) -> micropref.Store:
    return micropref.Store(tmp_path / "imported")


def stored_vectors(store: micropref.Store, name: str) -> pl.DataFrame:
    """Return each pair's texts and vectors as the store has them, in the columns that an import reads."""
    folder = StoreFolder(store.folder)
    dataset, features = open_dataset(folder, name), only_features(folder, None)
    texts = ["pair_id", "attribute", "user", *COLUMNS]
    frames = [dataset.linked_pairs(features.id, split, [*texts, *KEY_COLUMNS]) for split in dataset.splits()]
    pairs = pl.concat(frames)
    for column in COLUMNS:
        places = features.locate(pairs[f"{column}_key"])
        vectors = features.gather(np.maximum(places, 0)).tolist()
        found = [vector if place >= 0 else None for vector, place in zip(vectors, places, strict=True)]
        pairs = pairs.with_columns(pl.Series(f"{column}_vector", found, dtype=pl.List(pl.Float32)))
    keys = dict(context_keys(features).iter_rows())
    alone = [keys.get(context) for context in pairs["context"]]
    places = features.locate(pl.Series([key or b"" for key in alone], dtype=pl.Binary))
    vectors = features.gather(np.maximum(places, 0)).tolist()
    found = [vector if key else None for vector, key in zip(vectors, alone, strict=True)]
    return pairs.drop(KEY_COLUMNS).with_columns(context_only_vector=pl.Series(found, dtype=pl.List(pl.Float32)))


def train_and_evaluate(store: micropref.Store) -> list[Any]:
    fitted: dict[str, Any] = {"k": 2, "restarts": 2, "epochs": 4}
    runs = [store.train("mine", **fitted, router_input=reads).run for reads in ("auto", "context+prompt")]
    assert [store.run(run).record["settings"]["router_input"] for run in runs] == ["context", "context+prompt"]
    return [
        [store.run(run).record["validation_nll"] for run in runs],
        store.evaluate(runs[0]).mixture_accuracy["accuracy"].to_list(),
        store.run(runs[0]).table("head_accuracy")["accuracy"].to_list(),
    ]


def use_everywhere(store: micropref.Store) -> list[Any]:
    run = store.train("mine", k=2, restarts=2, epochs=4).run
    routed = store.route(run, budget=[2, 4])
    swept = store.sweep("mine", k=[1, 2], lam=0.1, seeds=1, epochs=2)
    compared = store.compare("mine", methods=["single"], seeds=1, shots=2, budget=2)
    return [
        store.run(routed.run).table("budget_curve")["accuracy"].to_list(),
        store.adapt(run, "attribute", shots=[1, 2]).adaptation["nll"].to_list(),
        store.run(swept.run).record["validation_nll"],
        [unit.single_nll for unit in store.diagnose("mine", k=2, restarts=1).units],
        [dataclasses.asdict(row) | {"seconds": None} for row in compared.rows],
    ]


@pytest.mark.parametrize("figures", [train_and_evaluate, pytest.param(use_everywhere, marks=pytest.mark.slow)])
def test_figures_are_those_of_the_embedded_data_set(
    tmp_path: Path,
    opened: micropref.Store,
    tiny_backbone: Callable[..., Path],
    rows: list[dict[str, Any]],
    figures: Callable[[micropref.Store], list[Any]],
) -> None:
    rows = [{**row, "context": None} if at % 10 == 9 else row for at, row in enumerate(rows)]
    embedded = micropref.Store(tmp_path / "embedded")
    embedded.embed(rows, "mine", backbone=tiny_backbone("bert"), split_by_prompt=0.3, device="cpu", dtype="float32")
    exported = stored_vectors(embedded, "mine").drop("pair_id").write_parquet
    exported(tmp_path / "vectors.parquet")
    report = opened.import_vectors(tmp_path / "vectors.parquet", "mine", backbone_name="tiny bert", split_by_prompt=0.3)
    assert (report.pairs, report.texts, report.texts_imported) == (120, report.texts_imported, report.texts)
    assert report.delta_storage_error == 0.0
    pairs = "SELECT * FROM pairs ORDER BY split, pair_id"
    assert opened.sql(pairs).equals(embedded.sql(pairs))
    # float32 vectors and pairs in the same order: every bit is the same
    assert figures(opened) == figures(embedded)
    assert verify(StoreFolder(opened.folder)).problems == []
    assert collect(StoreFolder(opened.folder), min_age_s=0).vectors == 0
    listed = CliRunner().invoke(app, ["ls", "--json", "--store", str(opened.folder)])
    (features,) = json.loads(listed.stdout)["features"]
    assert (features["backbone"], features["imported"], features["max_length"]) == ("tiny bert", True, None)
    counts = opened.sql("SELECT count(*) AS n, count(prompt_tokens) AS counted FROM token_counts")
    assert counts.to_dicts() == [{"n": 120, "counted": 0}]
    roles = opened.sql("SELECT DISTINCT role FROM embeddings ORDER BY role")["role"].to_list()
    assert roles == ["context", "context_only", "prompt", "response"]


@pytest.mark.parametrize(
    ("item", "store_dtype", "stored"),
    [
        (pa.float16(), "auto", "float16"),
        (pa.float32(), "auto", "float32"),
        (pa.float64(), "auto", "float32"),
        (None, "float16", "float16"),
    ],
    ids=str,
)
def test_vectors_arrive_as_given(
    tmp_path: Path,
    opened: micropref.Store,
    rows: list[dict[str, Any]],
    item: pa.DataType | None,
    store_dtype: Any,
    stored: str,
) -> None:
    given = [with_vectors(row) for row in rows]
    path = write_parquet(tmp_path / "a.parquet", given, item, row_group_size=50)
    report = opened.import_vectors(path, "mine", backbone_name="b", store_dtype=store_dtype)
    assert (report.store_dtype, report.width) == (stored, WIDTH)
    exact = item != pa.float16() and stored == "float32"
    assert report.delta_storage_error == pytest.approx(0.0 if exact or item == pa.float16() else 2e-4, rel=1)
    found = stored_vectors(opened, "mine")
    for row, stored_row in zip(given, found.to_dicts(), strict=True):
        for column in COLUMNS:
            assert row[column] == stored_row[column]
            limit = 0 if exact else 2e-3
            np.testing.assert_allclose(stored_row[f"{column}_vector"], row[f"{column}_vector"], rtol=0, atol=limit)


def test_again_is_a_no_op_more_adds_and_another_record_is_another_id(
    tmp_path: Path, opened: micropref.Store, rows: list[dict[str, Any]]
) -> None:
    given = [with_vectors(row) for row in rows]
    first = write_parquet(tmp_path / "a.parquet", given[:60])
    second = write_parquet(tmp_path / "b.parquet", given[57:])  # the last prompt of the first file again

    def load(path: Path, **options: Any) -> Any:
        return opened.import_vectors(path, "mine", backbone_name="b", **options)

    once, again = load(first), load(first)
    assert (again.pairs, again.texts, again.texts_imported, again.users) == (60, once.texts, 0, once.users)
    added = load(second, settings={"pooling": "mean", "layers": 30})
    assert added.features != once.features
    more = load(second)
    assert more.features == once.features
    assert more.texts_reused > 0
    assert opened.sql("SELECT count(*) AS n FROM pairs")["n"].item() == 123
    command = ["import-vectors", str(second), "--name", "mine", "--backbone-name", "b", "--store", str(opened.folder)]
    done = CliRunner().invoke(app, [*command, "--settings", "layers=30", "--settings", "pooling=mean", "--json"])
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["features"], told["texts_imported"]) == (added.features, 0)
    assert verify(StoreFolder(opened.folder)).problems == []


def test_replace_starts_the_split_over(tmp_path: Path, opened: micropref.Store, rows: list[dict[str, Any]]) -> None:
    given = [with_vectors(row) for row in rows]
    opened.import_vectors(write_parquet(tmp_path / "a.parquet", given[:60]), "mine", backbone_name="b")
    path = write_parquet(tmp_path / "b.parquet", given[60:])
    opened.import_vectors(path, "mine", backbone_name="b", replace=True, limit=30)
    assert opened.sql("SELECT count(*) AS n FROM pairs")["n"].item() == 30
    assert collect(StoreFolder(opened.folder), min_age_s=0).vectors > 0
    assert verify(StoreFolder(opened.folder)).problems == []


@pytest.mark.parametrize("kind", ["dicts", "polars", "arrow", "pandas", "generator", "tensors"])
def test_rows_in_memory_are_the_same_as_their_file(
    tmp_path: Path, opened: micropref.Store, rows: list[dict[str, Any]], kind: str
) -> None:
    given = [with_vectors(row) for row in rows[:30]]

    def changed(change: Callable[[Any], Any]) -> list[dict[str, Any]]:
        return [{n: change(v) if n.endswith("_vector") else v for n, v in row.items()} for row in given]

    def source() -> Any:
        if kind == "polars":
            arrays = {name: pl.Array(pl.Float32, WIDTH) for name in given[0] if name.endswith("_vector")}
            return pl.DataFrame(changed(np.ndarray.tolist), schema_overrides=arrays)
        if kind == "arrow":
            return pa.Table.from_pylist(given)
        if kind == "pandas":
            return pytest.importorskip("pandas").DataFrame(given)
        if kind == "tensors":
            return changed(torch.from_numpy)
        return (row for row in given) if kind == "generator" else given

    report = opened.import_vectors(source(), "mine", backbone_name="b")
    again = opened.import_vectors(source(), "mine", backbone_name="b")
    from_file = micropref.Store(tmp_path / "other")
    from_file.import_vectors(write_parquet(tmp_path / "a.parquet", given), "mine", backbone_name="b")
    assert (report.pairs, again.texts_imported) == (30, 0)
    assert len(list((opened.folder / "sources").iterdir())) == 1
    assert stored_vectors(opened, "mine").equals(stored_vectors(from_file, "mine"))


def test_ids_stand_for_texts(tmp_path: Path, opened: micropref.Store, rows: list[dict[str, Any]]) -> None:
    given = []
    for row in map(with_vectors, rows):
        hidden = {f"{name}_id": row[name] for name in ("chosen", "rejected")}
        number = int(re.sub(r"\D", "", row["prompt"]))
        kept = {name: value for name, value in row.items() if name not in ("prompt", "chosen", "rejected")}
        given.append({"prompt_id": number, **hidden, **kept})
    report = opened.import_vectors(write_parquet(tmp_path / "a.parquet", given), "mine", backbone_name="b")
    assert (report.pairs, report.texts) == (120, 40 + 80 + 80)  # prompts, two responses each, two contexts each
    assert opened.sql("SELECT prompt FROM pairs LIMIT 1")["prompt"].item() == "0"
    opened.train("mine", k=2, restarts=1, epochs=2)
    broken = [{**given[0], "chosen_id": None}, *given[1:]]
    with pytest.raises(micropref.BadInput, match=r":1: field 'chosen_id': found null; expected an id"):
        opened.import_vectors(write_parquet(tmp_path / "b.parquet", broken), "other", backbone_name="b")


def spoiled(column: str, value: Any, at: int = 2) -> Callable[[list[dict[str, Any]]], None]:
    def spoil(given: list[dict[str, Any]]) -> None:
        given[at][column] = value

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoiled("chosen_vector", None), "field 'chosen_vector': found null; expected a vector of 8 numbers"),
        (spoiled("prompt_vector", [1.0] * 7), "field 'prompt_vector': found 7 numbers; expected 8"),
        (spoiled("rejected_vector", [1.0, np.nan, *[0.0] * 6]), "'rejected_vector': found nan at place 2 of 8"),
        (spoiled("rejected_vector", [np.inf, *[0.0] * 7]), "'rejected_vector': found inf at place 1 of 8"),
        (spoiled("context_vector", None), "field 'context_vector': found null"),
        (spoiled("context", None), "field 'context_vector': found a vector; expected null, or a 'context'"),
        (
            spoiled("prompt_vector", vector_of("another")),
            "'prompt_vector': found another vector than .*a.parquet:1 has for the same text",
        ),
        (spoiled("prompt", None), "field 'prompt': found null"),
    ],
)
def test_a_bad_row_stops_with_its_place_or_is_set_aside(
    tmp_path: Path,
    opened: micropref.Store,
    rows: list[dict[str, Any]],
    spoil: Callable[[list[dict[str, Any]]], None],
    message: str,
) -> None:
    given = [with_vectors(row) for row in rows]
    spoil(given)
    path = write_parquet(tmp_path / "a.parquet", given)
    with pytest.raises(micropref.BadInput, match=rf"a\.parquet:3: .*{message}.*`on_bad` skip") as caught:
        opened.import_vectors(path, "mine", backbone_name="b")
    assert "\n" not in str(caught.value)
    assert not opened.folder.exists()
    report = opened.import_vectors(path, "mine", backbone_name="b", on_bad="skip")
    assert (report.pairs, report.dropped, report.rejected_rows) == (119, {"malformed": 1}, 1)
    (rejects,) = opened.folder.rglob("*.rejects.*")
    assert json.loads(rejects.read_text())["line"] == 3
    assert verify(StoreFolder(opened.folder)).problems == []


def test_contexts_by_themselves(tmp_path: Path, opened: micropref.Store, rows: list[dict[str, Any]]) -> None:
    given = [with_contexts_alone(row if at % 3 else {**row, "context": None}) for at, row in enumerate(rows)]
    path = write_parquet(tmp_path / "a.parquet", given)
    report = opened.import_vectors(path, "mine", backbone_name="b", split_by_prompt=0.3)
    run = opened.train("mine", k=2, restarts=1, epochs=2).run
    assert opened.run(run).record["settings"]["router_input"] == "context"
    features = only_features(StoreFolder(opened.folder), None)
    for context, key in context_keys(features).iter_rows():
        (vector,) = features.gather(features.locate(pl.Series([key])))
        np.testing.assert_array_equal(vector, vector_of("alone", context))
    assert opened.import_vectors(path, "mine", backbone_name="b", split_by_prompt=0.3).texts_imported == 0
    assert report.texts_imported == report.texts
    with pytest.raises(micropref.BadInput, match="import with a column context_vector"):
        opened.train("mine", k=2, restarts=1, epochs=2, router_input="context+prompt")


def test_contexts_without_vectors_are_said(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    given = [{name: value for name, value in with_vectors(row).items() if name != "context_vector"} for row in rows]
    path = write_parquet(tmp_path / "a.parquet", given)
    command = ["import-vectors", str(path), "--name", "a", "--backbone-name", "b", "--store", str(tmp_path / "store")]
    result = CliRunner().invoke(app, command)
    assert "warning: 2 contexts have no vectors, so that no router reads them" in " ".join(result.stderr.split())


def test_a_context_by_itself_needs_its_vector(
    tmp_path: Path, opened: micropref.Store, rows: list[dict[str, Any]]
) -> None:
    given = [with_contexts_alone(row) for row in rows[:6]]
    given[4]["context_only_vector"] = None
    with pytest.raises(micropref.BadInput, match=r":5: field 'context_only_vector': found null; expected a vector"):
        opened.import_vectors(write_parquet(tmp_path / "a.parquet", given), "mine", backbone_name="b")
    given[4] = {**with_contexts_alone(rows[4]), "context": None}
    with pytest.raises(micropref.BadInput, match=r":5: field 'context_only_vector': found a vector; expected null"):
        opened.import_vectors(write_parquet(tmp_path / "b.parquet", given), "mine", backbone_name="b")


def test_rounding_is_not_a_conflict(tmp_path: Path, opened: micropref.Store, rows: list[dict[str, Any]]) -> None:
    given = [with_vectors(row) for row in rows[:3]]
    given[1]["prompt_vector"] = given[1]["prompt_vector"].astype(np.float16).astype(np.float32)
    assert (given[0]["prompt_vector"] != given[1]["prompt_vector"]).any()
    report = opened.import_vectors(write_parquet(tmp_path / "a.parquet", given), "mine", backbone_name="b")
    assert report.pairs == 3
    np.testing.assert_array_equal(stored_vectors(opened, "mine")["prompt_vector"][0], given[0]["prompt_vector"])


def test_too_large_for_float16_is_named(tmp_path: Path, opened: micropref.Store, rows: list[dict[str, Any]]) -> None:
    given = [with_vectors(row) for row in rows[:3]]
    given[0]["chosen_vector"] = np.full(WIDTH, 70000.0, np.float32)
    path = write_parquet(tmp_path / "a.parquet", given)
    with pytest.raises(micropref.BadInput, match=r":1: .*'chosen_vector': found 70000.0.*float16 can hold"):
        opened.import_vectors(path, "mine", backbone_name="b", store_dtype="float16")


def test_a_stored_text_keeps_its_vector(tmp_path: Path, opened: micropref.Store, rows: list[dict[str, Any]]) -> None:
    given = [with_vectors(row) for row in rows[:6]]
    opened.import_vectors(write_parquet(tmp_path / "a.parquet", given), "mine", backbone_name="b")
    given[0]["chosen_vector"] = -given[0]["chosen_vector"]
    path = write_parquet(tmp_path / "b.parquet", given[:1])
    with pytest.raises(micropref.BadInput, match=r"b\.parquet:1: .*'chosen_vector': found another vector"):
        opened.import_vectors(path, "mine", backbone_name="b")
    assert opened.import_vectors(path, "mine", backbone_name="b", settings={"version": 2}).pairs == 1


def test_responses_with_one_vector_are_counted(
    tmp_path: Path, opened: micropref.Store, rows: list[dict[str, Any]]
) -> None:
    given = [with_vectors(row) for row in rows[:1]]
    given[0]["rejected_vector"] = given[0]["chosen_vector"]
    report = opened.import_vectors(write_parquet(tmp_path / "a.parquet", given), "mine", backbone_name="b")
    assert (report.indistinguishable, report.texts) == (1, 4)
    assert "pairs whose two responses have the same vector: 1" in repr(report)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda row: row.pop("prompt_vector"), [], "found no column 'prompt_vector' \\(there: prompt, chosen,"),
        (lambda row: row.update(prompt_vector=[1, 2]), [], "found list<.*int64>; expected FLOAT"),
        (lambda row: row.update(prompt_vector="[1, 2]"), [], "column 'prompt_vector': found string; expected FLOAT"),
        (lambda row: row.pop("rejected"), [], "found the columns"),
        (lambda row: row, ["--settings", "pooling"], "--settings is 'pooling': expected KEY=VALUE"),
        (lambda row: row, ["--settings", "a=1", "--settings", "a=2"], "twice"),
        (lambda row: row, ["--backbone-name", " "], "--backbone-name is empty: expected what made the vectors"),
        (lambda row: row, ["--split", "test", "--split-by-prompt", "0.1"], "exclude each other"),
        (
            lambda row: row.update(response_a="x", response_b="y", criteria_x="c", criteria_y="d", category_x="e",
                                   category_y="f"),
            [],
            "found reversals rows; expected one pair a row",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_imported_is_one_line(
    tmp_path: Path, rows: list[dict[str, Any]], change: Callable[[Any], Any], options: list[str], message: str
) -> None:
    given = [with_vectors(row) for row in rows[:3]]
    for row in given:
        change(row)
    path = write_parquet(tmp_path / "a.parquet", given)
    command = ["import-vectors", str(path), "--name", "mine", "--store", str(tmp_path / "store")]
    done = CliRunner().invoke(app, [*command, "--backbone-name", "b", *options])
    assert done.exit_code == 2, done.output
    assert re.search(message, done.stderr), done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "store").exists()


def test_files_of_a_folder_have_one_form(tmp_path: Path, opened: micropref.Store, rows: list[dict[str, Any]]) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    given = [with_vectors(row) for row in rows]
    write_parquet(folder / "a.parquet", given[:60])
    write_parquet(folder / "b.parquet", given[60:])
    assert opened.import_vectors(folder, "mine", backbone_name="b").pairs == 120
    shorter = [{n: v[:4] if n.endswith("_vector") else v for n, v in row.items()} for row in given[60:]]
    write_parquet(folder / "b.parquet", shorter)
    with pytest.raises(micropref.BadInput, match=r"b\.parquet: found vectors of 4 numbers; expected 8, as in"):
        opened.import_vectors(folder, "other", backbone_name="b")
    (folder / "b.parquet").unlink()
    (folder / "b.jsonl").write_text("{}\n")
    with pytest.raises(micropref.BadInput, match=r"b\.jsonl: found a file of another kind; expected \.parquet"):
        opened.import_vectors(folder, "other", backbone_name="b")
    (tmp_path / "cut.parquet").write_bytes((folder / "a.parquet").read_bytes()[:-50])
    with pytest.raises(micropref.BadInput, match=r"cut\.parquet: cannot be read as Parquet"):
        opened.import_vectors(tmp_path / "cut.parquet", "other", backbone_name="b")


def test_embedding_new_text_says_that_the_vectors_were_imported(
    tmp_path: Path,
    opened: micropref.Store,
    rows: list[dict[str, Any]],
    tiny_backbone: Callable[..., Path],
    write_rows: Callable[..., Path],
) -> None:
    path = write_parquet(tmp_path / "a.parquet", [with_vectors(row) for row in rows])
    features = opened.import_vectors(path, "mine", backbone_name="my 8b").features
    told: list[str] = []
    telling = micropref.Store(opened.folder, told.append)
    more = [{"prompt": f"New {at}?", "chosen": "Yes.", "rejected": "No."} for at in range(3)]
    telling.embed(write_rows(more), "mine", backbone=tiny_backbone("bert"), device="cpu")
    assert any(f"imported vectors, features {features} (made by 'my 8b')" in line for line in told)
    with pytest.raises(micropref.BadInput, match=r"imported \(made by 'my 8b'\).*import-vectors FILE --name mine"):
        opened.train("mine", features=features, k=2)
    opened.import_vectors(path, "own", backbone_name="my 8b")
    with pytest.raises(micropref.BadInput, match=r"imported \(made by 'my 8b'\) without these; use"):
        opened.train("own", k=2, reward_input="context")


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "SHARD_TEXTS", 8)


def import_file(store: StoreFolder, source: Path) -> None:
    stage.import_vectors(store, [source], "mine", stage.SourceOptions(), stage.ImportOptions("b"))


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("first", [0, pytest.param(5, marks=pytest.mark.slow)])
def test_a_fault_at_every_step_loses_nothing(tmp_path: Path, rows: list[dict[str, Any]], first: int) -> None:
    """Every tenth step, from the first or the sixth on."""
    source = write_parquet(tmp_path / "a.parquet", [with_vectors(row) for row in rows[:9]])
    steps = crash_everywhere(
        tmp_path, import_file, source, lambda at: [] if at % 10 != first else [(None, 28, 5)[at % 3]]
    )
    assert len(steps) >= 60


@pytest.mark.usefixtures("small_shards")
def test_a_stopped_import_goes_on(
    tmp_path: Path, opened: micropref.Store, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_parquet(tmp_path / "a.parquet", [with_vectors(row) for row in rows], row_group_size=7)
    write, written = Features.write_shard, []

    def stop_after_three(*given: Any) -> Any:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(write(*given))
        return written[-1]

    with monkeypatch.context() as patch:
        patch.setattr(Features, "write_shard", stop_after_three)
        with pytest.raises(KeyboardInterrupt):
            opened.import_vectors(path, "mine", backbone_name="b")
    assert verify(StoreFolder(opened.folder)).problems == []
    report = opened.import_vectors(path, "mine", backbone_name="b")
    assert report.texts_reused == sum(item.files["vectors"].rows for item in written)
    found = verify(StoreFolder(opened.folder))
    assert (found.problems, found.duplicate_vectors, found.vectors) == ([], 0, report.texts)


@pytest.mark.usefixtures("small_shards")
def test_importing_again_mends_a_damaged_shard(
    tmp_path: Path, opened: micropref.Store, rows: list[dict[str, Any]]
) -> None:
    path = write_parquet(tmp_path / "a.parquet", [with_vectors(row) for row in rows])
    opened.import_vectors(path, "mine", backbone_name="b")
    before = stored_vectors(opened, "mine")
    store = StoreFolder(opened.folder)
    shard = only_features(store, None).commits[1].path("vectors")
    shard.write_bytes(shard.read_bytes()[:-9] + b"rot of it")
    assert len(verify(store).problems) >= 1
    report = opened.import_vectors(path, "mine", backbone_name="b")
    assert 0 < report.texts_imported <= 8
    assert verify(store).problems == []
    assert stored_vectors(opened, "mine").equals(before)


def test_batches_stay_small(tmp_path: Path, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file in one row group, few rows are decoded at a time and few vectors wait for their shard."""
    from micropref.pipeline.embedding import vector_rows

    path = write_parquet(tmp_path / "a.parquet", [with_vectors(row) for row in rows])
    monkeypatch.setattr(vector_rows, "BATCH_BYTES", 4 * 8 * WIDTH * 5)
    sizes = [batch.num_rows for _, batch in vector_rows.batches(path, vector_rows.look_at([path]))]
    assert (sum(sizes), max(sizes)) == (120, 5)
    monkeypatch.setattr(stage, "SHARD_BYTES", 4 * WIDTH * 10)
    store = StoreFolder(tmp_path / "store")
    import_file(store, path)
    assert max(item.files["vectors"].rows for item in only_features(store, None).commits) <= 10
