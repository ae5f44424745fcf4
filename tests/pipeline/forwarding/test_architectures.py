"""Every family of models by every pass that it takes, against each text alone: in float32 to 1e-5."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from micropref.cache.errors import BadInput
from micropref.pipeline.backbone.architecture import carries_state
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.forwarding.choose_pass import choose_pass
from micropref.pipeline.forwarding.passes import Pass
from micropref.pipeline.text.tokens import Tokens
from tests.support.architectures import ARCHITECTURES, alone, texts_and_groups, tiny, worst
from tests.support.backbones import byte_tokenizer

BAR = 1e-5
TREES = (
    "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi", "phi3", "gpt2", "neox", "gptj", "opt",
    "olmo2", "cohere", "granite", "starcoder2", "glm", "smollm3", "mixtral", "qwen3-moe", "deepseek3",
)  # fmt: skip
PACKS = (
    "bert", "roberta", "xlm-roberta", "distilbert", "modernbert", "electra", "albert", "nomic",
    "gemma3-encoder",
)  # fmt: skip
CARRIES_STATE = (
    "mamba", "mamba2", "rwkv", "lfm2", "jamba", "recurrent-gemma", "falcon-h1", "qwen3-next", "convbert",
)  # fmt: skip
PADDING_MATTERS = ("fnet", "convbert")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def read(chosen: Pass, texts: list[Tokens], groups: list[int]) -> torch.Tensor:
    vectors = torch.full((len(texts), chosen.backbone.width), float("nan"))
    for batch in chosen.run(texts, groups):
        vectors[batch.places] = batch.vectors
    return vectors


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_every_pass_reads_each_text_as_it_is_alone(family: str) -> None:
    texts, groups = texts_and_groups()
    backbone = tiny(ARCHITECTURES[family]())
    expected = alone(backbone, texts)
    said: list[str] = []
    taken = []
    names: tuple[Any, ...] = ("auto", "tree", "packed", "padded") if backbone.causal else ("auto", "packed", "padded")
    for name in names:
        try:
            chosen = choose_pass(backbone, name, 200, texts, groups, said.append)
        except BadInput:  # does not suit the family, which is said before anything is read
            assert name != "padded"
            continue
        taken.append(chosen.name)
        assert worst(read(chosen, texts, groups), expected) <= BAR, name
    fastest = "tree" if family in TREES else "packed" if family in PACKS else "padded"
    assert taken[0] == fastest
    assert len(said) == (0 if fastest != "padded" else 1 + 2 * (family in PADDING_MATTERS))
    # In other company, and in another order: nothing of earlier texts is left in the model.
    again = [texts[at] for at in (14, 3, 0, 9)]
    assert worst(torch.cat([backbone.embed(again[:3]), backbone.embed(again[3:])]), alone(backbone, again)) <= BAR or (
        family in PADDING_MATTERS
    )


@pytest.mark.parametrize("family", CARRIES_STATE)
def test_what_hands_a_state_from_row_to_row_is_never_packed(family: str) -> None:
    texts, groups = texts_and_groups()
    backbone = tiny(ARCHITECTURES[family]())
    assert backbone.own_order is not None
    with pytest.raises(BadInput, match=r"which mixes texts that share rows|has attention of its own"):
        choose_pass(backbone, "packed", None, texts, groups, pytest.fail)


def test_attention_alone_carries_no_state() -> None:
    assert not any(carries_state(tiny(ARCHITECTURES[family]()).trunk) for family in ("llama", "gpt2", "bert", "gemma3"))


def test_25_architectures_and_more() -> None:
    assert len(ARCHITECTURES) >= 25
    assert set(TREES) | set(PACKS) | set(CARRIES_STATE) | set(PADDING_MATTERS) <= set(ARCHITECTURES)


@pytest.mark.slow
@pytest.mark.parametrize("family", ARCHITECTURES)
def test_every_family_is_loaded_from_its_files_and_planned_without_its_weights(family: str, tmp_path: Path) -> None:
    made = tiny(ARCHITECTURES[family]())
    made.trunk.save_pretrained(tmp_path)
    byte_tokenizer("gpt2").save_pretrained(tmp_path)
    loaded = Backbone.load(str(tmp_path), dtype="float32", device="cpu")
    planned = Backbone.load(str(tmp_path), dtype="float32", weights=False)
    assert (planned.width, planned.causal, planned.settings()) == (loaded.width, loaded.causal, loaded.settings())
    texts, _ = texts_and_groups()
    assert worst(loaded.embed(texts[:1]), alone(made, texts[:1])) <= BAR
