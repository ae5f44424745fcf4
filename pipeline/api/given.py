"""Sources as users give them: paths, rows in memory, standard input, and names on the hub."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from micropref.cache.errors import BadInput
from micropref.pipeline.api.rows import as_paths, given_paths

if TYPE_CHECKING:  # reading files loads pyarrow, which importing the package does not
    from micropref.pipeline.sources.locations import Given


@dataclass(frozen=True)
class HowToFind:
    """What a user says of where a source is and how its rows are read."""

    config: str | None = None
    """Which config of a data set with several."""
    copy: Path | None = None
    """Where a copy of a data set of the hub lies."""
    adapter: Path | None = None
    """Python file that reads its rows."""


def given_sources(source: Any, how: HowToFind, kept: Path, announce: Callable[[str], None]) -> list[Given]:
    """Return the sources that are meant. `kept` is the folder where rows in memory and of standard input are kept.

    Raises BadInput for what is not there, and for options that do not fit the source.
    """
    from micropref.pipeline.api.stdin import STDIN, kept_stdin
    from micropref.pipeline.named.own_adapter import load_adapter
    from micropref.pipeline.sources.locations import Given

    own = None if how.adapter is None else load_adapter(how.adapter)
    found = []
    for path in given_paths(source) or as_paths(source, kept):
        if str(path) == STDIN:
            found.append(Given(kept_stdin(kept), adapter=own))
        else:
            found.append(_named(path, how, announce) or Given(path, adapter=own, config=how.config))
    if how.copy is not None and len(found) > 1:
        raise BadInput("`from_dir` is the copy of one data set: give one name")
    return found if own is None else [Given(one.path, one.label, own, how.config) for one in found]


def default_name(source: Any) -> str:
    """Return what a data set of the hub is called in the store. Raises BadInput for any other source."""
    from micropref.pipeline.named.hub import hub_name

    paths: Sequence[Path] = given_paths(source)
    found = hub_name(paths[0]) if len(paths) == 1 else None
    if found is None:
        raise BadInput("name is missing: expected what to call the data set; only those of the hub have a name already")
    return found.short


def _named(path: Path, how: HowToFind, announce: Callable[[str], None]) -> Given | None:
    """Return a data set of the hub, from its copy or from the hub's cache; None where the source is a path."""
    from micropref.pipeline.named.hub import hub_name, snapshot
    from micropref.pipeline.named.registry import find_named
    from micropref.pipeline.sources.locations import Given

    name = hub_name(path)
    if name is None:
        if how.copy is not None:
            raise BadInput(f"{path}: `from_dir` is for names on the hub, such as nvidia/HelpSteer2; leave it out")
        return None
    known = find_named(name.repository)
    adapter = None if known is None else known.adapter(how.config)
    if known is not None and adapter is None:
        raise BadInput(f"{name.repository}: found no config {how.config!r} (there: {', '.join(known.configs)})")
    if how.copy is not None:
        folder, label = how.copy, f"{name.repository} from {how.copy}"
    else:
        patterns = () if adapter is None else (*(one for few in adapter.files.values() for one in few), *adapter.beside)
        folder, commit = snapshot(name, patterns)
        label = f"{name.repository}@{commit}"
        announce(f"{name.repository}: revision {commit}")
    return Given(folder, label, adapter, how.config if known is None else known.card_config(how.config))
