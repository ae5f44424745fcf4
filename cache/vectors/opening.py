"""Opening features: by id, by settings, the only ones there are."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from micropref.cache.errors import BadInput, Damaged, Failure, cannot_read
from micropref.cache.keys import short_id
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.features import Features
from micropref.cache.vectors.features_folder import REWRITTEN
from micropref.cache.vectors.parquet_layout import (
    LAYOUT_VERSION,
)


def whole_features(store: StoreFolder, settings: dict[str, Any]) -> tuple[Features, dict[str, str]]:
    """Return the features of these settings without their damaged shards, and those (name -> what is wrong)."""
    features = planned_features(store, settings)
    damaged = features.damaged()
    return replace(features, skip=frozenset(damaged)), damaged


def planned_features(store: StoreFolder, settings: dict[str, Any]) -> Features:
    """Return the features of these settings, on disk or not yet; their id is the settings' hash."""
    known = {**settings, "layout_version": LAYOUT_VERSION}
    return Features(store.features(short_id(known)), known)


def open_features(store: StoreFolder, features_id: str) -> Features:
    """Open features by id. Raises BadInput where there is none, Failure where its settings are damaged."""
    folder = store.existing("features", features_id)
    path = folder / "features.json"
    try:
        settings = json.loads(path.read_bytes())
        damaged = short_id(settings) != features_id
    except (ValueError, TypeError, RecursionError):
        damaged = True
    except OSError as error:
        raise cannot_read(path, error) from error
    if damaged:
        raise Damaged(f"{path}: changed after it was written, so its vectors cannot be trusted; {REWRITTEN}")
    if settings["layout_version"] != LAYOUT_VERSION:
        raise Failure(f"{path}: layout {settings['layout_version']}, this version reads {LAYOUT_VERSION}")
    return Features(folder, settings)


def only_features(store: StoreFolder, features_id: str | None, candidates: list[str] | None = None) -> Features:
    """Return the features asked for, or the only ones there are. Raises BadInput where a choice is needed."""
    there = store.names("features") if candidates is None else candidates
    if features_id is None and len(there) != 1:
        found = f"{len(there)} features ids ({', '.join(there)})" if there else "no embedded features"
        advice = "choose one with `features`" if there else "run `micropref embed` first"
        raise BadInput(f"store {store.root} has {found}: {advice}")
    return open_features(store, features_id or there[0])
