"""The data set of a run, which is not there where the run came from elsewhere."""

from __future__ import annotations

from micropref.cache.datasets import Dataset, open_dataset
from micropref.cache.errors import BadInput
from micropref.cache.runs.records import Run
from micropref.cache.store import StoreFolder


def data_is_elsewhere(store: StoreFolder, run: Run) -> bool:
    """Say whether a run came from elsewhere and its data is not here."""
    return run.record["data"] not in store.names("datasets") and run.origin() is not None


def open_run_data(store: StoreFolder, run: Run, name: str | None = None) -> Dataset:
    """Open a data set, by default the run's own. Raises BadInput where it is not there, saying whether it never was."""
    own = run.record["data"]
    if name in (None, own) and data_is_elsewhere(store, run):
        raise BadInput(
            f"run {run.id} came from a pack, without its data: this needs data set {own!r}; embed it here under that "
            "name, with the run's backbone and settings (`micropref show`), or name another"
        )
    return open_dataset(store, name or own)
