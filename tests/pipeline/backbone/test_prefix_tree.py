"""Prefix trees, packs and passes against plain counting, one text at a time, and a memory that runs out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from micropref.cache.errors import BadInput, Failure
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.backbone.packing import cut_packs, pack
from micropref.pipeline.backbone.prefix_tree import prefix_tree
from micropref.pipeline.backbone.tree_attention import ATTENTION_NAME
from micropref.pipeline.forwarding import pack_threads as readers
from micropref.pipeline.forwarding.choose_pass import choose_pass
from micropref.pipeline.forwarding.passes import PackedPass, PaddedPass, Pass
from micropref.pipeline.text.tokens import Tokens
from tests.support.prefixes import distinct_prefixes

Sequences = list[np.ndarray]
FILLED = 1 + 1 / 64
"""Packs are filled up to one of 64 numbers of rows between a power of two and the next."""


def random_sequences(generator: np.random.Generator) -> Sequences:
    """Sequences of few different tokens, most of which begin like an earlier one; some are equal, some a beginning."""
    found: Sequences = []
    for _ in range(generator.integers(1, 14)):
        head = found[generator.integers(len(found))] if found and generator.random() < 0.7 else np.array([], np.int32)
        head = head[: generator.integers(0, len(head) + 1)]
        tail = generator.integers(0, 3, generator.integers(0, 6))
        if len(head) + len(tail):
            found.append(np.concatenate([head, tail]).astype(np.int32))
    return found or [np.array([1], np.int32)]


def prefixes(sequences: Sequences) -> set[tuple[int, ...]]:
    return {tuple(ids[:length].tolist()) for ids in sequences for length in range(1, len(ids) + 1)}


def of_groups(count: int, *, seed: int = 0, longest: int = 40) -> tuple[list[Tokens], list[int]]:
    """Texts of `count` prompts: each alone and with up to four responses, one of which begins like another."""
    generator = np.random.default_rng(seed)
    texts, groups = [], []
    for group in range(count):
        prompt = generator.integers(2, 250, generator.integers(1, longest))
        tails = [generator.integers(2, 250, generator.integers(1, longest)) for _ in range(generator.integers(0, 4))]
        tails += [np.concatenate([tails[0][:5], tail]) for tail in tails[-1:]]
        for tail in [np.array([], np.int64), *tails]:
            texts.append(Tokens(np.concatenate([prompt, tail]).astype(np.int32)))
            groups.append(group)
    return texts, groups


def run(chosen: Pass, texts: list[Tokens], groups: list[int]) -> tuple[torch.Tensor, int]:
    vectors, times, forwarded = torch.zeros(len(texts), 32), np.zeros(len(texts)), 0
    for batch in chosen.run(texts, groups):
        vectors[batch.places] = batch.vectors
        times[batch.places] += 1
        forwarded += batch.forwarded
    assert (times == 1).all()
    return vectors, forwarded


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max())


@pytest.fixture(scope="module")
def llama(tiny_backbone: Callable[..., Path]) -> Backbone:
    return Backbone.load(str(tiny_backbone("llama")), dtype="float32", device="cpu")


def test_every_distinct_prefix_is_one_token_and_every_path_is_its_sequence() -> None:
    generator = np.random.default_rng(0)
    for _ in range(500):
        sequences = random_sequences(generator)
        tree = prefix_tree(sequences)
        for ids, place in zip(sequences, tree.places, strict=True):
            path = np.concatenate([tree.branches[branch].ids[:length] for branch, length in tree.path(*place)])
            assert path.tolist() == ids.tolist()
        assert all(branch.parent < at and len(branch.ids) for at, branch in enumerate(tree.branches))
        assert tree.tokens == len(prefixes(sequences)) == distinct_prefixes(sequences, [0] * len(sequences))


def test_a_tree_by_hand() -> None:
    sequences = [np.array(ids, np.int32) for ids in ([7, 8, 9], [7, 8], [7, 8, 5, 5], [300], [7, 8, 9])]
    tree = prefix_tree(sequences)
    found = [(branch.parent, branch.fork, branch.ids.tolist()) for branch in tree.branches]
    assert found == [(-1, 0, [7, 8, 5, 5]), (0, 2, [9]), (-1, 0, [300])]
    assert tree.places == [(1, 3), (0, 2), (0, 4), (2, 1), (1, 3)]


def test_a_pack_holds_each_prefix_of_each_group_once_at_its_position() -> None:
    generator = np.random.default_rng(1)
    for _ in range(100):
        members = [random_sequences(generator) for _ in range(3)]
        texts = [Tokens(ids) for group in members for ids in group]
        packed = pack(texts, [at for at, group in enumerate(members) for _ in group])
        needed = sum(len(prefixes(group)) for group in members)
        assert needed <= packed.tokens <= FILLED * needed
        rows = packed.rows.split(packed.lengths.tolist())
        for text, own in zip(texts, rows, strict=True):
            assert packed.ids[own].tolist() == text.ids.tolist()
            assert packed.positions[own].tolist() == list(range(len(text)))
        covered = [row for segment in packed.segments for row in range(segment.start, segment.stop)]
        assert covered == list(range(packed.tokens))


def test_packs_come_in_few_sizes() -> None:
    sizes = {pack([Tokens(np.zeros(length, np.int32))], [0]).tokens for length in range(1, 4097)}
    assert len(sizes) <= 7 * 64
    types = np.ones(1025, np.int32)
    packed = pack([Tokens(types, types)], [0])
    assert packed.tokens == len(packed.type_ids) == 1040  # type: ignore[arg-type]
    assert packed.rows.tolist() == list(range(1025))


@pytest.mark.parametrize("budget", [1, 60, 200, 10**6])
def test_packs_keep_to_the_budget_and_cut_only_groups_beyond_it(budget: int) -> None:
    texts, groups = of_groups(30)
    packs = list(cut_packs(texts, groups, budget, budget))
    assert sorted(at for places in packs for at in places) == list(range(len(texts)))
    sizes = [pack([texts[at] for at in places], [groups[at] for at in places]).tokens for places in packs]
    assert all(size <= FILLED * budget or len(places) == 1 for size, places in zip(sizes, packs, strict=True))
    whole = distinct_prefixes([text.ids for text in texts], groups)
    assert whole <= sum(sizes)
    assert (sum(sizes) <= FILLED * whole) == (budget >= 200)


@pytest.mark.parametrize("name", ["tree", "packed", "padded"])
def test_all_passes_give_the_vectors_of_each_text_alone(llama: Backbone, name: Any) -> None:
    texts, groups = of_groups(12)
    chosen = choose_pass(llama, name, 300, texts, groups, pytest.fail)
    found, forwarded = run(chosen, texts, groups)
    assert chosen.name == name
    assert relative_error(found, torch.cat([llama.embed([text]) for text in texts])) <= 1e-5
    whole = sum(map(len, texts))
    if name == "tree":
        needed = distinct_prefixes([text.ids for text in texts], groups)
        assert needed <= forwarded <= FILLED * needed < whole
    else:
        assert forwarded <= FILLED * whole if name == "packed" else forwarded > FILLED * whole


@pytest.mark.parametrize("name", ["tree", "packed"])
def test_readers_side_by_side_read_the_same(llama: Backbone, name: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, groups = of_groups(12)
    before = torch.get_num_threads()
    found = []
    for threads, alone in ((1, True), (3, True), (3, False)):
        # Where products round their operands one reader has all threads.
        monkeypatch.setattr(readers, "keeps_float32", lambda alone=alone: alone)
        torch.set_num_threads(threads)
        try:
            found.append(run(choose_pass(llama, name, 100, texts, groups, pytest.fail), texts, groups)[0])
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    # MKL, which multiplies where oneDNN would round, cuts sums otherwise for other numbers of threads.
    assert relative_error(found[2], found[0]) <= 1e-6
    assert llama.trunk.config._attn_implementation != ATTENTION_NAME


def test_an_error_of_one_reader_ends_the_pass(llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, groups = of_groups(12)
    real, calls = Backbone.embed_packed, []

    def fail_later(backbone: Backbone, packed: Any) -> torch.Tensor:
        calls.append(packed)
        if len(calls) > 3:
            raise RuntimeError("device-side assert")
        return real(backbone, packed)

    monkeypatch.setattr(Backbone, "embed_packed", fail_later)
    with pytest.raises(RuntimeError, match="device-side assert"):
        run(PackedPass(llama, share=True, tokens_per_batch=100), texts, groups)
    assert llama.trunk.config._attn_implementation != ATTENTION_NAME


def test_lack_of_memory_halves_the_budget_and_goes_on(llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, groups = of_groups(12)
    expected, _ = run(PackedPass(llama, share=True), texts, groups)
    forward, sizes = llama.trunk.forward, []

    def scarce(input_ids: torch.Tensor, position_ids: torch.Tensor, **others: Any) -> Any:
        sizes.append(input_ids.shape[1])
        if sizes[-1] > 150:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return forward(input_ids=input_ids, position_ids=position_ids, **others)

    monkeypatch.setattr(llama.trunk, "forward", scarce)
    found, _ = run(chosen := PackedPass(llama, share=True), texts, groups)
    assert relative_error(found, expected) <= 1e-5
    assert chosen.tokens_per_batch <= 150
    assert sum(size > 150 for size in sizes) <= 4  # it learns: not every pack tries the size that failed
    with pytest.raises(Failure, match="out of memory on cpu for one text of 200 tokens"):
        run(PackedPass(llama, share=True), [Tokens(np.arange(200, dtype=np.int32))], [0])


def test_a_tree_for_an_encoder_is_refused(tiny_backbone: Callable[..., Path]) -> None:
    encoder = Backbone.load(str(tiny_backbone("bert")), dtype="float32", device="cpu")
    texts, groups = of_groups(3)
    with pytest.raises(BadInput, match=r"pass_ is 'tree': backbone .* is an encoder"):
        choose_pass(encoder, "tree", None, texts, groups, pytest.fail)
    assert choose_pass(encoder, "auto", None, texts, groups, pytest.fail).name == "packed"


def test_a_pass_that_comes_out_otherwise_is_not_taken(llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, groups = of_groups(5)
    real = Backbone.embed_packed
    monkeypatch.setattr(Backbone, "embed_packed", lambda self, packed: real(self, packed) * 1.01)
    said: list[str] = []
    chosen = choose_pass(llama, "auto", None, texts, groups, said.append)
    assert isinstance(chosen, PaddedPass)
    assert len(said) == 1
    assert "not the tree pass: on " in said[0]
    assert "padded batches instead" in said[0]
    with pytest.raises(BadInput, match=r"pass_ is 'tree': on .* vectors differ by up to 0\.01"):
        choose_pass(llama, "tree", None, texts, groups, said.append)
