"""Rows with vectors given in memory: tables and lists of dicts as a Parquet file, which is what is imported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from micropref.cache.atomic import publish, staged_file
from micropref.cache.errors import BadInput
from micropref.cache.keys import digest_file
from micropref.pipeline.api.arrow_tables import arrow_table
from micropref.pipeline.api.rows import given_paths

if TYPE_CHECKING:
    import pyarrow as pa

ROW_GROUP = 1024


def as_vector_paths(source: Any, folder: Path) -> list[Path]:
    """Return the files of a source: a path, several, or rows in memory, which are kept in `folder`.

    Rows are a list of dicts or a table of Polars, pandas, Arrow or `datasets`. Their file is named by its content, so
    that the same table given again is the same source. Raises BadInput for anything else.
    """
    paths = given_paths(source)
    if paths:
        return paths
    table = arrow_table("source", source)
    if not table.num_rows:
        raise BadInput("source: found no rows; expected a path, or rows with texts and vectors")
    return [_kept(table, folder)]


def _kept(table: pa.Table, folder: Path) -> Path:
    import pyarrow.parquet as pq

    with staged_file(folder) as (file, temp):
        pq.write_table(table, file, row_group_size=ROW_GROUP, compression="zstd")
        file.flush()
        name = f"vectors-{digest_file(temp)[:12]}.parquet"
    publish(temp, folder / name)
    return folder / name
