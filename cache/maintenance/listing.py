"""What a store holds: features, data sets and runs, for `micropref ls`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from micropref.cache.choices import TRAIN
from micropref.cache.datasets import Dataset, open_dataset
from micropref.cache.errors import BadInput, Failure
from micropref.cache.runs.names import RunNames, read_names, read_note
from micropref.cache.runs.records import Run, open_run
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.features import ROLE
from micropref.cache.vectors.opening import open_features


@dataclass(frozen=True)
class Listing:
    """One row a thing, ready for a table or JSON."""

    features: list[dict[str, Any]]
    """Backbone, width, dtype, vectors and size of each features id."""
    datasets: list[dict[str, Any]]
    """Source, split, pairs and the features ids that have them, one row for each source of a split."""
    runs: list[dict[str, Any]]
    """Names, method, data, K, λ, validation figures, whether the training data changed since, where it came from (null:
    fitted here), and the note."""
    damaged_names: list[str]
    """One line for each name's file that cannot be read."""


def list_store(store: StoreFolder) -> Listing:
    """Return what a store holds. Raises BadInput where there is no such folder."""
    if not store.root.is_dir():
        raise BadInput(f"store {store.root}: no such folder; `micropref embed` makes it, `store` chooses another")
    names = read_names(store)
    datasets = {name: open_dataset(store, name) for name in store.names("datasets")}
    return Listing(
        [_features(store, name) for name in store.names("features")],
        [row for dataset in datasets.values() for row in _sources(dataset)],
        [_run(store, name, datasets, names) for name in store.names("runs")],
        list(names.damaged),
    )


def _features(store: StoreFolder, name: str) -> dict[str, Any]:
    features = open_features(store, name)
    files = [item.files[ROLE] for item in features.commits]
    return {
        "features": name,
        "backbone": features.about().get("name"),
        "width": features.width,
        "dtype": str(features.dtype),
        "max_length": features.settings.get("max_length"),
        "imported": features.imported is not None,
        "vectors": sum(file.rows for file in files),
        "bytes": sum(file.bytes for file in files),
    }


def _sources(dataset: Dataset) -> list[dict[str, Any]]:
    return [
        {
            "data": dataset.name,
            "split": part.record["split"],
            "source": part.record["source"],
            "rows": part.record["shape"],
            "pairs": part.files["pairs"].rows,
            "limit": part.record["limit"],
            "features": [name for name in dataset.linked_features() if dataset.links(part, name)],
        }
        for part in dataset.parts
    ]


def _run(store: StoreFolder, name: str, datasets: dict[str, Dataset], names: RunNames) -> dict[str, Any]:
    """Return a run's row; one that cannot be read is listed with its damage, and the others are shown."""
    keys = ("run", "method", "data", "features", "k", "lam", "validation_nll", "validation_accuracy", "created")
    try:
        run = open_run(store, name)
        note, origin = read_note(run), run.origin() or {}
    except Failure as error:
        unknown = dict.fromkeys((*keys, "data_changed", "came_from", "note")) | {"run": name, "damage": str(error)}
        return {"run": name, "names": names.of(name), **unknown}
    changed = data_changed(run, datasets.get(run.record["data"]))
    known = {key: run.record[key] for key in keys} | {"data_changed": changed, "came_from": origin.get("came_from")}
    return {"run": name, "names": names.of(name), **known, "note": note, "damage": None}


def data_changed(run: Run, dataset: Dataset | None) -> bool:
    """Say whether the pairs that a run learned from are not those of its data set any more."""
    split = run.record.get("data_split", TRAIN)
    return dataset is None or split not in dataset.splits() or dataset.digest(split) != run.record["data_digest"]
