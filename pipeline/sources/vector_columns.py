"""What reads the rows of an import, which hold the vectors of their texts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from micropref.pipeline.sources.columns import SourceReading
from micropref.pipeline.sources.pairs import PreferencePair
from micropref.pipeline.sources.rows import Record, Row


class VectorColumns(Protocol):
    """Reads rows that hold the vectors of their texts, and checks these."""

    def records(self, path: Path) -> Iterator[Record]:
        """Yield (1-based row, fields) of a file, a vector as an array. Raises BadInput for a file of another kind."""

    def texts(self, path: Path) -> Iterator[Record]:
        """Yield the same rows without their vectors, which is quicker. Raises BadInput for a file of another kind."""

    @property
    def roles(self) -> dict[str, str]:
        """Return the roles of columns that are read in the place of texts."""

    def added_to(self, reading: SourceReading) -> SourceReading:
        """Return a reading of the columns of texts with those of the vectors added, their rows not yet counted."""

    def counted(self, reading: SourceReading) -> SourceReading:
        """Return the same with the rows that have been read."""

    def check(self, row: Row, pair: PreferencePair) -> None:
        """Raise RowError unless the row has one finite vector for each text of its pair."""
