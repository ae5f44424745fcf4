"""The process that runs one query: a request on stdin, an Arrow stream on stdout, an error as JSON on stderr.

The request is a line of JSON; an Arrow stream follows for each table of the user's own that it names.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from micropref.cache.errors import BadInput, Failure, MicroprefError
from micropref.cache.sql.errors import explain, one_line, out_of_memory, too_large
from micropref.cache.sql.given import read_tables, register_tables
from micropref.cache.sql.load import load_views
from micropref.cache.sql.names import Names
from micropref.cache.sql.parse import read_query
from micropref.cache.sql.sandbox import SqlLimits, limit_process, open_sandbox
from micropref.cache.store import StoreFolder

BATCH_ROWS = 65_536


def main() -> int:
    """Run the request on stdin and return the exit code: 0, or that of the error written to stderr."""
    request = json.loads(sys.stdin.buffer.readline())
    limits = SqlLimits(**request["limits"])
    error = _attempt(request, limits)
    if error is None:
        return 0
    json.dump({"message": str(error), "bad_input": isinstance(error, BadInput)}, sys.stderr)
    return error.exit_code


def _attempt(request: dict[str, Any], limits: SqlLimits) -> MicroprefError | None:
    connection = open_sandbox(limits)
    limit_process(limits)
    names = Names()
    try:
        tables = read_tables(sys.stdin.buffer, request["tables"])
        text = str(request["query"])
        query = read_query(connection, text)
        load_views(connection, StoreFolder(Path(request["store"])), query, limits)
        register_tables(connection, tables)
        names = Names.of(connection, query, tables)
        _run(connection, text, limits)
    except MicroprefError as error:
        return error
    except MemoryError:
        return out_of_memory(limits)
    except duckdb.Error as error:
        return explain(str(error), limits, names)
    except OSError as error:
        return too_large(limits) if error.errno == errno.EFBIG else Failure(one_line(str(error)))
    return None


def _run(connection: duckdb.DuckDBPyConnection, text: str, limits: SqlLimits) -> None:
    reader = connection.sql(text).to_arrow_reader(BATCH_ROWS)
    # Not sys.stdout: Python would try once more, when it ends, to write what a full file refused.
    with os.fdopen(1, "wb", closefd=False) as sink, pa.ipc.new_stream(sink, reader.schema) as stream:
        for batch in _batches(reader, limits):
            stream.write_batch(batch)


def _batches(reader: pa.RecordBatchReader, limits: SqlLimits) -> Iterator[pa.RecordBatch]:
    """Yield the result's batches, errors of the running query told as those of its start."""
    while True:
        try:
            batch = reader.read_next_batch()
        except StopIteration:
            return
        except (pa.ArrowException, OSError) as error:
            raise explain(str(error), limits) from error
        yield batch


if __name__ == "__main__":
    sys.exit(main())
