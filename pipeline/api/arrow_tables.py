"""Tables of Polars, pandas, Arrow or `datasets`, and lists of dicts, as Arrow tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from micropref.cache.errors import BadInput
from micropref.pipeline.api.rows import row_fields

if TYPE_CHECKING:
    import pyarrow as pa


def arrow_table(what: str, source: Any) -> pa.Table:
    """Return the rows of a table of any of the libraries, known by what it can do and not by an import.

    Raises BadInput, naming `what`, for anything that is no table.
    """
    import pyarrow as pa

    try:
        if hasattr(source, "iter_rows"):  # Polars
            table = source.to_arrow()
        elif hasattr(source, "to_pylist"):  # Arrow
            table = source if isinstance(source, pa.Table) else pa.Table.from_batches([source])
        elif hasattr(source, "iloc"):  # pandas
            table = pa.Table.from_pandas(source, preserve_index=False)
        elif isinstance(source, Iterable) and not isinstance(source, Mapping | bytes):  # a list of dicts, `datasets`
            rows = [_row(what, number, row) for number, row in enumerate(source, 1)]
            names = dict.fromkeys(name for row in rows for name in row)  # from_pylist takes those of the first row
            table = pa.table({name: [row.get(name) for row in rows] for name in names})
        else:
            raise BadInput(f"{what}: found a {type(source).__name__}; expected a path, a list of dicts or a table")
        return table.replace_schema_metadata(None).cast(pa.schema([_plain(field) for field in table.schema]))
    except (pa.ArrowException, TypeError) as error:
        reason = " ".join(str(error).split())
        raise BadInput(f"{what}: cannot be read as a table ({reason}); expected columns of one kind each") from None


def _row(what: str, number: int, row: Any) -> dict[str, Any]:
    fields = row_fields(number, row, what)
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
