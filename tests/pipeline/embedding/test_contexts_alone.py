"""Contexts embedded by themselves: the right vectors, once, kept and removed as the others are."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from micropref.cache.errors import Interrupted
from micropref.cache.maintenance.gc import collect
from micropref.cache.maintenance.verify import verify
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.context_keys import context_keys
from micropref.cache.vectors.features import Features
from micropref.cache.vectors.opening import open_features
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.embedding.embed import embed
from micropref.pipeline.embedding.embed_report import EmbedReport
from micropref.pipeline.forwarding.options import EmbedOptions
from micropref.pipeline.sources.ingest import SourceOptions

Write = Callable[..., Path]
CHAT = "<s><|user|>{}<|end|><|assistant|>"
"""What the tiny backbones' chat template makes of a lone user's turn."""


def run(store: StoreFolder, path: Path, backbone: Path, name: str = "mine", **sources: Any) -> EmbedReport:
    options = EmbedOptions(str(backbone), dtype="float32", store_dtype="float32")
    return embed(store, [path], name, SourceOptions(**sources), options)


def vectors(features: Features) -> dict[str, np.ndarray]:
    table = context_keys(features)
    return dict(zip(table["context"], features.gather(features.locate(table["key"])), strict=True))


@pytest.mark.parametrize(("kind", "chat"), [("llama", False), ("llama", True), ("bert", False)])
def test_a_context_has_the_vector_of_its_text_alone(
    store: StoreFolder,
    write_rows: Write,
    rows: list[dict[str, Any]],
    tiny_backbone: Callable[..., Path],
    kind: str,
    chat: bool,
) -> None:
    folder = tiny_backbone(kind, chat=chat)
    report = run(store, write_rows(rows[:12]), folder)
    found = vectors(open_features(store, report.features))
    assert set(found) == {row["context"] for row in rows[:12]}
    backbone = Backbone.load(str(folder), dtype="float32")
    for context, vector in found.items():
        text = CHAT.format(context) if chat else context
        ids = torch.tensor([backbone.tokenizer(text, add_special_tokens=not chat)["input_ids"]])
        with torch.inference_mode():
            hidden = backbone.trunk(input_ids=ids).last_hidden_state[0]
        expected = (torch.nn.functional.normalize(hidden.mean(0), dim=0) if kind == "bert" else hidden[-1]).numpy()
        assert np.linalg.norm(vector - expected) <= 1e-5 * np.linalg.norm(expected)


def test_a_data_set_of_an_older_version_gets_what_it_lacks_and_nothing_else(
    store: StoreFolder, write_rows: Write, rows: list[dict[str, Any]], tiny_backbone: Callable[..., Path]
) -> None:
    path, folder = write_rows(rows[:12]), tiny_backbone("llama")
    first = run(store, path, folder)
    features = open_features(store, first.features)
    shutil.rmtree(features.folder / "contexts")
    assert collect(store, min_age_s=0).vectors == 2, "nothing needs them without the table"
    again = run(store, path, folder)
    assert (again.features, again.texts_embedded, again.texts, again.contexts) == (first.features, 2, first.texts, 2)
    other = run(store, write_rows(rows[:6], "b.jsonl"), folder, name="other", split="test")
    assert other.texts_embedded == 0, "contexts are shared by data sets and splits"
    assert verify(store).problems == []


def test_gc_keeps_contexts_that_a_data_set_has_and_verify_misses_lost_ones(
    store: StoreFolder, write_rows: Write, rows: list[dict[str, Any]], tiny_backbone: Callable[..., Path]
) -> None:
    report = run(store, write_rows(rows[:12]), tiny_backbone("llama"))
    assert (collect(store, min_age_s=0).vectors, verify(store).problems) == (0, [])
    features = open_features(store, report.features)
    lost = next(item for item in features.commits if item.files["vectors"].rows == 2)
    lost.remove()
    assert "the vectors of 2 contexts are gone" in " ".join(verify(store).problems)
    shutil.rmtree(store.root / "datasets")
    collect(store, min_age_s=0)
    assert context_keys(open_features(store, report.features)).is_empty()


def test_a_damaged_table_is_named_and_written_again(
    store: StoreFolder, write_rows: Write, rows: list[dict[str, Any]], tiny_backbone: Callable[..., Path]
) -> None:
    path, folder = write_rows(rows[:12]), tiny_backbone("llama")
    features = open_features(store, run(store, path, folder).features)
    (table,) = (features.folder / "contexts").glob("*.parquet")
    table.write_bytes(table.read_bytes()[:-1] + b"x")
    assert str(table) in " ".join(verify(store).problems)
    assert run(store, path, folder).texts_embedded == 0
    assert verify(store).problems == []
    assert context_keys(features).height == 2


def test_a_stopped_embed_goes_on_with_contexts(
    store: StoreFolder,
    write_rows: Write,
    rows: list[dict[str, Any]],
    tiny_backbone: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, folder = write_rows(rows[:12]), tiny_backbone("llama")
    real = Features.write_shard

    def stopped(self: Features, keys: list[bytes], values: Any, record: Any) -> Any:
        if len(keys) == 2:  # the contexts, which come last
            raise KeyboardInterrupt
        return real(self, keys, values, record)

    with monkeypatch.context() as patch:
        patch.setattr(Features, "write_shard", stopped)
        with pytest.raises(Interrupted):
            run(store, path, folder)
    report = run(store, path, folder)
    assert report.texts_embedded == 2
    assert pl.Series(vectors(open_features(store, report.features)).keys()).n_unique() == 2
