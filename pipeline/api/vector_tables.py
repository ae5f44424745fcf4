"""Rows with vectors given in memory: tables and lists of dicts as a Parquet file, which is what is imported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from micropref.cache.atomic import publish, staged_file
from micropref.cache.errors import BadInput
from micropref.cache.keys import digest_file
from micropref.pipeline.api.rows import given_paths, row_fields

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
    table = _table(source)
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


def _table(source: Any) -> pa.Table:
    """Return the rows of a table of any of the libraries, known by what it can do and not by an import."""
    import pyarrow as pa

    try:
        if hasattr(source, "iter_rows"):  # Polars
            table = source.to_arrow()
        elif hasattr(source, "to_pylist"):  # Arrow
            table = source if isinstance(source, pa.Table) else pa.Table.from_batches([source])
        elif hasattr(source, "iloc"):  # pandas
            table = pa.Table.from_pandas(source, preserve_index=False)
        elif isinstance(source, Iterable) and not isinstance(source, Mapping | bytes):  # a list of dicts, `datasets`
            table = pa.Table.from_pylist([_row(number, row) for number, row in enumerate(source, 1)])
        else:
            raise BadInput(f"source: found a {type(source).__name__}; expected a path, a list of dicts or a table")
        return table.replace_schema_metadata(None).cast(pa.schema([_plain(field) for field in table.schema]))
    except (pa.ArrowException, TypeError) as error:
        reason = " ".join(str(error).split())
        raise BadInput(f"source: cannot be read as a table ({reason}); expected texts, and lists of numbers") from None


def _row(number: int, row: Any) -> dict[str, Any]:
    fields = row_fields(number, row)
    return {name: value.numpy() if hasattr(value, "detach") else value for name, value in fields.items()}


def _plain(field: pa.Field) -> pa.Field:
    """Return a column as every library's table has it: large texts and lists are texts and lists."""
    import pyarrow as pa

    kind = field.type
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        kind = pa.string()
    elif pa.types.is_large_list(kind) or pa.types.is_list_view(kind):
        kind = pa.list_(kind.value_type)
    return pa.field(field.name, kind)
