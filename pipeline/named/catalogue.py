"""The known data sets as `micropref datasets` lists them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from micropref.cache.datasets import Dataset
from micropref.cache.errors import BadInput, Damaged
from micropref.cache.store import StoreFolder
from micropref.pipeline.named.adapters.facts import NamedDataset
from micropref.pipeline.named.registry import find_named, named_datasets


@dataclass(frozen=True)
class Catalogue:
    """What is known of public data sets."""

    datasets: list[dict[str, Any]]
    """One object each, in the order of lists."""
    chosen: str | None
    """The one that was asked for; None: all."""


def catalogue(store: StoreFolder, name: str | None = None) -> Catalogue:
    """Return what is known of all data sets, or of one. Raises BadInput listing the known ones."""
    if name is not None and find_named(name) is None:
        known = ", ".join(one.name for one in named_datasets().values())
        raise BadInput(f"data set {name!r}: no adapter is known by that name (there: {known}); embed reads others too")
    one = None if name is None else find_named(name)
    here = _embedded(store)
    shown = named_datasets().values() if one is None else [one]
    return Catalogue([_fields(each, here) for each in shown], None if one is None else one.name)


def _fields(one: NamedDataset, here: dict[str, list[str]]) -> dict[str, Any]:
    return {
        "name": one.name,
        "licence": one.licence,
        "size": one.size,
        "labels": one.labels,
        "attributes": one.attributes,
        "contexts": one.contexts,
        "users": one.users,
        "protocol": one.protocol or None,
        "configs": {name: list(adapter.columns) for name, adapter in one.configs.items()},
        "embedded_as": here.get(one.name, []),
    }


def _embedded(store: StoreFolder) -> dict[str, list[str]]:
    """Return which data sets of the store were read from which of the hub's."""
    found: dict[str, list[str]] = {}
    for data in store.names("datasets"):
        try:
            sources = [str(part.record["source"]) for part in Dataset(data, store.dataset(data)).parts]
        except Damaged:
            continue  # `verify` says so
        for repository in dict.fromkeys(source.partition("@")[0].partition(" from ")[0] for source in sources):
            found.setdefault(repository, []).append(data)
    return found
