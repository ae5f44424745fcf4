"""The fence around a query: what the process and the connection that run it may do.

DuckDB's own limits are not a fence: a SELECT may hold a COPY, an allowed path may be overwritten, and memory grows
far beyond `memory_limit`. So the connection is locked before it holds a single row, it never opens a file (tables
come from memory), and it lives in a process of its own with limits of the operating system and a deadline.
"""

from __future__ import annotations

import math
import os
import resource
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import duckdb

from micropref.cache.errors import BadInput

MIB = 1 << 20
MOST_THREADS = 8
ORPHAN_GRACE_S = 5
SHARE = 0.5
"""Of the memory limit, what vectors or a user's own tables may take: the other half is for the query's work."""
_FREE_MIB = 512
"""Address space beyond the limit: buffers of readers and of the result, which DuckDB does not count."""
_FREE_MIB_PER_THREAD = 64
"""Stack and allocator arena of a thread: address space only, mostly never touched."""


@dataclass(frozen=True)
class SqlLimits:
    """What one query may use."""

    memory_mb: int = 4096
    """MiB for tables, work and result together."""
    seconds: float = 60
    """Wall clock from start to result."""
    threads: int | None = None
    """None: one for each core, at most 8."""
    limit_vectors: int | None = None
    """Load only the first N vectors of each features id; None: all, if they fit in memory."""

    def __post_init__(self) -> None:
        """Raise BadInput naming the option that is out of range."""
        if self.memory_mb < 64:
            raise BadInput(f"memory_mb is {self.memory_mb}: expected at least 64")
        if not 0 < self.seconds <= 86_400:
            raise BadInput(f"timeout is {self.seconds:g}: expected seconds above 0, at most 86400")
        if self.threads is not None and self.threads < 1:
            raise BadInput(f"threads is {self.threads}: expected at least 1")
        if self.limit_vectors is not None and self.limit_vectors < 0:
            raise BadInput(f"limit_vectors is {self.limit_vectors}: expected 0 or more")

    @property
    def bytes(self) -> int:
        """Return the memory limit in bytes."""
        return self.memory_mb * MIB

    @property
    def workers(self) -> int:
        """Return the number of threads to use."""
        return self.threads or min(MOST_THREADS, os.cpu_count() or 1)


def open_sandbox(limits: SqlLimits) -> duckdb.DuckDBPyConnection:
    """Open an empty in-memory database that can reach no file, no network, no extension, and no Python variable."""
    connection = duckdb.connect(
        ":memory:",
        config={
            "temp_directory": "",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "python_enable_replacements": "false",
            "memory_limit": f"{limits.memory_mb}MiB",
            "threads": str(limits.workers),
        },
    )
    for setting in (
        f"max_execution_time = {math.ceil(limits.seconds * 1000)}",
        "enable_external_access = false",
        "disabled_filesystems = 'LocalFileSystem'",
        "lock_configuration = true",
    ):
        connection.execute(f"SET {setting}")
    return connection


def limit_process(limits: SqlLimits) -> None:
    """Bound this process: memory, size of files it writes, core dumps, and its life when its parent is gone."""
    _lower(resource.RLIMIT_FSIZE, limits.bytes)
    _lower(resource.RLIMIT_CORE, 0)
    used = _address_space()
    if used is not None:
        extra = _FREE_MIB + _FREE_MIB_PER_THREAD * limits.workers
        _lower(resource.RLIMIT_AS, used + limits.bytes + extra * MIB)
    signal.alarm(math.ceil(limits.seconds) + ORPHAN_GRACE_S)


def _lower(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
    # Some systems know a limit and refuse to set it; the deadline and DuckDB's own limit remain.
    with suppress(OSError, ValueError):
        resource.setrlimit(kind, (bound, bound))


def _address_space() -> int | None:
    """Return the bytes of address space in use, or None where the system does not tell (macOS)."""
    statm = Path("/proc/self/statm")
    if not statm.is_file():
        return None
    return int(statm.read_text().split()[0]) * resource.getpagesize()
