"""A file that grew extends its part; anything else is another source."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from micropref.cache.datasets import open_dataset, read_table
from micropref.cache.errors import BadInput
from micropref.cache.store import StoreFolder
from micropref.pipeline.embedding.embed import embed
from micropref.pipeline.embedding.embed_report import EmbedReport
from micropref.pipeline.forwarding.options import EmbedOptions
from micropref.pipeline.sources.ingest import SourceOptions

ROWS = [{"prompt": f"Name river {at}.", "chosen": f"The Rhine {at}.", "rejected": "Wet."} for at in range(6)]
Run = Callable[..., EmbedReport]


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def run(store: StoreFolder, tiny_backbone: Callable[..., Path], said: list[str]) -> Run:
    options = EmbedOptions(backbone=str(tiny_backbone("llama")), dtype="float32")

    def run(*paths: Path, **sources: Any) -> EmbedReport:
        return embed(store, list(paths), "mine", SourceOptions(**sources), replace(options), announce=said.append)

    return run


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def parts(store: StoreFolder, split: str = "train") -> list[tuple[int, int]]:
    found = open_dataset(store, "mine").of_split(split)
    return [(part.record["ordinal"], part.files["pairs"].rows) for part in found]


def pair_ids(store: StoreFolder) -> list[str]:
    return [
        name for part in open_dataset(store, "mine").parts for name in read_table(part, "pairs", ["pair_id"])["pair_id"]
    ]


@pytest.mark.parametrize(("name", "write"), [("a.jsonl", lines), ("a.parquet", parquet)])
def test_a_file_grown_by_rows_extends_its_part(
    tmp_path: Path, store: StoreFolder, run: Run, said: list[str], name: str, write: Callable[..., Path]
) -> None:
    file = write(tmp_path / name, ROWS[:4])
    run(file)
    other = run(lines(tmp_path / "other.jsonl", [{"prompt": "p", "chosen": "c", "rejected": "r"}]))
    before = pair_ids(store)
    report = run(write(file, ROWS))
    assert parts(store) == [(1, 6), (2, 1)]
    assert pair_ids(store)[:4] == before[:4]
    assert report.texts_embedded == 6  # two prompts, each with two responses; the others were there
    assert report.repeated == 0
    assert other.pairs == 1
    assert f"extends {file}, split train, which had 4 rows: those rows are the first of it" in said
    again = run(file)
    assert (again.texts_embedded, parts(store)) == (0, [(1, 6), (2, 1)])


def test_a_file_whose_first_rows_changed_is_another_source(tmp_path: Path, store: StoreFolder, run: Run) -> None:
    file = lines(tmp_path / "a.jsonl", ROWS[:3])
    run(file)
    run(lines(file, [ROWS[1], ROWS[0], *ROWS[2:]]))
    assert parts(store) == [(1, 3), (2, 6)]


def test_a_limited_reading_is_extended_by_the_grown_file(tmp_path: Path, store: StoreFolder, run: Run) -> None:
    file = lines(tmp_path / "a.jsonl", ROWS[:4])
    run(file, limit=2)
    run(lines(file, ROWS))
    assert parts(store) == [(1, 6)]


def test_a_source_that_is_given_next_to_the_longer_one_stays(tmp_path: Path, store: StoreFolder, run: Run) -> None:
    short, longer = lines(tmp_path / "a.jsonl", ROWS[:4]), lines(tmp_path / "b.jsonl", ROWS)
    run(short)
    run(short, longer)
    assert parts(store) == [(1, 4), (2, 6)]


def test_both_splits_of_a_source_grow(tmp_path: Path, store: StoreFolder, run: Run) -> None:
    rows = [{**row, "prompt": f"prompt {at}"} for at in range(5) for row in ROWS]
    for at, one in enumerate(rows):
        one["prompt"] = f"prompt {at}"
    file = lines(tmp_path / "a.jsonl", rows[:20])
    first = run(file, split_by_prompt=0.5)
    second = run(lines(file, rows), split_by_prompt=0.5)
    assert set(first.splits) == set(second.splits) == {"train", "test"}
    assert [len(parts(store, split)) for split in ("train", "test")] == [1, 1]
    assert sum(second.splits.values()) == 30


def test_growth_under_another_option_is_refused(tmp_path: Path, run: Run) -> None:
    file = lines(tmp_path / "a.jsonl", ROWS[:4])
    run(file)
    with pytest.raises(BadInput, match="already in data set 'mine', split 'train', with another `format`"):
        run(lines(file, ROWS), shape="preference")


def test_a_folder_of_train_and_test_files_is_one_command(tmp_path: Path, store: StoreFolder, run: Run) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    lines(folder / "train.jsonl", ROWS[:4])
    lines(folder / "validation.jsonl", ROWS[4:])
    report = run(folder)
    assert report.splits == {"train": 4, "test": 2}
    assert run(folder).texts_embedded == 0
    with pytest.raises(BadInput, match="found splits of its own, which `split_by_prompt` would mix"):
        run(folder, split_by_prompt=0.5)
    extended = lines(folder / "train.jsonl", [*ROWS[:4], {"prompt": "p", "chosen": "c", "rejected": "r"}])
    assert extended.is_file()
    assert run(folder).splits == {"train": 5, "test": 2}
    assert (parts(store), parts(store, "test")) == ([(1, 5)], [(1, 2)])
