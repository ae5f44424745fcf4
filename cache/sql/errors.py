"""DuckDB's errors, told as one line to somebody who wrote a query."""

from __future__ import annotations

from micropref.cache.errors import BadInput, Failure, MicroprefError
from micropref.cache.sql.names import Names
from micropref.cache.sql.sandbox import SqlLimits

NO_FILES = "queries read the store's views, never files or the network"


def explain(message: str, limits: SqlLimits, names: Names = Names()) -> MicroprefError:  # noqa: B008 - frozen
    """Return what went wrong: BadInput where the query is at fault, Failure where a limit was reached.

    The message's kind decides, not the exception's class: while rows are streaming, DuckDB's errors arrive as
    Arrow's and only their text is left. `names` are those that the query could have used.
    """
    kind, colon, rest = message.partition(" Error: ")
    text = one_line(rest if colon else message)
    if kind == "Out of Memory":
        return out_of_memory(limits)
    if kind == "INTERRUPT":
        return out_of_time(limits)
    if kind in ("INTERNAL", "FATAL"):
        return Failure(f"the query broke DuckDB: {text}")
    if kind == "Permission":
        return BadInput(f"not allowed: {NO_FILES}")
    return BadInput(names.missing(rest if colon else message) or text)


def one_line(message: str) -> str:
    """Return a DuckDB message without its excerpt of the query, as one line."""
    return " ".join(message.split("\n\nLINE ")[0].split())


def out_of_memory(limits: SqlLimits) -> Failure:
    """Return the failure of a query that needs more than its memory."""
    return Failure(
        f"the query needs more than its {limits.memory_mb:,} MiB of memory: name fewer columns, aggregate, "
        "or raise `memory_mb`"
    )


def out_of_time(limits: SqlLimits) -> Failure:
    """Return the failure of a query that did not end in time."""
    return Failure(f"the query was stopped after {limits.seconds:g} s: make it smaller or raise `timeout`")


def too_large(limits: SqlLimits) -> Failure:
    """Return the failure of a query whose result outgrew the limit."""
    return Failure(
        f"the result is larger than the memory limit of {limits.memory_mb:,} MiB: aggregate, add LIMIT, "
        "or raise `memory_mb`"
    )
