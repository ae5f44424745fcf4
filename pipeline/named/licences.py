"""Licences of what a run is made of: those that public documentation, or a card next to the files, states."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from micropref.cache.datasets import Dataset
from micropref.cache.errors import MicroprefError
from micropref.cache.runs.records import Run
from micropref.cache.store import StoreFolder
from micropref.pipeline.named.hub import HUB_NAME
from micropref.pipeline.named.registry import named_datasets
from micropref.pipeline.options import MINILM, SMOLLM2

_PACKAGED = {MINILM: "apache-2.0", SMOLLM2: "apache-2.0"}
"""Of the backbones that packages carry, as the cards of the models say."""
_README = "README.md"


@dataclass(frozen=True)
class Licences:
    """Under which licences something stands; None: not known."""

    own: str | None = None
    """Of what is published, as its owner says."""
    data: str | None = None
    """Of the data it was learned from; several are joined by "; "."""
    backbone: str | None = None
    """Of the backbone whose vectors it reads."""

    @property
    def unknown(self) -> list[str]:
        """Return of what the licence is not known: data, backbone."""
        return [name for name in ("data", "backbone") if getattr(self, name) is None]

    def filled(self, told: Mapping[str, str | None]) -> Licences:
        """Return the same, with the licences given for those that are not known."""
        return Licences(**{name: mine or told.get(name) for name, mine in vars(self).items()})

    @property
    def front(self) -> str | None:
        """Return what a card's field `license` says: `other` where several differ, None where nothing is known."""
        if self.own is not None:
            return self.own
        known = {name.lower() for name in (self.data, self.backbone) if name is not None}
        if not known or self.unknown:
            return None
        return known.pop() if len(known) == 1 else "other"

    def lines(self) -> list[str]:
        """Return them for people, one line each."""
        named = {"this": self.own, "data it was learned from": self.data, "backbone": self.backbone}
        return [f"licence of {what}: {name or 'not known'}" for what, name in named.items() if what != "this" or name]


def licences_of(store: StoreFolder, data: Iterable[str], about: dict[str, Any], own: str | None = None) -> Licences:
    """Return the licences of data sets of the store and of the backbone that `about` describes."""
    return Licences(own, _of_data(store, data), _of_backbone(about))


def run_licences(store: StoreFolder, run: Run, about: dict[str, Any], own: str | None = None) -> Licences:
    """Return the licences of a run's data and backbone; what is not known here is as it was told where it came from."""
    found = licences_of(store, [run.record["data"]], about, own)
    return found.filled((run.origin() or {}).get("licences", {}))


def sources_on_hub(store: StoreFolder, data: str) -> list[str]:
    """Return which data sets of the hub a data set was read from, sorted; nothing where any part was not."""
    found = [_hub_source(part) for part in _sources(store, data)]
    return sorted({name for name in found if name}) if all(found) else []


def _sources(store: StoreFolder, data: str) -> list[str]:
    with suppress(MicroprefError):
        return [str(part.record["source"]) for part in Dataset(data, store.dataset(data)).parts]
    return []


def _hub_source(source: str) -> str | None:
    """Return owner/name of a source of the hub: `owner/name@revision`, or `owner/name from FOLDER` for a copy."""
    name, copied, _ = source.partition(" from ")
    found = HUB_NAME.fullmatch(name)
    return f"{found['owner']}/{found['name']}" if found and (found["revision"] or copied) else None


def _of_data(store: StoreFolder, names: Iterable[str]) -> str | None:
    found: set[str] = set()
    for name in names:
        sources = sources_on_hub(store, name)
        stated = [_stated(source) for source in sources]
        if not sources or None in stated:
            return None
        found |= {licence for licence in stated if licence}
    return "; ".join(sorted(found)) or None


def _stated(repository: str) -> str | None:
    """Return the licence of a data set of the hub: as known here, else as its card in the hub's cache says."""
    known = named_datasets().get(repository.lower())
    if known is not None:
        return None if known.licence.startswith("not ") else known.licence
    return _cached_card(repository, "dataset", None)


def _of_backbone(about: dict[str, Any]) -> str | None:
    name, revision = about.get("name"), about.get("revision")
    if not isinstance(name, str):
        return None
    if name in _PACKAGED:
        return _PACKAGED[name]
    if revision is not None:
        return _cached_card(name, "model", str(revision))
    folder = Path(name).expanduser()
    return _card(folder / _README) if folder.is_dir() else None


def _cached_card(repository: str, kind: str, revision: str | None) -> str | None:
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(repository, _README, repo_type=kind, revision=revision)
    return _card(Path(path)) if isinstance(path, str) else None


def _card(path: Path) -> str | None:
    """Return the field `license` of a card's front matter; None where it has none, or cannot be read."""
    from huggingface_hub import metadata_load

    try:
        found = (metadata_load(path) or {}) if path.is_file() else {}
    except Exception:  # noqa: BLE001 - a card that nobody can read states nothing
        return None
    if not isinstance(found, dict):
        return None
    licence = found.get("license_name") if found.get("license") == "other" else found.get("license")
    licence = licence[0] if isinstance(licence, list) and licence else licence
    return licence if isinstance(licence, str) and licence not in ("", "unknown", "other") else None
