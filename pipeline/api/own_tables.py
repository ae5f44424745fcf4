"""Tables of a user's own that a query is to see: files that are read here, and tables in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from micropref.pipeline.api.arrow_tables import arrow_table

if TYPE_CHECKING:
    import pyarrow as pa

    from micropref.cache.sql.sandbox import SqlLimits


def own_tables(tables: Mapping[str, Any], limits: SqlLimits) -> dict[str, pa.Table]:
    """Return the rows of every table by its name, from its file or as it was given.

    Raises BadInput for a name that a query could not use, a file that cannot be read, and what is no table.
    """
    from micropref.cache.sql.given import check_names
    from micropref.pipeline.sources.own_table import read_own_table

    check_names(tables)
    return {
        name: read_own_table(Path(given), limits) if isinstance(given, str | Path) else arrow_table(name, given)
        for name, given in tables.items()
    }
