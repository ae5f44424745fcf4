"""Folders: which files hold rows, of which split, and what the splits become."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from micropref.cache.errors import BadInput
from micropref.pipeline.sources.locations import Given, Located, locate
from micropref.pipeline.sources.reader import read_source


def row(word: str) -> dict[str, str]:
    return {"prompt": f"Name a {word}.", "chosen": f"A {word}.", "rejected": "No."}


def write(folder: Path, *names: str) -> Path:
    """Write a file of one row each, which names the file, in the kind that its name tells."""
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        table = pa.Table.from_pylist([row(name)])
        if file.suffix == ".parquet":
            pq.write_table(table, file)
        elif file.suffix == ".arrow":
            with pa.ipc.new_stream(file, table.schema) as stream:
                stream.write_table(table)
        else:
            file.write_text(json.dumps(row(name)) + "\n")
    return folder


def card(folder: Path, header: str) -> None:
    (folder / "README.md").write_text(f"---\n{header}\n---\n# data\n")


def split(one: Located) -> tuple[str | None, str | None, list[str]]:
    return one.read_split, one.split, [file.relative_to(one.path).as_posix() for file in one.files]


def saved(folder: Path, split: str | None) -> Path:
    write(folder, "data-00000-of-00001.arrow", "cache-1a2b.arrow")
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": split, "_fingerprint": "abc"}
    (folder / "state.json").write_text(json.dumps(state, indent=2))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {"prompt": {"dtype": "string"}}}, indent=2))
    return folder


def test_a_saved_data_set_is_read_without_its_metadata(tmp_path: Path) -> None:
    source = read_source(saved(tmp_path, "train"))
    assert [pair.chosen for pair in source.pairs] == ["A data-00000-of-00001.arrow."]
    assert [split(one) for one in locate(tmp_path)] == [("train", "train", ["data-00000-of-00001.arrow"])]


def test_a_saved_dict_of_data_sets_has_its_splits(tmp_path: Path) -> None:
    for name in ("train", "test"):
        saved(tmp_path / name, name)
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    file = "data-00000-of-00001.arrow"
    assert [split(one) for one in locate(tmp_path)] == [
        ("train", "train", [f"train/{file}"]),
        ("test", "test", [f"test/{file}"]),
    ]


def test_a_clone_is_read_without_its_metadata(tmp_path: Path) -> None:
    write(tmp_path, "data/train-00000-of-00001.parquet", ".git/train.jsonl")
    (tmp_path / "README.md").write_text("# data\n")
    (tmp_path / "dataset_infos.json").write_text('{\n "default": {}\n}')
    assert [split(one) for one in locate(tmp_path)] == [("train", "train", ["data/train-00000-of-00001.parquet"])]


CONFIGS = """configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
  - split: test
    path:
    - data/test-0.parquet
    - data/test-1.parquet
- config_name: other
  data_files: other/**/*.jsonl
- config_name: folder
  data_dir: folder"""


def test_the_readme_says_which_files_are_of_which_split(tmp_path: Path) -> None:
    write(tmp_path, *(f"data/{name}.parquet" for name in ("train-0", "train-1", "test-0", "test-1", "extra")))
    write(tmp_path, "other/a.jsonl", "other/b/c.jsonl", "folder/test.jsonl", "folder/dev.jsonl")
    card(tmp_path, CONFIGS)
    train, test = locate(tmp_path)
    assert split(train) == ("train", "train", ["data/train-0.parquet", "data/train-1.parquet"])
    assert split(test) == ("test", "test", ["data/test-0.parquet", "data/test-1.parquet"])
    assert "data/extra.parquet" in train.notes[-1]
    (other,) = locate(Given(tmp_path, config="other"))
    assert split(other) == ("train", "train", ["other/a.jsonl", "other/b/c.jsonl"])
    (only,) = locate(Given(tmp_path, config="folder"))
    assert split(only) == ("test", "test", ["folder/test.jsonl"])
    with pytest.raises(BadInput, match=r"found no config 'x' \(there: default, other, folder\)"):
        locate(Given(tmp_path, config="x"))


def test_a_readme_of_several_configs_without_a_default_asks(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", "b.jsonl")
    card(tmp_path, "configs:\n- config_name: a\n  data_files: a.jsonl\n- config_name: b\n  data_files: [b.jsonl]")
    with pytest.raises(BadInput, match=r"found several configs \(there: a, b\); choose one with `config`"):
        locate(tmp_path)
    card(tmp_path, "configs:\n- config_name: a\n  data_files: none/*\n  default: true\n- config_name: b")
    with pytest.raises(BadInput, match=r"found none of the files that its README names \(none/\*\)"):
        locate(tmp_path)
    card(tmp_path, "configs: [")
    with pytest.raises(BadInput, match="its header cannot be read"):
        locate(tmp_path)


@pytest.mark.parametrize(
    ("names", "options", "expected"),
    [
        (["train.jsonl", "test.jsonl"], {}, {"train": "train", "test": "test"}),
        (["train.jsonl", "validation.jsonl"], {}, {"train": "train", "validation": "test"}),
        (["train.jsonl", "dev.jsonl", "test.jsonl"], {}, {"train": "train", "test": "test"}),
        (["a/train/0.jsonl", "a/val/0.jsonl"], {}, {"train": "train", "validation": "test"}),
        (["a.jsonl", "b.jsonl"], {}, {None: None}),
        (["test.jsonl"], {}, {"test": "test"}),
        (["test.jsonl"], {"split": "extra"}, {"test": "extra"}),
        (["train.jsonl", "test.jsonl"], {"read_split": "test"}, {"test": "test"}),
        (["train.jsonl", "test.jsonl"], {"read_split": "test", "split": "train"}, {"test": "train"}),
        (["train.jsonl", "dev.jsonl", "test.jsonl"], {"read_split": "dev"}, {"validation": "test"}),
    ],
)
def test_what_splits_become(tmp_path: Path, names: list[str], options: Any, expected: dict[Any, Any]) -> None:
    found = locate(write(tmp_path, *names), **options)
    assert {one.read_split: one.split for one in found} == expected


def test_what_is_not_read_is_said(tmp_path: Path) -> None:
    train, _ = locate(write(tmp_path, "train.jsonl", "dev.jsonl", "test.jsonl", "extra.jsonl", "rows.tsv", "LICENSE"))
    assert [note.removeprefix(f"{tmp_path}: ") for note in train.notes] == [
        "not read: split validation; `read_split` reads one by itself",
        "not read: extra.jsonl, rows.tsv (of another kind, or of no split unlike the others)",
    ]
    first, *_ = locate(write(tmp_path / "b", "train.jsonl", "dev.jsonl"))
    assert first.notes == (f"{tmp_path / 'b'}: its split validation becomes test",)


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (
            ["train.jsonl", "test.jsonl"],
            {"split": "x"},
            "found the splits train, test; expected one where `split` is x",
        ),
        (["train.jsonl"], {"read_split": "test"}, r"found no split 'test' \(there: train\)"),
        (["a.jsonl"], {"read_split": "test"}, r"found no split 'test' \(there: none named\)"),
    ],
)
def test_splits_that_cannot_be_told(tmp_path: Path, names: list[str], options: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        locate(write(tmp_path, *names), **options)


def test_a_file_has_neither_splits_nor_configs(tmp_path: Path) -> None:
    file = write(tmp_path, "a.jsonl") / "a.jsonl"
    with pytest.raises(BadInput, match="which has no splits of its own"):
        locate(file, "train")
    with pytest.raises(BadInput, match="which has no configs"):
        locate(Given(file, config="x"))


def test_a_saved_folder_never_leads_out_of_itself(tmp_path: Path) -> None:
    folder = saved(tmp_path / "saved", "train")
    (folder / "state.json").write_text('{"_data_files": [{"filename": "../secret.arrow"}]}')
    with pytest.raises(BadInput, match="expected one inside the folder"):
        locate(folder)
    (folder / "state.json").write_text('{"_data_files": [{"filename": "gone.arrow"}]}')
    with pytest.raises(BadInput, match=r"no such file, which .*state\.json names"):
        locate(folder)


def test_a_folder_is_known_by_its_files_in_the_order_of_earlier_versions(tmp_path: Path) -> None:
    write(tmp_path, "a-b.jsonl", "a/b.jsonl")
    names = ["a/b.jsonl", "a-b.jsonl"]  # in the order of paths, which is not that of texts
    listing = [[name, hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()] for name in names]
    expected = hashlib.sha256(json.dumps(listing, separators=(",", ":")).encode()).hexdigest()
    assert locate(tmp_path)[0].digest() == expected


def test_links_that_lead_to_no_file_are_said(tmp_path: Path) -> None:
    write(tmp_path, "real/b.jsonl", "folder/a.jsonl")
    folder = tmp_path / "folder"
    (folder / "linked").symlink_to(tmp_path / "real")
    (folder / "loop").symlink_to(folder)
    (folder / "gone.jsonl").symlink_to("nowhere.jsonl")
    (folder / "round.jsonl").symlink_to("round.jsonl")
    (folder / "file.jsonl").symlink_to(tmp_path / "real" / "b.jsonl")
    (one,) = locate(folder)
    assert split(one) == (None, None, ["a.jsonl", "file.jsonl"])
    assert one.notes == (
        f"{folder}: not read: gone.jsonl (a link to no file), linked (a link to a folder), loop (a link to a folder), "
        "round.jsonl (a link to no file) (of another kind, or of no split unlike the others)",
    )
    for name in ("a.jsonl", "file.jsonl"):
        (folder / name).unlink()
    with pytest.raises(BadInput, match=r"found no file to read \(there: gone.jsonl \(a link to no file\), linked"):
        locate(folder)


def test_files_that_should_be_there_are_said(tmp_path: Path) -> None:
    write(tmp_path, "data/train-00000-of-00003.jsonl", "data/train-00002-of-00003.jsonl")
    assert locate(tmp_path)[0].notes == (
        f"{tmp_path}: not there: 1 of the 3 files train-*-of-00003.jsonl; the copy may not be whole",
    )
    write(tmp_path, "data/train-00001-of-00003.jsonl")
    assert locate(tmp_path)[0].notes == ()
    card(
        tmp_path, "configs:\n- config_name: a\n  data_files:\n    train: [data/train-*, x.jsonl]\n    test: data/test-*"
    )
    (train,) = locate(tmp_path)
    assert train.notes == (f"{tmp_path}: not there: x.jsonl, data/test-*; the copy may not be whole",)


def test_a_saved_selection_or_a_part_of_a_saved_folder_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "train", "train")
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(BadInput, match=r"test/state\.json: no such file; expected the whole folder"):
        locate(tmp_path)
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, "_indices_data_files": [{"filename": "indices.arrow"}]}))
    with pytest.raises(BadInput, match=r"kept in files of indices; .*flatten_indices"):
        locate(folder)


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"rows\xff.jsonl")
    try:
        odd.write_text(json.dumps(row("lake")))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    for given in (odd, tmp_path):
        with pytest.raises(BadInput, match=r"rows\\udcff.jsonl': found a file name that is no UTF-8") as raised:
            locate(given)
        assert str(raised.value).isascii()


def test_a_file_without_rows_is_said(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl")
    (tmp_path / "b.jsonl").write_text("\n")
    source = read_source(tmp_path)
    assert (len(source.pairs), source.noted) == (1, {"files without a row (b.jsonl)": 1})
