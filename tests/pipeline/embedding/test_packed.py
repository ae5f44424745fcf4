"""Stores whose shards became packs give every command the same as before: pairs, runs, nothing to embed again."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import micropref
from micropref.cache.maintenance import gc
from micropref.cache.maintenance.gc import collect
from micropref.cache.maintenance.verify import verify
from micropref.cache.vectors.opening import only_features
from micropref.cache.vectors.packing import pack

OPTIONS: dict[str, Any] = {"split_by_prompt": 0.3, "device": "cpu", "dtype": "float32"}


@pytest.fixture
def stores(
    tmp_path: Path, rows: list[dict[str, Any]], tiny_backbone: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> tuple[micropref.Store, micropref.Store]:
    """Return the same data set embedded into a store of shards and, in two commands, into one of packs."""
    plain, packed = micropref.Store(tmp_path / "plain"), micropref.Store(tmp_path / "packed")
    plain.embed(rows, "mine", backbone=tiny_backbone("llama"), **OPTIONS)
    monkeypatch.setattr(gc, "pack", functools.partial(pack, least=1, size=1 << 14))
    packed.embed(rows[:60], "some", backbone=tiny_backbone("llama"), **OPTIONS)
    packed.embed(rows, "mine", backbone=tiny_backbone("llama"), **OPTIONS)
    return plain, packed


def test_packs_serve_what_shards_serve(stores: tuple[micropref.Store, micropref.Store]) -> None:
    plain, packed = stores
    features = only_features(packed._store, None)
    assert len(features.packs) >= 2
    assert features.shards == []
    for query in ("SELECT * FROM pairs WHERE data = 'mine' ORDER BY pair_id", "SELECT count(*) AS n FROM embeddings"):
        assert packed.sql(query).equals(plain.sql(query))
    runs = [store.train("mine", k=2, restarts=1, epochs=2, hidden=8, device="cpu").record for store in stores]
    assert runs[0]["validation_nll"] == pytest.approx(runs[1]["validation_nll"], abs=1e-6)
    assert verify(packed._store).problems == []


def test_nothing_is_embedded_again(
    stores: tuple[micropref.Store, micropref.Store], rows: list[dict[str, Any]], tiny_backbone: Callable[..., Path]
) -> None:
    _, packed = stores
    again = packed.embed(rows, "other", backbone=tiny_backbone("llama"), **OPTIONS)
    assert again.texts_embedded == 0
    assert again.texts_reused == again.texts


def test_gc_leaves_what_packs_hold_and_takes_what_packing_left(stores: tuple[micropref.Store, micropref.Store]) -> None:
    _, packed = stores
    old = time.time() - 10 * 86_400
    for path in packed.folder.rglob("*"):
        if path.is_file():
            os.utime(path, (old, old))
    assert collect(packed._store).vectors == 0
    assert not list(packed.folder.glob("features/*/shards/*"))
    assert packed.train("mine", method="single").run
    assert verify(packed._store).problems == []
