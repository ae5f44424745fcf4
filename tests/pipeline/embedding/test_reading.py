"""How a data set's texts are read: as its checkpoint asks, as the data set began, and never as company asks."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoConfig, AutoModel, LlamaConfig, Phi3Config

from micropref.cache.datasets import open_dataset
from micropref.cache.errors import BadInput
from micropref.cache.schemas import KEY_COLUMNS
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.opening import open_features, planned_features
from micropref.pipeline.backbone.architecture import fixed_positions
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.backbone.recipe import choose_recipe, first_release
from micropref.pipeline.embedding.embed import embed
from micropref.pipeline.embedding.embed_report import EmbedReport
from micropref.pipeline.forwarding.options import EmbedOptions
from micropref.pipeline.sources.ingest import SourceOptions
from micropref.pipeline.text.tokenizer import Tokenizing
from tests.support.backbones import CHAT_TEMPLATE, SHAPE, VOCABULARY, byte_tokenizer
from tests.support.embedding_models import save_embedding_model

ARCHIVE = Path(__file__).parents[2] / "data" / "store-0.1.0.tar.gz"
RIVER = {"prompt": "Name a river.", "chosen": "Po.", "rejected": "Wet"}
LAKE = {"prompt": "Name a lake.", "chosen": "Como.", "rejected": "Dry."}
LONG = {"prompt": "Tell me " + "more and " * 12, "chosen": "Yes " * 20, "rejected": "No " * 20}
PROMPT = {"prompts": {"query": "Query: "}, "default_prompt_name": "query"}
Embed = Callable[..., tuple[EmbedReport, list[str]]]


@pytest.fixture
def embed_rows(store: StoreFolder, write_rows: Callable[..., Path]) -> Embed:
    """Return `run(rows, backbone, name)`: the report and what was announced."""

    def run(
        rows: list[dict[str, Any]], backbone: Path, name: str = "mine", *, plan_only: bool = False, **options: Any
    ) -> tuple[EmbedReport, list[str]]:
        said: list[str] = []
        path = write_rows(rows, f"{name}-{len(rows)}.jsonl")
        asked = EmbedOptions(backbone=str(backbone), **{"dtype": "float32", "device": "cpu", **options})
        report = embed(store, [path], name, SourceOptions(), asked, plan_only=plan_only, announce=said.append)
        return report, said

    return run


def vectors(store: StoreFolder, report: EmbedReport, name: str = "mine") -> dict[bytes, np.ndarray]:
    """Return the vectors of a data set's texts by their keys."""
    features = open_features(store, report.features)
    frame = open_dataset(store, name).linked_pairs(features.id, "train", list(KEY_COLUMNS))
    keys = pl.concat([frame[column] for column in KEY_COLUMNS]).drop_nulls().unique()
    return dict(zip(keys.to_list(), features.gather(features.locate(keys)), strict=True))


def with_rope(folder: Path, kind: str) -> Path:
    """Save a tiny model whose positions mean something else in texts beyond 32 tokens."""
    rope: dict[str, Any] = {"rope_type": kind, "rope_theta": 1e4, "original_max_position_embeddings": 32}
    rope |= {"factor": 4.0} if kind == "dynamic" else {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    ends = {"pad_token_id": 0, "bos_token_id": 256, "eos_token_id": 257}
    make: Any = LlamaConfig if kind == "dynamic" else Phi3Config
    ends |= {"original_max_position_embeddings": 32} if kind == "longrope" else {}
    config = make(
        **SHAPE, **ends, num_key_value_heads=2, vocab_size=VOCABULARY, max_position_embeddings=512, rope_parameters=rope
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModel.from_config(config)
    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            torch.nn.init.normal_(weight, std=0.15, generator=torch.Generator().manual_seed(len(name)))
    model.save_pretrained(folder)
    byte_tokenizer("llama").save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
@pytest.mark.parametrize("tokens_per_batch", [1, 64, None])
@pytest.mark.parametrize("packing", ["auto", "padded"])
def test_a_long_text_in_the_batch_changes_no_other_vector(
    tmp_path: Path, store: StoreFolder, embed_rows: Embed, kind: str, tokens_per_batch: int | None, packing: str
) -> None:
    folder = with_rope(tmp_path / "model", kind)
    assert fixed_positions(AutoConfig.from_pretrained(folder)) == 32
    how: dict[str, Any] = {"packing": packing, "tokens_per_batch": tokens_per_batch}
    short, _ = embed_rows([RIVER], folder, "short", **how)
    expected = vectors(store, short, "short")
    other = StoreFolder(store.root / "other")
    path = store.root / "both.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (LONG, RIVER)))
    asked = EmbedOptions(backbone=str(folder), dtype="float32", device="cpu", **how)
    both = embed(other, [path], "mine", SourceOptions(), asked)
    found = vectors(other, both)
    assert set(expected) < set(found)
    assert len(found) == 6
    for key, vector in expected.items():
        assert np.linalg.norm(found[key] - vector) <= 1e-5 * np.linalg.norm(vector)


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("plan_only", [True, False])
def test_a_token_without_a_row_in_the_embedding_is_named_before_the_pass(
    make_backbone: Callable[..., Path], store: StoreFolder, embed_rows: Embed, special: bool, plan_only: bool
) -> None:
    folder = make_backbone("llama")
    tokenizer = Backbone.load(str(folder)).tokenizer
    tokenizer.add_tokens(["<persona>"], special_tokens=special)
    tokenizer.save_pretrained(folder)
    persona = {**RIVER, "prompt": "<persona> Name a river."}
    kept: dict[str, Any] = {"special_tokens": "keep"} if special else {}  # otherwise it is text, like any other
    with pytest.raises(BadInput, match=r"jsonl:2: prompt: token '<persona>' has id 264, .* has 264 rows") as caught:
        embed_rows([LAKE, persona], folder, plan_only=plan_only, **kept)
    assert "\n" not in str(caught.value)
    assert not store.root.exists()
    report, said = embed_rows([LAKE, RIVER], folder, plan_only=plan_only)
    assert report.texts_embedded == 6
    assert [line for line in said if line.startswith("warning")] == [
        f"warning: backbone {folder}: its tokenizer has '<persona>' for which its embedding has no row"
    ]


@pytest.mark.parametrize("plan_only", [True, False])
def test_a_context_with_such_a_token_is_named(
    make_backbone: Callable[..., Path], embed_rows: Embed, plan_only: bool
) -> None:
    folder = make_backbone("llama")
    tokenizer = Backbone.load(str(folder)).tokenizer
    tokenizer.add_tokens(["<persona>"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(BadInput, match="context: token '<persona>' has id 264"):
        embed_rows([{**RIVER, "context": "As <persona>."}], folder, plan_only=plan_only)


@pytest.mark.parametrize("plan_only", [True, False])
def test_a_new_data_set_gets_the_embedding_models_own_recipe(
    tmp_path: Path, embed_rows: Embed, plan_only: bool
) -> None:
    folder = save_embedding_model(tmp_path / "model")
    _, said = embed_rows([RIVER], folder, plan_only=plan_only)
    recipe = "last pooling, vectors of length 1, texts end as its tokenizer ends them"
    assert f"backbone {folder}: an embedding model's own recipe: {recipe}" in said


def test_stored_vectors_of_an_embedding_model_are_its_own(
    tmp_path: Path, store: StoreFolder, embed_rows: Embed
) -> None:
    library = pytest.importorskip("sentence_transformers")
    folder = save_embedding_model(tmp_path / "model", prompts=PROMPT, chat_template=CHAT_TEMPLATE)
    report, _ = embed_rows([RIVER, LAKE], folder)
    found = np.stack(list(vectors(store, report).values()))
    texts = [row["prompt"] for row in (RIVER, LAKE)]
    texts += [f"{row['prompt']}\n\n{row[side]}" for row in (RIVER, LAKE) for side in ("chosen", "rejected")]
    theirs = library.SentenceTransformer(str(folder), device="cpu").encode(texts)
    apart = np.abs(found[:, None] - theirs[None]).max(axis=2)
    assert (apart.min(axis=0) <= 1e-4).all()
    assert sorted(apart.argmin(axis=0)) == list(range(6))


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        ("qwen2", {}),
        ("qwen2", {"prompts": PROMPT, "chat_template": CHAT_TEMPLATE}),
        ("bert", {"prompts": PROMPT, "pooling": {"pooling_mode": "mean"}}),
        ("bert", {"lower_case": True, "pooling": {"pooling_mode": "cls"}}),
    ],
)
def test_a_data_set_made_before_keeps_its_reading(
    tmp_path: Path, embed_rows: Embed, monkeypatch: pytest.MonkeyPatch, kind: str, model: dict[str, Any]
) -> None:
    folder = save_embedding_model(tmp_path / "model", kind, **model)
    with monkeypatch.context() as patch:

        def as_before(name: Any, path: Path, *, causal: bool) -> Any:
            return first_release(choose_recipe(name, path, causal=causal), causal=causal)

        patch.setattr("micropref.pipeline.backbone.backbone.choose_recipe", as_before)
        before, _ = embed_rows([RIVER], folder)
    for plan_only in (True, False):
        grown, said = embed_rows([RIVER, LAKE], folder, plan_only=plan_only)
        assert (grown.features, grown.texts_embedded) == (before.features, 3)
        assert any("was made without the embedding model's own recipe, and goes on so" in line for line in said)
    fresh, said = embed_rows([RIVER, LAKE], folder, "another")
    assert fresh.features != before.features
    assert any("an embedding model's own recipe: " in line for line in said)
    again, said = embed_rows([RIVER, LAKE], folder, "another")
    assert (again.features, again.texts_embedded) == (fresh.features, 0)


def test_where_the_recipe_is_what_was_always_read_nothing_changes(tmp_path: Path, embed_rows: Embed) -> None:
    folder = save_embedding_model(tmp_path / "model", "bert", pooling={"pooling_mode": "mean"})
    first, _ = embed_rows([RIVER], folder)
    second, said = embed_rows([RIVER], folder, "another")
    assert (second.features, second.texts_embedded) == (first.features, 0)
    assert not any("goes on so" in line for line in said)


def test_the_features_id_of_the_first_release_is_the_same_today(
    tmp_path: Path, tiny_backbone: Callable[..., Path], store: StoreFolder
) -> None:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    (path,) = (tmp_path / "s" / "features").glob("*/features.json")
    old = json.loads(path.read_text())
    backbone = Backbone.load(str(tiny_backbone("llama", chat=True)), dtype="float32", device="cpu")
    tokenizing = Tokenizing(max_length=backbone.max_length, special_tokens="keep")
    today = {**backbone.settings(), **backbone.pair_tokenizer(tokenizing).settings()}
    today |= {"width": backbone.width, "store_dtype": "float32"}
    today |= {name: old[name] for name in ("checkpoint", "tokenizer")}  # random weights are others on each machine
    assert planned_features(store, today).id == path.parent.name
