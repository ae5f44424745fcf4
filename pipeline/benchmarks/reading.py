"""A benchmark's rows: from the hub, a copy of it, or one file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from micropref.cache.errors import BadInput
from micropref.pipeline.benchmarks.facts import Benchmark
from micropref.pipeline.benchmarks.items import Item
from micropref.pipeline.named.hub import HubName, hub_name, snapshot
from micropref.pipeline.progress import Announce
from micropref.pipeline.sources.files import read_rows
from micropref.pipeline.sources.folders import check_encodable, folder_files, has_configs
from micropref.pipeline.sources.kinds import ACCEPTED, kind_of
from micropref.pipeline.sources.rows import Row, RowError, Unreadable


@dataclass(frozen=True)
class BenchmarkFiles:
    """Where a benchmark's rows are."""

    label: str
    """The file or folder, or owner/name@commit."""
    files: dict[str | None, list[Path]]
    """Config of the hub -> its files; None: not told by where they are."""


def find_files(benchmark: Benchmark, source: str | None, announce: Announce) -> BenchmarkFiles:
    """Return the files of a benchmark: of its own name on the hub, another name, a folder, or one file.

    Raises BadInput where they are not there.
    """
    name = HubName(benchmark.dataset.name, None) if source is None else hub_name(source)
    if name is not None:
        folder, commit = snapshot(name)
        announce(f"{name.repository}: revision {commit}")
        return BenchmarkFiles(f"{name.repository}@{commit}", _of_folder(benchmark, folder, announce))
    path = Path(source or "")
    check_encodable(path)
    if path.is_dir():
        return BenchmarkFiles(str(path), _of_folder(benchmark, path, announce))
    if not path.is_file() or kind_of(path) is None:
        found = "a file of another kind" if path.is_file() else "no such file or folder"
        raise BadInput(f"source is {str(path)!r}: found {found}; expected {benchmark.title}'s rows in {ACCEPTED}")
    return BenchmarkFiles(str(path), {_config_of(benchmark, path): [path]})


def read_items(benchmark: Benchmark, found: BenchmarkFiles, announce: Announce) -> list[Item]:
    """Return all rows. Raises BadInput naming the first that is not the benchmark's."""
    items = [item for config, files in found.files.items() for item in _rows(benchmark, config, files)]
    if not items:
        raise BadInput(f"{found.label}: found no row; expected {benchmark.title}'s")
    times = Counter((one.subset, one.prompt, one.chosen, one.rejected) for one in items)
    if again := sum(times.values()) - len(times):
        announce(f"warning: {again:,} of {len(items):,} rows repeat an earlier one, and count again")
    return items


def _rows(benchmark: Benchmark, config: str | None, files: list[Path]) -> Iterator[Item]:
    first = True
    for row in read_rows(files):
        if isinstance(row, Unreadable):
            raise BadInput(f"{row.origin}: {row.error}")
        try:
            _check_columns(benchmark, row, first=first)
            yield benchmark.read(row, config)
        except RowError as error:
            raise BadInput(f"{row.origin}: {error} (rows of {benchmark.title})") from None
        first = False


def _check_columns(benchmark: Benchmark, row: Row, *, first: bool) -> None:
    missing = [name for name in benchmark.columns if name not in row.values]
    if missing and first:
        there = ", ".join(map(str, row.values))
        raise BadInput(
            f"{row.origin}: found the columns {there[:200]}; expected those of {benchmark.title}: "
            f"{', '.join(benchmark.columns)}"
        )
    if missing:
        raise RowError(missing[0], "no such field", "one in every row")


def _of_folder(benchmark: Benchmark, folder: Path, announce: Announce) -> dict[str | None, list[Path]]:
    """Return the files of a folder by config, as its README names them, else as their own names do."""
    found: dict[str | None, list[Path]] = {}
    for config in benchmark.configs if has_configs(folder) else (None,):
        listed = folder_files(folder, config)
        for absent in listed.absent:
            announce(f"warning: {folder}: not there: {absent}; the copy may not be whole")
        every = [file for files in listed.splits.values() for file in files]
        chosen = listed.splits.get(benchmark.split) or [file for file in every if benchmark.split in file.stem]
        if not chosen and len(every) > 1:
            announce(
                f"warning: {folder}: no file is of the benchmark's split {benchmark.split}: all {len(every)} are read"
            )
        for file in chosen or every:
            found.setdefault(config or _config_of(benchmark, file.relative_to(folder)), []).append(file)
        if chosen and (left := [file for file in every if file not in chosen]):
            announce(
                f"{folder}: not read: {', '.join(file.name for file in left[:8])} (not the split of the benchmark)"
            )
    return found


def _config_of(benchmark: Benchmark, path: Path) -> str | None:
    """Return the config that a path names."""
    return next((config for config in benchmark.configs if config is not None and config in path.as_posix()), None)
