"""The index of packs finds each key where a dictionary says it is, through merges and for keys that look alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from micropref.cache.errors import Damaged
from micropref.cache.vectors.key_index import (
    ENTRY,
    ROLE,
    SIMILAR,
    Keys,
    Segment,
    index_segments,
    merge_segments,
    to_merge,
    write_segment,
)


def drawn(count: int, seed: int = 0) -> list[bytes]:
    return [bytes(row) for row in np.random.default_rng(seed).integers(0, 256, (count, 16), dtype=np.uint8)]


def words(keys: list[bytes]) -> Keys:
    return Keys.of(pl.Series(keys, dtype=pl.Binary))


def places(segment: Segment, keys: list[bytes]) -> list[tuple[str, int] | None]:
    packs, rows = segment.find(words(keys))
    found = zip(packs.tolist(), rows.tolist(), strict=True)
    return [None if pack < 0 else (segment.packs[pack], row) for pack, row in found]


def test_every_key_is_found_at_its_pack_and_row_and_no_other(tmp_path: Path) -> None:
    packs = {"b": drawn(300, 1), "a": drawn(500, 2)}
    segment = write_segment(tmp_path, list(packs), [words(keys) for keys in packs.values()])
    assert len(segment) == 800
    known = {key: (name, row) for name, keys in packs.items() for row, key in enumerate(keys)}
    asked = [*drawn(100, 3), *reversed(packs["a"]), *packs["b"]]
    assert places(segment, asked) == [known.get(key) for key in asked]
    (opened,) = index_segments(tmp_path)
    assert places(opened, asked) == [known.get(key) for key in asked]
    assert places(segment, []) == []


def test_keys_with_equal_beginnings_are_told_apart(tmp_path: Path) -> None:
    alike = [bytes(8) + bytes([end]) * 8 for end in (9, 1, 5, 0)] + [b"\xff" * 8 + bytes([end]) * 8 for end in (255, 0)]
    segment = write_segment(tmp_path, ["p"], [words(alike)])
    assert places(segment, alike) == [("p", row) for row in range(6)]
    assert places(segment, [bytes(8) + b"\x07" * 8, b"\xff" * 15 + b"\xfe"]) == [None, None]


def test_of_equal_keys_the_first_pack_is_found(tmp_path: Path) -> None:
    key = drawn(1)
    segment = write_segment(tmp_path, ["first", "second"], [words([*drawn(2, 5), *key]), words(key)])
    assert places(segment, key) == [("first", 2)]


def test_merged_segments_find_the_same_without_packs_that_went(tmp_path: Path) -> None:
    packs = {f"p{number}": drawn(50 + number, number) for number in range(6)}
    for name, keys in packs.items():
        write_segment(tmp_path, [name], [words(keys)])
    found = index_segments(tmp_path)
    merged = merge_segments(tmp_path, found, set(packs) - {"p3"})
    assert index_segments(tmp_path)[0].item == merged.item
    assert len(index_segments(tmp_path)) == 1
    for name, keys in packs.items():
        wanted = [None if name == "p3" else (name, row) for row in range(len(keys))]
        assert places(merged, keys) == wanted
    assert len(merged) == sum(map(len, packs.values())) - len(packs["p3"])
    high = np.concatenate([merged.part(bucket)[0] for bucket in range(256)])
    assert len(high) == len(merged)
    assert (high[1:] >= high[:-1]).all()
    own = {name: keys.series().to_list() for name, keys in merged.by_pack()}
    assert own == {name: keys for name, keys in packs.items() if name != "p3"}


def test_segments_of_one_size_are_merged_so_that_there_are_few(tmp_path: Path) -> None:
    for number in range(40):
        write_segment(tmp_path, [f"p{number}"], [words(drawn(20, number))])
        while alike := to_merge(index_segments(tmp_path)):
            merge_segments(tmp_path, alike, {f"p{one}" for one in range(40)})
    found = index_segments(tmp_path)
    assert len(found) < 3 * SIMILAR
    assert sum(map(len, found)) == 800
    known = {key: f"p{number}" for number in range(40) for key in drawn(20, number)}
    there = [pack for segment in found for pack in places(segment, list(known)) if pack is not None]
    assert len(there) == 800


@pytest.mark.parametrize("fault", ["flip", "cut"])
def test_a_damaged_segment_is_not_searched(tmp_path: Path, fault: str) -> None:
    item = write_segment(tmp_path, ["p"], [words(drawn(10))]).item
    path = item.path(ROLE)
    assert path.stat().st_size == 10 * ENTRY
    data = bytearray(path.read_bytes())
    data[17] ^= 4
    path.write_bytes(data if fault == "flip" else data[:-8])
    with pytest.raises(Damaged):
        Segment(item).find(words(drawn(1)))


def test_arrow_arrays_with_an_offset_are_read_right() -> None:
    keys = drawn(9)
    array = pa.array(keys, pa.binary(16))[3:7]
    assert Keys.of(array).high.tolist() == words(keys[3:7]).high.tolist()
    assert Keys.of(pa.array([], pa.binary(16))).high.tolist() == []
