"""Committed files: what exists, who wins a race, what is refused."""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from micropref.cache import commits
from micropref.cache.atomic import TEMP_NAME, write_bytes
from micropref.cache.commits import Commit, commit, read_commit, read_commits, write_file, write_table
from micropref.cache.errors import Failure
from micropref.cache.keys import canonical_json, sha256_hex


def write_one(folder: Path, stem: str, data: bytes, record: dict[str, Any] | None = None) -> Commit:
    stored = write_file(folder, stem, "data", "jsonl", lambda file: file.write(data) and 1)
    return commit(folder, stem, {"data": stored}, record or {})


def read_data(item: Commit) -> bytes:
    return item.checked_path("data").read_bytes()


def damage(path: Path, at: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))  # two writes may share one tick of the clock


def test_what_was_committed_is_read_back(tmp_path: Path) -> None:
    table = pa.table({"a": [1, 2, 3]})
    stored = write_table(tmp_path, "train-0001", "pairs", table)
    assert read_commits(tmp_path) == []  # a data file alone does not exist
    written = commit(tmp_path, "train-0001", {"pairs": stored}, {"é": [1, {"b": None}], "x": 0.1})
    assert read_commits(tmp_path) == [written]
    assert stored.rows == 3
    assert stored.digest.startswith(stored.name.split(".")[2])
    assert written.checked_path("pairs") == tmp_path / stored.name


def test_the_last_commit_of_a_stem_wins_and_readers_of_the_first_go_on(tmp_path: Path) -> None:
    first = write_one(tmp_path, "s", b"first")
    second = write_one(tmp_path, "s", b"second")
    assert [read_data(item) for item in read_commits(tmp_path)] == [b"second"]
    assert read_data(first) == b"first"
    first.remove()  # another writer's commit in its place stays
    assert read_commits(tmp_path) == [second]
    assert read_data(second) == b"second"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([second.files["data"].name, "s.json"])
    second.remove()
    second.remove()
    assert list(tmp_path.iterdir()) == []


def test_writers_that_race_on_one_stem_leave_one_whole_commit(tmp_path: Path) -> None:
    start = threading.Barrier(4)

    def work(data: bytes) -> None:
        start.wait()
        for _ in range(8):
            write_one(tmp_path, "s", data, {"by": data.decode()})
            (item,) = read_commits(tmp_path)
            assert read_data(item).decode() == item.record["by"]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, [str(number).encode() * 1000 for number in range(4)]))
    assert not [path for path in tmp_path.iterdir() if TEMP_NAME.fullmatch(path.name)]


def test_foreign_names_are_passed_over(tmp_path: Path) -> None:
    written = write_one(tmp_path, "s", b"data")
    for name in (".hidden.json", "a b.json", "-x.json", "s.json\n", "ü.json", "notes.txt", f"{'x' * 130}.json"):
        (tmp_path / name).write_text("not ours")
    (tmp_path / "folder.json").mkdir()
    assert read_commits(tmp_path) == [written]
    assert read_commits(tmp_path / "none") == []


def test_links_are_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    target = write_one(outside, "s", b"data")
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / "s.json").symlink_to(target.commit_path)
    assert read_commits(folder) == []
    written = write_one(folder, "t", b"data")
    path = folder / written.files["data"].name
    path.unlink()
    path.symlink_to(outside / target.files["data"].name)
    with pytest.raises(Failure, match="not a file of its own"):
        written.path("data")


@pytest.mark.parametrize(
    "name", ["../s.data.0123456789ab.jsonl", "/etc/passwd", "..", "", "s.data.0123456789ab.jsonl\n", "a/b", "x.json"]
)
def test_a_commit_names_files_of_its_folder_alone(tmp_path: Path, name: str) -> None:
    written = write_one(tmp_path, "s", b"data")
    commit(tmp_path, "s", {"data": replace(written.files["data"], name=name)}, {})
    with pytest.raises(Failure, match=r"s\.json: names a file outside its folder"):
        read_commits(tmp_path)


def test_another_layout_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commits, "LAYOUT", 2)
    write_one(tmp_path, "s", b"data")
    monkeypatch.undo()
    with pytest.raises(Failure, match="layout 2, this version reads 1; use the version that wrote it"):
        read_commits(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"layout":1}',
        '{"files":{},"layout":1,"record":{}}',
        '{"layout":1,"x":NaN}',
        "\ud800",
    ],
)
def test_damaged_commits_are_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.json").write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(
        Failure, match=r"s\.json: the commit file (is damaged|was changed); embed, train or evaluate again"
    ) as caught:
        read_commits(tmp_path)
    assert "\n" not in str(caught.value)


def test_every_changed_bit_of_a_commit_is_noticed(tmp_path: Path) -> None:
    written = write_one(tmp_path, "s", b"data", {"rows": 12, "name": "x"})
    path = written.commit_path
    data = path.read_bytes()
    for bit in range(len(data) * 8):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(Failure):
            read_commit(path)
    path.write_bytes(data)
    assert read_commit(path) == written


def test_damaged_data_is_found_before_it_is_used(tmp_path: Path) -> None:
    written = write_one(tmp_path, "s", b"some data")
    path = tmp_path / written.files["data"].name
    assert written.damage("data", digest=True) is None
    damage(path)
    assert written.damage("data", digest=False) is None
    assert "its content changed after it was committed" in str(written.damage("data", digest=True))
    with pytest.raises(Failure, match="run `micropref verify`"):
        written.checked_path("data")
    path.write_bytes(b"some")
    assert "4 bytes, 9 were committed" in str(written.damage("data", digest=False))
    path.unlink()
    assert "the file is missing" in str(written.damage("data", digest=False))


def test_the_digest_is_of_the_commit_as_json(tmp_path: Path) -> None:
    written = write_one(tmp_path, "s", b"data", {"n": 1})
    value = json.loads(written.commit_path.read_bytes())
    digest = value.pop("digest")
    assert digest == sha256_hex(canonical_json(value))


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def write(file: Any) -> int:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_file(tmp_path, "s", "data", "jsonl", write)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_way_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "s.json").mkdir()
    (tmp_path / "s.json" / "x").write_text("")
    with pytest.raises(Failure, match="cannot write") as caught:
        write_bytes(tmp_path / "s.json", b"data")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["s.json"]
    with pytest.raises(Failure, match="cannot write"):
        write_bytes(tmp_path / "s.json" / "x" / "y", b"data")
