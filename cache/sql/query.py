"""One read-only SELECT over a store's views, run in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from micropref.cache.choices import TableFormat
from micropref.cache.errors import BadInput, Failure
from micropref.cache.sql.errors import out_of_memory, out_of_time
from micropref.cache.sql.given import check_names, check_size, checked_table, write_tables
from micropref.cache.sql.render import check_output, render
from micropref.cache.sql.sandbox import SqlLimits, open_sandbox
from micropref.cache.sql.views import create_views, read_views

__all__ = [
    "SqlLimits",
    "TableFormat",
    "ViewExample",
    "check_output",
    "render",
    "run_query",
    "view_examples",
    "view_table",
]
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR", "PYTHONPATH")
"""What the query's process gets of the user's environment: enough to start Python, nothing to read there."""


@dataclass(frozen=True)
class ViewExample:
    """What `micropref sql` says of a view."""

    name: str
    columns: tuple[tuple[str, str], ...]
    """Name and DuckDB type of each column."""
    description: str
    example: str
    """A query that runs as it is."""

    def __str__(self) -> str:
        """Return the view as three indented paragraphs under its name, for a terminal of 80 columns."""
        listed = ", ".join(f"{name} {kind}" for name, kind in self.columns)
        folded = [_folded(text) for text in (self.description, listed, self.example)]
        return "\n".join([self.name, *folded]) + "\n"


def _folded(text: str) -> str:
    return textwrap.fill(text, 80, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


def view_examples() -> list[ViewExample]:
    """Return every view with its columns, what a row is, and an example."""
    found = []
    with open_sandbox(SqlLimits()) as connection:
        create_views(connection, heads=1, vector="FLOAT[]")
        for view in read_views():
            columns = connection.execute(f"DESCRIBE {view.name}").fetchall()
            lines = [line.removeprefix("-- ") for line in view.comment.splitlines()]
            example = next(line.removeprefix("Example: ") for line in lines if line.startswith("Example: "))
            description = " ".join(line for line in lines if not line.startswith("Example: "))
            types = tuple((str(name), str(kind)) for name, kind, *_ in columns)
            found.append(ViewExample(view.name, types, description, example))
    return found


def view_table() -> pa.Table:
    """Return the views as a table of view, columns, description and example."""
    views = view_examples()
    return pa.table(
        {
            "view": [view.name for view in views],
            "columns": [[name for name, _ in view.columns] for view in views],
            "description": [view.description for view in views],
            "example": [view.example for view in views],
        }
    )


def run_query(
    store: Path, query: str, limits: SqlLimits | None = None, tables: Mapping[str, pa.Table] | None = None
) -> pa.Table:
    """Run one query over the views of a store, and over tables of the user's own, and return its rows.

    Raises BadInput where the query is not one SELECT over these, or a table cannot be one; Failure where the query
    exceeds a limit or meets a damaged file. The query's process is gone when this returns.
    """
    limits = limits or SqlLimits()
    check_names(tables or ())
    given = {name: checked_table(name, table) for name, table in (tables or {}).items()}
    check_size(given, limits)
    if not store.is_dir():
        raise BadInput(f"no store at {store}: give --store, or run `micropref embed` first")
    try:
        query.encode()
    except UnicodeEncodeError as error:
        raise BadInput(f"the query is not valid text at character {error.start + 1}") from error
    request = {"store": str(store.absolute()), "query": query, "limits": asdict(limits), "tables": list(given)}
    with ExitStack() as stack:
        stdin, stdout, stderr = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(3))
        stdin.write(json.dumps(request).encode() + b"\n")
        write_tables(stdin, given)
        stdin.seek(0)
        code = _run_worker(stdin, stdout, stderr, limits)
        if code != 0:
            raise _worker_error(code, stderr, limits)
        stdout.seek(0)
        return _distinct_names(_simple_types(pa.ipc.open_stream(stdout).read_all()))


def _run_worker(stdin: IO[bytes], stdout: IO[bytes], stderr: IO[bytes], limits: SqlLimits) -> int:
    """Run the worker to its end or to the deadline. Files, not pipes: a result may be of any size."""
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    own = {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[3]), *filter(None, [kept.get("PYTHONPATH")])]),
        "PYTHONUTF8": "1",
        # Fewer reserved arenas and idle threads: address space is what the memory limit counts.
        "MALLOC_ARENA_MAX": "2",
        "OPENBLAS_NUM_THREADS": "1",
        "POLARS_MAX_THREADS": str(limits.workers),
    }
    # -P: a folder named `cache` where the user happens to be must not be taken for this package.
    command = [sys.executable, "-P", "-m", "micropref.cache.sql.worker"]
    with subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=stderr, env=kept | own) as process:  # noqa: S603
        try:
            return process.wait(limits.seconds)
        except subprocess.TimeoutExpired:
            raise out_of_time(limits) from None
        finally:
            process.kill()


def _worker_error(code: int, stderr: IO[bytes], limits: SqlLimits) -> BadInput | Failure:
    stderr.seek(0)
    text = stderr.read().decode(errors="replace").strip()
    last = text.splitlines()[-1] if text else ""
    try:
        told: dict[str, Any] = json.loads(last)
        return BadInput(told["message"]) if told["bad_input"] else Failure(told["message"])
    except (ValueError, KeyError, TypeError):
        if code < 0 or "MemoryError" in last or "bad_alloc" in text:
            return out_of_memory(limits)
        return Failure(f"the query's process ended with code {code}: {last or 'no message'}")


def _simple_types(table: pa.Table) -> pa.Table:
    """Return a table whose whole-number sums are integers again: DuckDB hands HUGEINT over as decimal(38, 0)."""
    for place, field in enumerate(table.schema):
        if pa.types.is_decimal(field.type) and field.type.scale == 0:
            # Beyond 64 bits it stays a decimal.
            with suppress(pa.ArrowInvalid):
                table = table.set_column(place, field.name, table.column(place).cast(pa.int64()))
    return table


def _distinct_names(table: pa.Table) -> pa.Table:
    """Return a table whose second column `a` is `a_1`, and so on: an object of JSON has each name once."""
    names: list[str] = []
    for name in table.column_names:
        choices = (name, *(f"{name}_{number}" for number in range(1, table.num_columns)))
        names.append(next(choice for choice in choices if choice not in names))
    return table.rename_columns(names)
