"""How the sources of a data set were read when they became part of it."""

from __future__ import annotations

from collections.abc import Sequence

from micropref.cache.commits import Commit
from micropref.cache.datasets import Dataset, read_table
from micropref.cache.errors import Damaged
from micropref.pipeline.sources.columns import ATTRIBUTE, ColumnReading, EarlierReading
from micropref.pipeline.sources.formats import SHAPES
from micropref.pipeline.sources.locations import Located
from micropref.pipeline.sources.rows import READING

FIRST_VERSION = (
    "this data set was read by an earlier version, and these rows are read as it did: of messages role and text alone, "
    "texts as they stand; `replace` reads all of them anew"
)
"""What is said of rows for such a data set."""
COLUMNS = "columns"
"""Where a part's record keeps its reading."""


def reading_of_source(dataset: Dataset, source: Located) -> EarlierReading | None:
    """Return how a source was read that a data set has, wholly or its first rows; None for another.

    Nor is there one for the rows of an adapter, which always have the same columns.
    """
    if not dataset.parts or source.adapter is not None:
        return None
    digest = source.digest()
    return earlier_reading([part for part in dataset.parts if part.record["digest"] == digest])


def kept_version(dataset: Dataset) -> int:
    """Return the version of the reading of texts that a data set was made with."""
    return min((part.record.get("reading", 1) for part in dataset.parts), default=READING)


def earlier_reading(parts: Sequence[Commit]) -> EarlierReading | None:
    """Return how the parts of one source were read; None where there are none.

    Parts of the first releases keep no reading: their roles were the columns of these names, their attributes those
    that were rated.
    """
    kept = next((part.record[COLUMNS] for part in parts if COLUMNS in part.record), None)
    if kept is not None:
        return EarlierReading({one["column"]: ColumnReading(**one) for one in kept})
    if not parts:
        return None
    roles = SHAPES[parts[0].record["shape"]]
    found = {role: role for role in roles.roles}
    if roles.rated:
        found |= dict.fromkeys(_rated(parts), ATTRIBUTE)
    reason = "as when this data set was made"
    return EarlierReading({name: ColumnReading(name, role, "", 0, reason) for name, role in found.items()}, True)


def _rated(parts: Sequence[Commit]) -> list[str]:
    """Return the attributes that parts have ratings of."""
    found: list[str] = []
    for part in parts:
        try:
            found += read_table(part, "ratings", ["attribute"])["attribute"].unique(maintain_order=True).to_list()
        except (Damaged, KeyError):  # what a damaged table said is not known; the source repairs it
            continue
    return list(dict.fromkeys(found))
