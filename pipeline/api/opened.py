"""An opened store: what all parts of the API stand on."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from micropref.cache.errors import BadInput
from micropref.cache.store import StoreFolder
from micropref.pipeline.api.run import Run
from micropref.pipeline.options import DEFAULT_STORE

_log = logging.getLogger("micropref")


class OpenedStore:
    """The folder of a store, opened."""

    def __init__(self, folder: str | Path | None = None, announce: Callable[[str], None] = _log.info) -> None:
        """Take a folder, which need not be there yet; None: $MICROPREF_STORE, else `data`.

        `announce` gets what was found and done, a line at a time; by default the logger `micropref` is.
        Raises BadInput for an empty name.
        """
        chosen = folder if folder is not None else os.environ.get("MICROPREF_STORE", DEFAULT_STORE)
        if not str(chosen):
            raise BadInput("store '': expected a folder")
        self.folder = Path(chosen)
        self._store, self._announce = StoreFolder(self.folder), announce

    def __repr__(self) -> str:
        names = {kind: self._store.names(kind) for kind in ("datasets", "runs")}
        return f"Store({str(self.folder)!r}): {len(names['datasets'])} data sets, {len(names['runs'])} runs"

    def run(self, name: str) -> Run:
        """Return a run by a name, its id or the start of its id. Raises BadInput listing the runs there are."""
        return Run(self._store, name)

    def _check_name(self, name: str | None) -> None:
        """Refuse a name for a run before hours are spent on it; say where another run has it already."""
        from micropref.cache.runs.names import check_new_run_name

        check_new_run_name(self._store, name, self._announce)

    def _give_name(self, name: str | None, run_id: str) -> None:
        """Give a run that was just made its name; where another run was first, say so."""
        from micropref.cache.runs.names import name_new_run

        name_new_run(self._store, name, run_id, self._announce)
