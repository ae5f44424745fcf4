"""Runs and vectors pushed to folders and to the hub, and pulled from there."""

from __future__ import annotations

import getpass
import json
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

import micropref
from micropref.cache.datasets import open_dataset, read_table
from micropref.cache.errors import BadInput, Failure
from micropref.cache.maintenance.verify import verify
from micropref.cache.runs.records import open_run
from micropref.pipeline.evaluation.stored_features import feature_differences
from micropref.pipeline.sharing import install, places
from tests.conftest import preference_rows
from tests.support.hub import Hub, Repository

LORE, FEATURES, LIST = "lore-d45ecc72", "8a4b23c8baea", "micropref-share.json"


@pytest.fixture
def memory() -> Iterator[Any]:
    """Return fsspec's file system in memory, empty."""
    system = fsspec.filesystem("memory")
    system.rm("/", recursive=True) if system.ls("/") else None
    yield system
    system.store.clear()


def names(store: micropref.Store, kind: str) -> list[str]:
    return store._store.names(kind)


PEOPLE = {f"u{number}": f"person-{number}@example.org" for number in range(7)}


def private_rows() -> list[dict[str, Any]]:
    return [{**row, "user": PEOPLE[row["user"]]} for row in preference_rows(24, 2)]


def embedded(folder: Path, backbone: Path, **options: Any) -> tuple[micropref.Store, Any]:
    store = micropref.Store(folder, announce=lambda _: None)
    fixed = {"split_by_prompt": 0.3, "device": "cpu", "dtype": "float32", "backbone": str(backbone)}
    return store, store.embed(private_rows(), "mine", **{**fixed, **options})


def test_what_somebody_embedded_is_embedded_for_everybody(
    tiny_backbone: Callable[..., Path], tmp_path: Path, other: micropref.Store
) -> None:
    backbone = tiny_backbone("llama", chat=True)
    first, report = embedded(tmp_path / "store", backbone, responses="both")
    assert report.tokens_forwarded > 0
    url = (tmp_path / "shared").as_uri()
    pushed = first.push(f"features:{report.features}", url, license="cc0-1.0")
    assert pushed.named["vectors of data"] == ["mine"]
    pulled = other.pull(url)
    assert (pulled.vectors, pulled.datasets) == (report.texts, [])
    _, again = embedded(other.folder, backbone, responses="both")
    assert (again.tokens_forwarded, again.texts_embedded, again.features) == (0, 0, report.features)
    assert again.texts_reused == report.texts
    assert verify(other._store).problems == []
    settings: dict[str, Any] = {"k": 2, "restarts": 1, "epochs": 2}
    runs = [store.train("mine", **settings) for store in (first, other)]
    assert runs[0].record["heads_digest"] == runs[1].record["heads_digest"]


@pytest.mark.parametrize("with_texts", [False, True])
def test_nothing_private_leaves(
    with_texts: bool, tiny_backbone: Callable[..., Path], tmp_path: Path, other: micropref.Store
) -> None:
    folder = tmp_path / "store-of-ann"
    first, _ = embedded(folder, tiny_backbone("llama", chat=True))
    shared = tmp_path / "shared"
    feature_differences(open_dataset(first._store, "mine"), "train")  # what `eval` keeps next to the pairs
    first.push("features", str(shared), license="cc0-1.0", with_texts=with_texts)
    data = b"".join(path.read_bytes() for path in shared.rglob("*") if path.is_file())
    assert b"micropref pull ADDRESS" in data
    private = [
        platform.node(),
        str(tmp_path),
        f"/{getpass.getuser()}",
        str(Path.home()),
        "store-of-ann",
        *PEOPLE.values(),
    ]
    texts = [row[name] for row in private_rows() for name in ("prompt", "chosen", "rejected", "context")]
    for text in [*private, *([] if with_texts else texts)]:
        assert text.encode() not in data, text
    # Parquet may hold texts compressed: read as tables too.
    columns = {name for one in shared.rglob("*.parquet") for name in _columns(one)}
    assert "user" not in columns
    assert ("prompt" in columns) == with_texts
    assert "hedging" not in columns
    ids = {row for part in open_dataset(first._store, "mine").parts for row in read_table(part, "pairs")["pair_id"]}
    told = {text for one in shared.rglob("*.parquet") for text in _texts(one)}
    assert not told & {*PEOPLE.values(), *ids}


def _columns(path: Path) -> list[str]:
    import pyarrow.parquet as pq

    return list(pq.read_schema(path).names)


def _texts(path: Path) -> set[str]:
    import polars as pl

    frame = pl.read_parquet(path, glob=False)
    return {text for name, kind in frame.schema.items() if kind == pl.String for text in frame[name].drop_nulls()}


def test_texts_and_pairs_without_users(opened: micropref.Store, other: micropref.Store, memory: Any) -> None:
    report = opened.push("features", "memory://team/f", with_texts=True, license="cc0-1.0")
    assert set(report.named["attribute"]) == {"cold", "warm", "help", "style"}
    pulled = other.pull("memory://team/f")
    assert (pulled.datasets, pulled.vectors) == (["mine", "rated"], 302)
    assert verify(other._store).problems == []
    columns = ["split", "part", "prompt_id", "attribute", "context", "user", "prompt", "chosen", "rejected", "margin"]
    for name in ("mine", "rated"):
        ours, theirs = (open_dataset(store._store, name) for store in (opened, other))
        for split in ours.splits():
            found = [ours.linked_pairs(FEATURES, split, [*columns, "chosen_key", "prompt_tokens"])]
            found.append(theirs.linked_pairs(FEATURES, split, [*columns, "chosen_key", "prompt_tokens"]))
            assert found[1]["user"].null_count() == found[1].height
            assert found[0].drop("user").equals(found[1].drop("user"))
    ratings = [read_table(part, "ratings") for store in (opened, other) for part in
               open_dataset(store._store, "rated").of_split("train")]  # fmt: skip
    assert ratings[0].equals(ratings[1])
    ids = [{one for part in open_dataset(store._store, "mine").parts for one in read_table(part, "pairs")["pair_id"]}
           for store in (opened, other)]  # fmt: skip
    assert len(ids[0]) == len(ids[1])
    assert not ids[0] & ids[1]
    runs = [store.train("mine", k=2, restarts=1, epochs=2) for store in (opened, other)]
    assert runs[0].record["validation_nll"] == runs[1].record["validation_nll"]
    assert other.pull("memory://team/f").datasets == []
    with pytest.raises(BadInput, match="has one of that name with other pairs"):
        opened.pull("memory://team/f")


def test_a_plan_sends_nothing_and_names_all(opened: micropref.Store, memory: Any) -> None:
    said: list[str] = []
    before = sorted(opened.folder.rglob("*"))
    loud = micropref.Store(opened.folder, announce=said.append)
    report = loud.push("features", "memory://team/f", plan=True, with_texts=True)
    assert memory.find("/") == []
    assert sorted(opened.folder.rglob("*")) == before
    assert report.named["data"] == ["mine", "rated"]
    assert "leaves the store: data: 'mine'; 'rated'" in said
    assert report.digest is None  # pairs get ids by a key that is not there yet
    assert (report.sent_files, report.sent_bytes, report.private) == (0, 0, None)
    assert {name for one in report.files for name in one["columns"] if ".vectors." in one["name"]} == {
        "key",
        "embedding",
    }
    assert report.bytes == sum(one["bytes"] for one in report.files)
    assert "mine/train-0001.pairs" in repr(report)
    assert "user" not in {name for one in report.files for name in one["columns"]}


def test_a_licence_is_asked_for_where_others_read(opened: micropref.Store, memory: Any) -> None:
    line = rf"micropref push {LORE} memory://team/r --license NAME"
    with pytest.raises(BadInput, match=f"its data and backbone is not known.*{line}"):
        opened.push(LORE, "memory://team/r")
    assert memory.find("/") == []
    opened.push(LORE, "memory://team/r", license="cc-by-4.0")
    card = memory.cat_file("/team/r/README.md").decode()
    assert 'license: "cc-by-4.0"' in card
    assert "licence of backbone: not known" in card


def test_a_push_that_was_stopped_goes_on(
    opened: micropref.Store, other: micropref.Store, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    whole = places.FolderPlace._write

    def stopped(place: places.FolderPlace, name: str, source: Any) -> None:
        if len(written) == 3:
            raise OSError("connection lost")
        written.append(name)
        whole(place, name, source)

    monkeypatch.setattr(places.FolderPlace, "_write", stopped)
    with pytest.raises(Failure, match=r"memory://team/f: refused \(OSError: connection lost\); run the same again"):
        opened.push("features", "memory://team/f", license="mit")
    with pytest.raises(BadInput, match="nothing was pushed there, or not to the end"):
        other.pull("memory://team/f")
    monkeypatch.setattr(places.FolderPlace, "_write", whole)
    half = next(name for name in memory.find("/") if ".vectors." in name)
    memory.pipe_file(half, memory.cat_file(half)[:-5])  # what a file system that is not atomic leaves
    report = opened.push("features", "memory://team/f", license="mit")
    assert report.sent_files == len(report.files) - 2
    assert opened.push("features", "memory://team/f", license="mit").sent_files == 0
    assert other.pull("memory://team/f").vectors == 302
    with pytest.raises(BadInput, match="holds features 8a4b23c8baea already"):
        opened.push(LORE, "memory://team/f", license="mit")


def test_a_pull_that_was_stopped_goes_on(
    opened: micropref.Store, other: micropref.Store, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened.push("features", "memory://team/f", license="mit", with_texts=True)
    whole, read = install.read_table, 0
    for stop in range(1, 13):
        read = 0

        def stopped(*arguments: Any, stop: int = stop) -> Any:
            nonlocal read
            read += 1
            if read == stop:
                raise Failure("connection lost")
            return whole(*arguments)

        monkeypatch.setattr(install, "read_table", stopped)
        try:
            other.pull("memory://team/f")
        except Failure:
            assert verify(other._store).problems == []
            if stop <= 2:
                assert names(other, "features") == []
    monkeypatch.setattr(install, "read_table", whole)
    other.pull("memory://team/f")
    assert names(other, "datasets") == ["mine", "rated"]


@pytest.mark.parametrize("what", ["vectors", "settings", "about", "list"])
def test_what_was_changed_there_is_refused(
    what: str, opened: micropref.Store, other: micropref.Store, memory: Any
) -> None:
    opened.push("features", "memory://team/f", license="mit")
    name = f"/team/f/{LIST}" if what == "list" else next(one for one in memory.find("/") if f".{what}." in one)
    data = memory.cat_file(name)
    memory.pipe_file(name, data[:40] + bytes([data[40] ^ 1]) + data[41:])
    with pytest.raises(BadInput, match=r"damaged|changed"):
        other.pull("memory://team/f")
    assert names(other, "features") == []
    memory.rm(name)
    with pytest.raises(BadInput, match=r"not to the end|is missing"):
        other.pull("memory://team/f")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nosuch://ann:secret@bucket/f", r"nosuch://bucket/f: cannot be opened"),
        ("hf://one", "expected hf://owner/name"),
        ("hf://models/ann/f", "leave the type out"),
        ("ann/f@main", "leave @main out"),
    ],
)
def test_addresses_that_are_none(url: str, said: str, opened: micropref.Store) -> None:
    with pytest.raises(BadInput, match=said) as error:
        opened.push("features", url, license="mit")
    assert "secret" not in str(error.value)


def test_on_the_hub_repositories_are_private_and_revisions_pinned(
    opened: micropref.Store, other: micropref.Store, local_hub: Hub
) -> None:
    report = opened.push(LORE, "ann/lore")  # nobody else reads it: no licence is asked for
    repository = local_hub.repositories["model", "ann/lore"]
    assert repository.private
    assert report.private
    assert report.revision == repository.commits[-1][0]
    assert set(repository.commits[-1][1]) == {
        ".gitattributes",
        "README.md",
        LIST,
        *(one["name"] for one in report.files),
    }
    assert opened.push(LORE, "hf://ann/lore").sent_files == 0
    second = opened.push(LORE, "ann/lore", license="mit", with_people=True)
    assert second.sent_files == 2
    assert len(repository.commits) == 3
    pulled = other.pull("ann/lore", revision=report.revision)
    assert (pulled.revision, pulled.people) == (report.revision, 0)
    assert (open_run(other._store, LORE).origin() or {})["revision"] == report.revision
    with pytest.raises(BadInput, match="has a run of that id with other weights"):
        other.pull("ann/lore")
    with pytest.raises(BadInput, match="the hub has nothing of that name"):
        other.pull("ann/nothing")
    with pytest.raises(BadInput, match="the hub has nothing of that name at revision"):
        other.pull("ann/lore@" + "0" * 40)


def test_on_the_hub_public_is_asked_for(opened: micropref.Store, other: micropref.Store, local_hub: Hub) -> None:
    with pytest.raises(BadInput, match="--public --license NAME"):
        opened.push("features", "ann/vectors", public=True)
    assert local_hub.asked == []
    report = opened.push("features", "ann/vectors", public=True, license="mit")
    repository = local_hub.repositories["dataset", "ann/vectors"]
    assert (repository.private, report.private) == (False, False)
    assert other.pull("ann/vectors").vectors == other.pull("hf://datasets/ann/vectors").vectors + 302
    with pytest.raises(BadInput, match="is there already and public"):
        opened.push("features", "ann/vectors", license="mit")
    repository.add({"README.md": b"# My own words"})
    opened.push("features", "ann/vectors", public=True, license="cc0-1.0")
    assert repository.commits[-1][1]["README.md"] == b"# My own words"
    local_hub.repositories["model", "ann/lore"] = Repository(True, [("0" * 40, {})])
    local_hub.refuse_commits = True
    with pytest.raises(BadInput, match="is there already and private"):
        opened.push(LORE, "ann/lore", public=True, license="mit")
    with pytest.raises(Failure, match="the hub refused"):
        opened.push(LORE, "ann/lore")


def test_a_folder_by_its_path(opened: micropref.Store, other: micropref.Store, tmp_path: Path) -> None:
    opened.push(LORE, str(tmp_path / "team" / "lore"), license="mit")
    files = [path for path in (tmp_path / "team").rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix == ".part"]
    assert json.loads((tmp_path / "team" / "lore" / LIST).read_text())["id"] == LORE
    assert other.pull(str(tmp_path / "team" / "lore")).runs == [LORE]
    again = other.push(LORE, str(tmp_path / "relay"))  # its licence is not known here, but was told
    assert again.sent_files == 4
