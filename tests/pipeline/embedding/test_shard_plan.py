"""Plans of texts against a cut that sees all of them at once."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.embedding import shard_plan as text_plan
from micropref.pipeline.embedding.shard_plan import TextPlan, text_key
from micropref.pipeline.forwarding.shards import Shard
from micropref.pipeline.sources.pairs import Origin, PreferencePair
from micropref.pipeline.text.tokenizer import ROLES, PairTokenizer, Tokenizing
from micropref.pipeline.text.tokens import Tokens


@pytest.fixture(scope="module")
def tokenizer(tiny_backbone: Callable[..., Path]) -> PairTokenizer:
    return Backbone.load(str(tiny_backbone("llama")), dtype="float32").pair_tokenizer(Tokenizing(max_length=60))


def random_pairs(seed: int, count: int = 60) -> list[PreferencePair]:
    """Return pairs of few prompts in any order, some with contexts, some too long, some texts shared by prompts."""
    rng = random.Random(seed)
    words = ["a", "b", "ab", "a\n\nb", "long " * 11, "too long " * 40]
    return [
        PreferencePair(
            prompt=rng.choice(words[:5]) + str(rng.randrange(6)),
            chosen=rng.choice(words),
            rejected=rng.choice(words) + "!",
            context=rng.choice([None, "ctx", "a"]),
            origin=Origin("rows", at + 1),
        )
        for at in range(count)
    ]


def reference(pairs: list[PreferencePair], tokenizer: PairTokenizer, tokens: int, texts: int) -> list[list[bytes]]:
    """Return the keys of each shard by a loop over all pairs: groups in order of appearance, then whole groups."""
    order = sorted(pairs, key=lambda pair: [other.prompt for other in pairs].index(pair.prompt))
    seen: dict[bytes, tuple[Any, int]] = {}
    for pair in order:
        found = tokenizer.encode([pair], "both")
        for role in ROLES:
            at = int(getattr(found, role)[0])
            if at >= 0:
                seen.setdefault(text_key("id", found.texts[at]), (pair.prompt, len(found.texts[at])))
    groups: dict[Any, list[tuple[bytes, int]]] = {}
    for key, (prompt, length) in seen.items():
        groups.setdefault(prompt, []).append((key, length))
    shards: list[list[bytes]] = []
    room = 0
    for members in groups.values():
        size = sum(length for _, length in members)
        if not shards or size > room or len(shards[-1]) + len(members) > texts:
            shards.append([])
            room = tokens
        shards[-1] += [key for key, _ in members]
        room -= size
    return shards


@pytest.mark.parametrize("chunk", [1, 7, 256])
@pytest.mark.parametrize("seed", range(4))
def test_shards_are_those_of_a_cut_that_sees_all(
    tokenizer: PairTokenizer, monkeypatch: pytest.MonkeyPatch, seed: int, chunk: int
) -> None:
    pairs = random_pairs(seed)
    monkeypatch.setattr(text_plan, "CHUNK_PAIRS", chunk)
    monkeypatch.setattr(text_plan, "SHARD_TOKENS", 300)
    monkeypatch.setattr(text_plan, "SHARD_TEXTS", 12)
    plan = TextPlan(pairs, tokenizer, "id", "both")
    shards = list(plan.shards())
    assert [shard.keys for shard in shards] == reference(pairs, tokenizer, 300, 12)
    assert [shard.number for shard in shards] == list(range(len(shards)))
    assert [key for shard in shards for key in shard.keys] == plan.keys
    assert [len(tokens) for shard in shards for tokens in shard.tokens] == list(plan.lengths)
    assert [text_key("id", tokens) for shard in shards for tokens in shard.tokens] == plan.keys
    assert plan.planned == len(pairs)
    assert 0 < plan.overlong.sum() < len(pairs)
    for row, pair in enumerate(pairs):
        found = tokenizer.encode([pair], "both")
        for at, role in enumerate(ROLES):
            text, expected = int(plan.roles[at, row]), int(getattr(found, role)[0])
            assert (text < 0) == (expected < 0)
            assert text < 0 or plan.keys[text] == text_key("id", found.texts[expected])


def test_a_shard_knows_the_two_sides_of_its_pairs_and_where_its_texts_came_from(tokenizer: PairTokenizer) -> None:
    pairs = [
        PreferencePair("p", "x", "y", origin=Origin("rows", 1)),
        PreferencePair("p", "y", "x", origin=Origin("rows", 2)),
        PreferencePair("p", "z", "z", origin=Origin("rows", 3)),
    ]
    (shard,) = TextPlan(pairs, tokenizer, "id", "plain").shards()
    assert shard.names == ["rows:1 (prompt)", "rows:1 (chosen)", "rows:1 (rejected)", "rows:3 (chosen)"]
    assert shard.sides.tolist() == [[1, 2], [2, 1]]
    assert shard.groups == [0, 0, 0, 0]


def test_a_shard_without_what_is_stored() -> None:
    tokens = [Tokens(np.array([at], dtype=np.int32)) for at in range(4)]
    keys = [bytes([at]) for at in range(4)]
    shard = Shard(7, keys, tokens, [0, 0, 1, 1], list("abcd"), np.array([[1, 2], [3, 3]]), True)
    assert shard.without(set()) is shard
    assert shard.without(set(keys)) is None
    rest = shard.without({keys[0], keys[2], b"another"})
    assert rest is not None
    assert (rest.number, rest.keys, rest.groups, rest.names) == (7, [keys[1], keys[3]], [0, 1], ["b", "d"])
    assert [int(text.ids[0]) for text in rest.tokens] == [1, 3]
    assert rest.sides.tolist() == [[0], [1]]


def test_tokens_are_let_go_once_their_shard_is_handed_out(
    tokenizer: PairTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gc
    import weakref

    monkeypatch.setattr(text_plan, "CHUNK_PAIRS", 8)
    monkeypatch.setattr(text_plan, "SHARD_TOKENS", 100)
    pairs = [PreferencePair(f"p{at}", "x" * 20, "y" * 20, origin=Origin("rows", at)) for at in range(80)]
    alive: list[weakref.ref[Any]] = []
    most = 0
    gc.collect()
    gc.freeze()  # what there was before need not be looked at again: with all modules loaded that takes a while
    try:
        for shard in TextPlan(pairs, tokenizer, "id", "plain").shards():
            alive += [weakref.ref(text.ids) for text in shard.tokens]
            del shard
            gc.collect()
            most = max(most, sum(reference() is not None for reference in alive))
    finally:
        gc.unfreeze()
    assert len(alive) == 240
    assert most <= 3 * 4  # no more than the texts of the shard at hand
