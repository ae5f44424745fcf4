"""Rows that a backbone cannot use: refused by its chat template, or with a vector that is not finite."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from micropref.cache.datasets import open_dataset
from micropref.cache.errors import BadInput, Failure
from micropref.cache.maintenance.verify import verify
from micropref.cache.store import StoreFolder
from micropref.pipeline.embedding.embed import embed
from micropref.pipeline.embedding.embed_report import EmbedReport
from micropref.pipeline.forwarding.options import EmbedOptions
from micropref.pipeline.options import OnBad
from micropref.pipeline.sources.ingest import SourceOptions
from tests.support.backbones import byte_tokenizer

Write = Callable[..., Path]
STRICT = (
    "{{ bos_token }}{% for message in messages %}{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}<|{{ message.role }}|>{{ message.content }}{% endfor %}"
)
"""As those of some chat models: no system turn, and user and assistant alternate."""


def talk(*turns: tuple[str, str], chosen: str = "A big river.", rejected: str = "Water.") -> dict[str, Any]:
    prompt = [{"role": role, "content": content} for role, content in turns]
    answers = {"chosen": chosen, "rejected": rejected}
    return {"prompt": prompt} | {side: [{"role": "assistant", "content": said}] for side, said in answers.items()}


MIXED = [
    talk(("user", "Name a river.")),
    talk(("system", "Be short."), ("user", "Name a lake.")),
    talk(("user", "Name a sea.")),
    talk(("user", "Hello"), ("user", "Name a hill.")),
]


def run(store: StoreFolder, source: Path, backbone: Path, on_bad: OnBad, **changes: Any) -> EmbedReport:
    options = EmbedOptions(str(backbone), dtype="float32")
    return embed(store, [source], "mine", SourceOptions(on_bad=on_bad, **changes), options)


def rejects(store: StoreFolder, features: str) -> list[tuple[int, str]]:
    (part,) = open_dataset(store, "mine").parts
    links = open_dataset(store, "mine").links(part, features)
    assert links is not None
    lines = links.checked_path("rejects").read_text(encoding="utf-8").splitlines()
    return [(one["line"], one["reason"]) for one in map(json.loads, lines)]


def test_pairs_that_the_template_refuses_are_set_aside_and_counted(
    store: StoreFolder, make_backbone: Callable[..., Path], write_rows: Write
) -> None:
    backbone = make_backbone("llama", chat_template=STRICT)
    source = write_rows(MIXED)
    with pytest.raises(BadInput, match=r"rows\.jsonl:2: .* system, user.*roles must alternate.*`on_bad` skip"):
        run(store, source, backbone, "stop")
    assert not (store.root / "datasets").exists()

    report = run(store, source, backbone, "skip")
    assert (report.pairs, report.rejected_rows) == (2, 2)
    assert report.dropped == {"refused by the backbone's template": 2}
    found = rejects(store, report.features)
    assert [line for line, _ in found] == [2, 4]
    assert all("roles must alternate" in reason for _, reason in found)
    frame = open_dataset(store, "mine").linked_pairs(report.features, "train", ["prompt", "prompt_key"])
    assert frame["prompt"].to_list() == ["user: Name a river.", "user: Name a sea."]
    assert verify(store).problems == []

    again = run(store, source, backbone, "skip")
    assert (again.pairs, again.rejected_rows, again.dropped) == (2, 2, report.dropped)
    assert again.tokens_forwarded == 0
    with pytest.raises(BadInput, match=r"rows\.jsonl:2: "):  # nothing is passed over that should stop
        run(store, source, backbone, "stop")


def test_another_backbone_uses_the_pairs_that_one_refused(
    store: StoreFolder, make_backbone: Callable[..., Path], tiny_backbone: Callable[..., Path], write_rows: Write
) -> None:
    source = write_rows(MIXED)
    strict = run(store, source, make_backbone("llama", chat_template=STRICT), "skip")
    other = run(store, source, tiny_backbone("llama"), "stop")
    assert (other.pairs, other.dropped) == (4, {})
    assert len(open_dataset(store, "mine").linked_pairs(strict.features, "train", ["prompt_key"])) == 2


def test_a_template_that_refuses_every_pair_stops(
    store: StoreFolder, make_backbone: Callable[..., Path], write_rows: Write
) -> None:
    backbone = make_backbone("llama", chat_template=STRICT)
    with pytest.raises(BadInput, match="no pair can be used: 2 are set aside, the first for refused by the backbone's"):
        run(store, write_rows([MIXED[1], MIXED[3]]), backbone, "skip")


@pytest.fixture
def broken(make_backbone: Callable[..., Path]) -> Path:
    """Return a backbone whose vectors are NaN from the first Z of a text on."""
    folder = make_backbone("llama")
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("embed_tokens.weight"))
    weights[name][byte_tokenizer("llama")("Z", add_special_tokens=False)["input_ids"][0]] = torch.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize("packing", ["auto", "padded"])
def test_pairs_whose_vectors_are_not_finite_are_set_aside_and_no_others(
    store: StoreFolder, broken: Path, write_rows: Write, packing: Any
) -> None:
    rows = [{"prompt": f"What is {n}?", "chosen": f"Number {n}.", "rejected": "A number."} for n in range(6)]
    rows[2]["rejected"] = "Zero"
    rows[4]["prompt"] = "Zip?"
    source = write_rows(rows)
    options = EmbedOptions(str(broken), dtype="float32", packing=packing)
    with pytest.raises(Failure, match=r"rows\.jsonl:3 \(rejected\): 32 of 32 .*`on_bad` skip"):
        embed(store, [source], "mine", SourceOptions(), options)

    report = embed(store, [source], "mine", SourceOptions(on_bad="skip"), options)
    assert (report.pairs, report.rejected_rows, report.dropped) == (4, 2, {"vector not finite": 2})
    assert rejects(store, report.features) == [
        (3, "vector not finite: 32 of 32 values of its vector are NaN or infinite"),
        (5, "vector not finite: 32 of 32 values of its vector are NaN or infinite"),
    ]
    frame = open_dataset(store, "mine").linked_pairs(report.features, "train", ["prompt", "prompt_key"])
    assert frame["prompt"].to_list() == [rows[row]["prompt"] for row in (0, 1, 3, 5)]
    assert verify(store).problems == []
