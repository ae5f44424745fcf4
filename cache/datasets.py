"""Data sets: tables of pairs, ratings and rejects, one committed part for each source of a split.

Next to them lie the links, one set for each features id: which vectors a pair's texts became. And the text features,
which `eval` computes: plain figures of a pair's texts, such as their length.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from micropref.cache.commits import Commit, commit_paths, read_commit, read_commits
from micropref.cache.errors import BadInput, Damaged
from micropref.cache.keys import short_id
from micropref.cache.schemas import KEY_COLUMNS, PAIR_SCHEMA, TEXT_FEATURES_VERSION
from micropref.cache.store import StoreFolder

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Dataset:
    """One data set of a store. A split is the ordered union of its parts, one for each source."""

    name: str
    folder: Path
    skip: frozenset[str] = frozenset()
    """Stems of parts to be passed over, because their commit files are damaged."""

    @cached_property
    def parts(self) -> list[Commit]:
        """Return all parts in the order their sources came."""
        paths = (path for path in commit_paths(self.folder / "pairs") if path.stem not in self.skip)
        found = (part for part in map(read_commit, paths) if part is not None)
        return sorted(found, key=lambda part: (part.record["ordinal"], part.stem))

    def reopened(self, written: str | None = None) -> Dataset:
        """Return the data set as it is now, the part `written` a moment ago among its parts."""
        return replace(self, skip=self.skip - {written})

    def damaged_parts(self) -> dict[str, str]:
        """Return the stems of parts whose commit files are not whole, each with one line that says so."""
        lines = {}
        for path in commit_paths(self.folder / "pairs"):
            try:
                read_commit(path)
            except Damaged as error:
                lines[path.stem] = str(error)
        return lines

    def whole_parts(self) -> list[Commit]:
        """Return the parts whose table of pairs is whole; `verify` names the others, and their sources repair them."""
        return [part for part in self.parts if not part.damage("pairs", digest=True)]

    def splits(self) -> list[str]:
        """Return the names of the splits there are, sorted."""
        return sorted({part.record["split"] for part in self.parts})

    def of_split(self, split: str | None) -> list[Commit]:
        """Return the parts of one split, or of all. Raises BadInput listing the splits there are."""
        if split is None:
            return self.parts
        found = [part for part in self.parts if part.record["split"] == split]
        if not found:
            there = ", ".join(self.splits()) or "none yet"
            raise BadInput(f"data set {self.name!r} has no split {split!r} (there: {there})")
        return found

    def links(self, part: Commit, features_id: str) -> Commit | None:
        """Return which vectors a part's texts became, or None where that is not known for the part as it is now."""
        found = read_commit(self.links_folder(features_id) / f"{part.stem}.json")
        same = found is not None and found.record["pairs_digest"] == part.files["pairs"].digest
        return found if same else None

    def links_folder(self, features_id: str) -> Path:
        """Return the folder of the links to one features id."""
        return self.folder / "links" / features_id

    def linked_features(self) -> list[str]:
        """Return the features ids this data set has links to, sorted."""
        folder = self.folder / "links"
        return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []

    @property
    def text_features_folder(self) -> Path:
        """Return the folder of the parts' text features."""
        return self.folder / "text-features"

    def text_features(self, part: Commit) -> Commit | None:
        """Return the text features of a part, or None where there are none of this version and of its pairs now."""
        found = read_commit(self.text_features_folder / f"{part.stem}.json")
        same = found is not None and found.record["pairs_digest"] == part.files["pairs"].digest
        return found if found is not None and same and found.record["version"] == TEXT_FEATURES_VERSION else None

    def outdated_text_features(self) -> list[Commit]:
        """Return text features of pairs that are gone or changed, and of earlier versions, not of later ones."""
        now = {part.stem: part.files["pairs"].digest for part in self.parts}
        return [
            item
            for item in read_commits(self.text_features_folder)
            if item.record["version"] < TEXT_FEATURES_VERSION or item.record["pairs_digest"] != now.get(item.stem)
        ]

    def imported_from(self, features_id: str) -> str | None:
        """Return what made the vectors of some features if they were imported; None where they were computed here."""
        for part in self.parts:
            with suppress(Damaged):  # what a damaged commit file said is not known
                links = self.links(part, features_id)
                if links is not None and "imported" in links.record:
                    return str(links.record["imported"])
        return None

    def doubled(self, split: str) -> list[Doubled]:
        """Return which parts of a split have pair ids in common, each two of them.

        No command writes such parts, but two that write at the same moment may, if one of them is killed.
        """
        import polars as pl  # in functions: most queries open data sets and never load it

        parts = [part for part in self.whole_parts() if part.record["split"] == split]
        if len(parts) < 2:
            return []
        ids = [read_table(part, "pairs", ["pair_id"])["pair_id"] for part in parts]
        frames = [pl.DataFrame({"pair_id": found, "part": at}) for at, found in enumerate(ids)]
        several = pl.concat(frames).filter(pl.col("pair_id").is_duplicated())
        both = several.join(several, on="pair_id").filter(pl.col("part") < pl.col("part_right"))
        counts = both.group_by("part", "part_right").len().sort("part", "part_right")
        return [Doubled(parts[first], parts[second], count) for first, second, count in counts.iter_rows()]

    def digest(self, split: str) -> str:
        """Return a short hash of a split's pairs: it changes when a source is added, extended or replaced."""
        return short_id([part.files["pairs"].digest for part in self.of_split(split)])

    def linked_pairs(self, features_id: str, split: str, columns: list[str]) -> pl.DataFrame:
        """Return pair columns and link columns of a split, one row for each embedded pair, in source order.

        Raises BadInput where a part was not embedded with these features, Failure where a table is damaged.
        """
        import polars as pl

        frames = []
        for part in self.of_split(split):
            links = self.links(part, features_id)
            if links is None:
                raise BadInput(self._not_embedded(part, features_id))
            pairs = read_table(part, "pairs", [name for name in columns if name in PAIR_SCHEMA.names])
            linked = read_table(links, "links", [name for name in columns if name not in PAIR_SCHEMA.names])
            frames.append(pl.concat([pairs, linked], how="horizontal"))
        frame = pl.concat(frames)
        # A pair whose texts do not fit the backbone has no keys there.
        present = [name for name in KEY_COLUMNS if name in columns]
        return frame.filter(pl.any_horizontal(pl.col(present).is_not_null())) if present else frame

    def _not_embedded(self, part: Commit, features_id: str) -> str:
        source, split = part.record["source"], part.record["split"]
        line = f"data set {self.name!r}, split {split!r}: source {source} is not embedded with features {features_id}; "
        imported = self.imported_from(features_id)
        if imported is not None:
            return line + (
                f"these vectors were imported (made by {imported!r}) and cannot be computed here: give the vectors of "
                f"this source to `micropref import-vectors FILE --name {self.name} --split {split}` with the same "
                "`--backbone-name` and `--settings`, or take other `features`"
            )
        return line + f"run `micropref embed {source} --name {self.name} --split {split}` with that backbone"


@dataclass(frozen=True)
class Doubled:
    """Two parts of a split with pair ids in common: whatever joins by pair id reads such pairs twice."""

    first: Commit
    second: Commit
    pairs: int
    """How many ids stand in both."""


def read_table(part: Commit, role: str, columns: list[str] | None = None) -> pl.DataFrame:
    """Return columns (default: all) of a committed table, its digest checked first. Raises Failure on damage."""
    import polars as pl

    table = pq.read_table(part.checked_path(role), columns=columns)
    names = [field.name for field in table.schema if pa.types.is_fixed_size_binary(field.type)]
    for name in names:
        index = table.schema.get_field_index(name)
        table = table.set_column(index, name, table.column(name).cast(pa.binary()))
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def has_response_ids(part: Commit) -> bool:
    """Say whether a part's pairs name their responses as the ratings do; those of the first versions do not.

    A damaged part passes: reading it raises an error, and `embed` repairs it.
    """
    return part.damage("pairs", digest=True) is not None or "rejected_id" in pq.read_schema(part.path("pairs")).names


def open_dataset(store: StoreFolder, name: str) -> Dataset:
    """Open a data set. Raises BadInput listing the data sets there are."""
    return Dataset(name, store.existing("datasets", name))


def linked_keys(links: Commit) -> pl.Series:
    """Return the distinct keys of all vectors that a part's texts became. Raises Failure on damage."""
    import polars as pl

    table = read_table(links, "links", list(KEY_COLUMNS))
    return pl.concat([table[column].drop_nulls() for column in KEY_COLUMNS]).unique()
