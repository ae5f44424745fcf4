"""Where packed vectors lie: sorted keys with their places, searched in the file without reading it whole.

n keys of a segment, m keys that are looked for. A key is 16 bytes, held as two numbers: `high`, its first eight bytes
as they sort, and `low`.

A segment is three arrays one after the other, little-endian: high uint64 [n] ascending, low uint64 [n], place uint64
[n], which is the pack's number in the segment times 2³² plus the row. Equal keys stand side by side, the pack that
comes first is first. A search looks at a few pages, whatever n is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from micropref.cache.commits import Commit, commit, read_commits, write_file
from micropref.cache.errors import Damaged
from micropref.cache.keys import short_id
from micropref.cache.schemas import KEY_BYTES, KEY_TYPE

FOLDER = "index"
ROLE = "keys"
WORD = np.dtype("<u8")
ENTRY = 3 * WORD.itemsize
"""Bytes of a key in a segment."""
BUCKETS = 256
"""Parts that segments are merged in, by the first byte of the key: memory is one of these."""
SIMILAR = 4
"""Segments are merged as soon as so many of them have at most SIMILAR times the keys of the smallest."""
HALF, ROW, GONE = np.uint64(32), np.uint64(0xFFFFFFFF), np.uint64(0xFFFFFFFF)
HALVES = ("high", "low")
Words = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Keys:
    """Keys as two numbers each."""

    high: Words
    low: Words

    @classmethod
    def of(cls, keys: pa.Array | pl.Series) -> Keys:
        """Return keys [m], none of which is null."""
        array = keys.to_arrow() if isinstance(keys, pl.Series) else keys
        flat = array.cast(pa.binary()).cast(KEY_TYPE)
        if isinstance(flat, pa.ChunkedArray):
            flat = flat.combine_chunks()
        data = np.frombuffer(flat.buffers()[1], np.uint8) if len(flat) else np.empty(0, np.uint8)
        start = flat.offset * KEY_BYTES
        words = data[start : start + len(flat) * KEY_BYTES].view(">u8").reshape(-1, 2).astype(np.uint64)
        return cls(np.ascontiguousarray(words[:, 0]), np.ascontiguousarray(words[:, 1]))

    @classmethod
    def distinct(cls, parts: Iterable[pl.Series]) -> Keys:
        """Return the distinct keys of all parts, sorted; nulls are passed over."""
        found = [cls.of(part.drop_nulls()) for part in parts]
        high, low = (
            np.concatenate([np.empty(0, np.uint64), *(getattr(one, half) for one in found)]) for half in HALVES
        )
        order = np.lexsort((low, high))
        high, low = high[order], low[order]
        first = np.ones(len(high), np.bool_)
        first[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
        return cls(high[first], low[first])

    def __len__(self) -> int:
        return len(self.high)

    def equals(self, other: Keys) -> bool:
        """Say whether other keys are the same in the same order."""
        return np.array_equal(self.high, other.high) and np.array_equal(self.low, other.low)

    def series(self) -> pl.Series:
        """Return the keys as a column of bytes."""
        data = np.stack([self.high, self.low], 1).astype(">u8").tobytes()
        return as_series(pa.FixedSizeBinaryArray.from_buffers(KEY_TYPE, len(self), [None, pa.py_buffer(data)]))

    def take(self, rows: npt.NDArray[Any]) -> Keys:
        """Return the keys at some rows, numbers or a mask."""
        return Keys(self.high[rows], self.low[rows])

    def places(self, keys: Keys) -> npt.NDArray[np.int64]:
        """Return where each of other keys [m] first stands among these, which are sorted; -1: nowhere."""
        return _places(self.high, self.low, keys)

    def has(self, keys: Keys) -> npt.NDArray[np.bool_]:
        """Return which of other keys [m] are among these, which are sorted."""
        mask: npt.NDArray[np.bool_] = self.places(keys) >= 0
        return mask


@dataclass(frozen=True)
class Segment:
    """One committed segment."""

    item: Commit

    @property
    def packs(self) -> list[str]:
        """Return the names of the packs whose keys it has, by their number in it."""
        names: list[str] = self.item.record["packs"]
        return names

    def __len__(self) -> int:
        return self.item.files[ROLE].rows

    @cached_property
    def _words(self) -> tuple[Words, Words, Words]:
        count, path = len(self), self.item.checked_path(ROLE)
        if not count:
            empty = np.empty(0, np.uint64)
            return empty, empty, empty
        if path.stat().st_size != count * ENTRY:
            raise Damaged(f"{path}: {path.stat().st_size} bytes, expected {count * ENTRY} for {count} keys")
        words = np.memmap(path, WORD, "r")
        return words[:count], words[count : 2 * count], words[2 * count :]

    def find(self, keys: Keys) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the pack's number and the row of each key [m], -1 where it is not here; quick for sorted keys."""
        high, low, place = self._words
        at = _places(high, low, keys)
        found = at >= 0
        packs, rows = np.full((2, len(keys)), -1, np.int64)
        packs[found], rows[found] = _pack_of(place[at[found]]), (place[at[found]] & ROW).astype(np.int64)
        return packs, rows

    def part(self, bucket: int) -> tuple[Words, Words, Words]:
        """Return the keys whose first byte is `bucket`, and their places."""
        high, low, place = self._words
        start = int(np.searchsorted(high, np.uint64(bucket) << np.uint64(56), "left"))
        last = bucket == BUCKETS - 1
        stop = len(high) if last else int(np.searchsorted(high, np.uint64(bucket + 1) << np.uint64(56), "left"))
        return high[start:stop], low[start:stop], place[start:stop]

    def by_pack(self) -> Iterator[tuple[str, Keys]]:
        """Yield each pack's name and its keys in the order of their rows."""
        high, low, place = self._words
        order = np.argsort(place)
        ends = np.searchsorted(place[order], np.arange(len(self.packs) + 1, dtype=np.uint64) << HALF)
        for number, name in enumerate(self.packs):
            own = order[ends[number] : ends[number + 1]]
            yield name, Keys(high[own], low[own])

    def count_of(self, packs: npt.NDArray[np.bool_]) -> int:
        """Return how many keys some of the packs have, which are given as a mask."""
        counts = np.bincount(_pack_of(self._words[2]), minlength=len(packs))
        return int(counts[packs].sum())


def as_series(keys: pa.Array) -> pl.Series:
    """Return keys as a column of bytes."""
    found = pl.from_arrow(keys.cast(pa.binary()))
    assert isinstance(found, pl.Series)
    return found


def _places(high: Words, low: Words, keys: Keys) -> npt.NDArray[np.int64]:
    """Return where each key [m] first stands among sorted ones, -1: nowhere."""
    at = np.searchsorted(high, keys.high, "left").astype(np.int64)
    places = np.full(len(keys), -1, np.int64)
    left = np.arange(len(keys))
    while len(left):  # a second turn is for keys whose first halves are alike: hardly ever
        left = left[at[left] < len(high)]
        left = left[high[at[left]] == keys.high[left]]
        same = low[at[left]] == keys.low[left]
        places[left[same]] = at[left[same]]
        left = left[~same]
        at[left] += 1
    return places


def index_segments(folder: Path) -> list[Segment]:
    """Return the committed segments of some features' folder by name. Raises Damaged where a commit is not whole."""
    return [Segment(item) for item in read_commits(folder / FOLDER)]


def write_segment(folder: Path, packs: Sequence[str], keys: Sequence[Keys]) -> Segment:
    """Commit the keys of new packs, in row order each, as one segment."""
    numbers = np.repeat(np.arange(len(keys), dtype=np.uint64), [len(one) for one in keys])
    rows = np.concatenate([np.arange(len(one), dtype=np.uint64) for one in keys])
    high, low = (np.concatenate([getattr(one, half) for one in keys]) for half in HALVES)
    place = (numbers << HALF) | rows
    order = np.lexsort((place, low, high))
    return _commit(folder, packs, len(order), iter([(high[order], low[order], place[order])]))


def merge_segments(folder: Path, found: Sequence[Segment], there: set[str]) -> Segment:
    """Commit segments as one, in the memory of a bucket, then forget them; searches under way keep their files.

    Keys of packs that are not among those `there` are left out: they went since.
    """
    packs = [name for name in dict.fromkeys(name for one in found for name in one.packs) if name in there]
    number = {name: at for at, name in enumerate(packs)}
    kept = [np.array([number.get(name, GONE) for name in one.packs], np.uint64) for one in found]
    count = sum(one.count_of(own != GONE) for one, own in zip(found, kept, strict=True))
    merged = _commit(folder, packs, count, _merged(found, kept))
    for one in found:
        if one.item.stem != merged.item.stem:
            one.item.commit_path.unlink(missing_ok=True)
    return merged


def to_merge(found: Sequence[Segment]) -> list[Segment]:
    """Return the segments that are merged now: SIMILAR or more of about one size, the smallest; perhaps none.

    So a key is rewritten about log n times, and a search looks into about log n segments.
    """
    ordered = sorted(found, key=len)
    for start in range(len(ordered)):
        alike = [one for one in ordered[start:] if len(one) <= SIMILAR * max(1, len(ordered[start]))]
        if len(alike) >= SIMILAR:
            return alike
    return []


def _merged(found: Sequence[Segment], numbers: Sequence[Words]) -> Iterator[tuple[Words, Words, Words]]:
    """Yield the entries of all segments, bucket by bucket, with the new numbers of their packs."""
    for bucket in range(BUCKETS):
        parts = [one.part(bucket) for one in found]
        new = [own[_pack_of(part[2])] for own, part in zip(numbers, parts, strict=True)]
        kept = [one != GONE for one in new]
        high, low = (np.concatenate([part[at][own] for part, own in zip(parts, kept, strict=True)]) for at in (0, 1))
        place = np.concatenate(
            [(one[own] << HALF) | (part[2][own] & ROW) for one, part, own in zip(new, parts, kept, strict=True)]
        )
        order = np.lexsort((place, low, high))
        yield high[order], low[order], place[order]


def _pack_of(place: Words) -> npt.NDArray[np.int64]:
    return (place >> HALF).astype(np.int64)


def _commit(folder: Path, packs: Sequence[str], count: int, parts: Iterator[tuple[Words, Words, Words]]) -> Segment:
    def write(file: BinaryIO) -> int:
        start = 0
        for part in parts:
            for at, words in enumerate(part):
                file.seek((at * count + start) * WORD.itemsize)
                file.write(np.ascontiguousarray(words, WORD).tobytes())
            start += len(part[0])
        assert start == count, (start, count)
        return count

    stem = short_id(list(packs), 32)
    item = write_file(folder / FOLDER, stem, ROLE, "bin", write)
    return Segment(commit(folder / FOLDER, stem, {ROLE: item}, {"packs": list(packs)}))
