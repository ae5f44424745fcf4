"""Pairs streamed from disk against the same pairs in memory: windows, blocks, minibatches, epochs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
import torch

from micropref.cache.datasets import open_dataset
from micropref.cache.errors import BadInput, Failure
from micropref.cache.store import StoreFolder
from micropref.cache.vectors import pair_stream
from micropref.cache.vectors.context_keys import context_keys
from micropref.cache.vectors.opening import open_features
from micropref.cache.vectors.pair_features import LocatedPairs, locate_pairs
from micropref.cache.vectors.pair_stream import PairStream, stream_pairs
from micropref.heads.fitting.minibatches import Batch
from micropref.heads.fitting.pair_source import open_feed, score, source_scales
from micropref.heads.fitting.scales import training_scales
from micropref.heads.fitting.settings import PairTensors
from micropref.heads.mixture import Mixture, Router

Synthetic = Callable[..., str]
CPU = torch.device("cpu")


@pytest.fixture(params=["context+prompt or prompt", "prompt"])
def located(
    store: StoreFolder, synthetic: Synthetic, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> LocatedPairs:
    """Return the pairs to fit of 400 prompts in 7 shards, the sizes of blocks and windows small enough for many."""
    features_id = synthetic(store, shards=7)
    row = 16 * 4
    monkeypatch.setattr(pair_stream, "BLOCK_BYTES", 10 * 3 * row)
    monkeypatch.setattr(pair_stream, "WINDOW_BYTES", 120 * 3 * row)
    features = open_features(store, features_id)
    return locate_pairs(open_dataset(store, "toy"), features, "train", router_input=request.param).part("fit")


@pytest.fixture
def stream(located: LocatedPairs) -> PairStream:
    """Return them as a stream."""
    return stream_pairs(located)


def in_memory(stream: PairStream) -> PairTensors:
    """The pairs of a stream, in its order, by the ordinary way, each with a row of the router's input."""
    pairs = stream.located.load()
    return PairTensors(pairs.delta, pairs.router, router_parts=pairs.router_parts)


def routers(batch: Batch) -> torch.Tensor:
    """The router's input of each of a minibatch's pairs."""
    assert batch.router is not None
    return batch.router.clone() if batch.readers is None else batch.router[batch.readers.place]


def test_blocks_hold_whole_prompt_groups_in_the_order_of_their_vectors(stream: PairStream) -> None:
    prompts = stream.table["prompt_id"].to_list()
    assert stream.blocks > 50
    assert stream.cuts[0] == 0
    assert stream.cuts[-1] == stream.pairs == len(prompts)
    blocks = [set(prompts[start:stop]) for start, stop in zip(stream.cuts, stream.cuts[1:], strict=False)]
    assert sum(map(len, blocks)) == len(set(prompts)), "a prompt lies in one block"
    assert np.diff(stream.cuts).max() < 20
    first = dict(zip(prompts[::-1], stream.located.chosen[::-1].tolist(), strict=True))
    assert list(first.values())[::-1] == sorted(first.values())


def test_a_group_larger_than_a_block_is_cut_and_nothing_else_is(located: LocatedPairs) -> None:
    number = np.arange(len(located))
    prompts = np.where((number > 100) & (number < 200), 100, number // 4 * 1000)
    table = located.table.with_columns(prompt_id=pl.Series([str(prompt) for prompt in prompts]))
    parts = (located.chosen, located.rejected, located.router, located.context)
    stream = stream_pairs(LocatedPairs(located.features, table, *parts))
    assert np.diff(stream.cuts).max() < 20
    blocks: dict[str, set[int]] = {}
    for row, prompt in enumerate(stream.table["prompt_id"]):
        blocks.setdefault(prompt, set()).add(int(np.searchsorted(stream.cuts, row, side="right")))
    assert len(blocks.pop("100")) == 10
    assert all(len(found) == 1 for found in blocks.values())


def test_in_order_the_stream_is_what_memory_holds(stream: PairStream) -> None:
    expected = in_memory(stream)
    assert expected.router is not None
    for size, routed in ((7, True), (200, False), (4096, True)):
        batches = [(b.delta.clone(), b.router) for b in open_feed(stream, routed, size, torch.float32, CPU).in_order()]
        assert torch.equal(torch.cat([delta for delta, _ in batches]), expected.delta)
        assert all((router is not None) == routed for _, router in batches)
        assert {len(delta) for delta, _ in batches[:-1]} <= {size}
    assert torch.equal(torch.cat([routers(batch) for batch in open_feed(stream, True, 64).in_order()]), expected.router)


def epoch(stream: PairStream, size: int, generator: torch.Generator) -> list[list[int]]:
    """Return which pairs the minibatches of an epoch have, found by their rows."""
    expected = in_memory(stream)
    assert expected.router is not None
    rows = {row.numpy().tobytes(): number for number, row in enumerate(torch.cat([expected.delta, expected.router], 1))}
    return [
        [rows[row.numpy().tobytes()] for row in torch.cat([batch.delta, routers(batch)], 1)]
        for batch in open_feed(stream, True, size, torch.float32, CPU).shuffled(generator)
    ]


def test_an_epoch_has_every_pair_once_but_those_left_over(stream: PairStream) -> None:
    for size in (1, 33, 64, 500):
        batches = epoch(stream, size, torch.Generator().manual_seed(0))
        assert [len(batch) for batch in batches] == [size] * (stream.pairs // size)
        counts = Counter(number for batch in batches for number in batch)
        assert set(counts.values()) == {1}
        assert len(counts) == stream.pairs - stream.pairs % size


def test_epochs_differ_and_their_seed_decides(stream: PairStream) -> None:
    generator = torch.Generator().manual_seed(5)
    first, second = (epoch(stream, 64, generator) for _ in range(2))
    assert first != second
    assert epoch(stream, 64, torch.Generator().manual_seed(5)) == first
    assert epoch(stream, 64, torch.Generator().manual_seed(6)) != first


def test_a_setting_without_a_router_sees_the_pairs_in_the_same_order(stream: PairStream) -> None:
    orders = [
        [batch.delta.clone() for batch in open_feed(stream, routed, 64).shuffled(torch.Generator().manual_seed(2))]
        for routed in (True, False)
    ]
    assert len(orders[0]) > 3
    assert all(torch.equal(one, other) for one, other in zip(*orders, strict=True))


def test_minibatches_mix_blocks_from_everywhere(stream: PairStream) -> None:
    batches = epoch(stream, 64, torch.Generator().manual_seed(0))
    block = [np.searchsorted(stream.cuts, batch, side="right") for batch in batches]
    assert min(len(set(found.tolist())) for found in block) >= 8
    assert np.mean([np.ptp(found) for found in block]) > stream.blocks / 2
    assert all(batch != sorted(batch) for batch in batches)


def test_vectors_that_pairs_share_are_read_once(stream: PairStream, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    read = type(stream.located.features).read

    def counted(self: object, positions: np.ndarray, out: np.ndarray) -> object:
        assert len(np.unique(positions)) == len(positions)
        asked.extend(positions.tolist())
        return read(self, positions, out)  # type: ignore[arg-type]

    monkeypatch.setattr("micropref.cache.vectors.features.Features.read", counted)
    twice = stream_pairs(stream.located.take(np.repeat(np.arange(stream.pairs), 2)))
    assert len(list(twice.windows(range(twice.blocks), routed=False))) > 3
    assert max(Counter(asked).values()) == 1
    assert len(asked) == 2 * stream.pairs, "chosen and rejected of each pair, no router's input"


def test_windows_stay_below_their_size(stream: PairStream) -> None:
    windows = list(stream.windows(torch.randperm(stream.blocks).tolist(), routed=True))
    assert len(windows) >= (7 if stream.router_rows is None else 6), "fewer vectors where pairs share"
    assert max(len(window.vectors) for window in windows) <= 120 * 3 + 20 * 3


def test_scales_and_scores_are_those_in_memory(stream: PairStream) -> None:
    expected, found = training_scales(in_memory(stream)), source_scales(stream)
    assert (found.delta, found.router) == pytest.approx((expected.delta, expected.router), rel=1e-6)
    generator = torch.Generator().manual_seed(0)
    heads, v2 = (torch.randn(3, 16, generator=generator) for _ in range(2))
    mixture = Mixture(heads, Router(None, None, v2, torch.zeros(3)))
    for streamed, whole in zip(score(mixture, stream), score(mixture, in_memory(stream)), strict=True):
        torch.testing.assert_close(streamed, whole)


def test_all_pairs_in_one_batch_are_refused(stream: PairStream) -> None:
    with pytest.raises(BadInput, match=r"solver lbfgs reads all pairs at once.*raise `memory`"):
        open_feed(stream, True).whole()


def test_damage_found_while_reading_ahead_is_reported(stream: PairStream) -> None:
    features = stream.located.features
    shard = features.commits[3].path("vectors")
    shard.write_bytes(shard.read_bytes()[:-2000])
    with pytest.raises(Failure, match=shard.name):
        list(open_feed(stream, True, 64).in_order())


def test_every_router_input_is_streamed_as_it_is_in_memory_and_centred(
    store: StoreFolder, synthetic: Synthetic, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = open_features(store, synthetic(store, shards=3, prompts=120))
    monkeypatch.setattr(pair_stream, "BLOCK_BYTES", 10 * 3 * 16 * 4)
    monkeypatch.setattr(pair_stream, "WINDOW_BYTES", 60 * 3 * 16 * 4)
    dataset = open_dataset(store, "toy")
    columns = ["pair_id", "context", "prompt_key", "context_key"]
    table = dataset.linked_pairs(features.id, "train", columns)
    own = dict(context_keys(features).iter_rows())

    def vectors(keys: list[bytes | None]) -> torch.Tensor:
        there = [key for key in keys if key is not None]
        found = torch.full((len(keys), 16), torch.nan)
        found[[key is not None for key in keys]] = torch.from_numpy(
            features.gather(features.locate(pl.Series(there, dtype=pl.Binary)))
        )
        return found

    prompt, joint = vectors(table["prompt_key"].to_list()), vectors(table["context_key"].to_list())
    alone = vectors([own.get(context) for context in table["context"]])
    both = torch.cat([alone, prompt], 1)
    both[alone[:, 0].isnan()] = torch.nan
    expected = {"context": alone, "context+prompt": joint, "difference": joint - prompt, "context,prompt": both}
    for reads, rows in expected.items():
        located = locate_pairs(dataset, features, "train", router_input=reads)
        loaded = located.load()
        assert loaded.table["pair_id"].equals(table["pair_id"])
        torch.testing.assert_close(loaded.router, rows, equal_nan=True)
        if reads == "context":
            assert len(loaded.router_inputs) == 3, "two contexts and none"
        stream = stream_pairs(located)
        place = {pair_id: row for row, pair_id in enumerate(table["pair_id"])}
        in_order = rows[[place[pair_id] for pair_id in stream.table["pair_id"]]]
        scales, memory = source_scales(stream), training_scales(in_memory(stream))
        mean = in_order[~in_order[:, 0].isnan()].double().mean(0)
        assert scales.centre is not None
        assert memory.centre is not None
        torch.testing.assert_close(scales.centre, mean)
        torch.testing.assert_close(memory.centre, mean)
        assert scales.router == pytest.approx(memory.router, rel=1e-6)
        spread = (in_order - mean)[~in_order[:, 0].isnan()].square()
        if reads == "context,prompt":
            assert scales.router == 1
            each = torch.cat([part.mean().sqrt().expand(16) for part in spread.split(16, 1)])
            for one in (scales, memory):
                assert one.sizes is not None
                torch.testing.assert_close(one.sizes, each)
        else:
            assert scales.sizes is None
            assert scales.router == pytest.approx(float(spread.mean().sqrt()), rel=1e-5)
        for source in (stream, in_memory(stream)):
            assert source.lacks_contexts
            plain = torch.cat([routers(one) for one in open_feed(source, True, 64).in_order()])
            torch.testing.assert_close(plain, in_order, equal_nan=True)
            centred = [routers(one) for one in open_feed(source, True, 64, centre=scales.centre).in_order()]
            torch.testing.assert_close(torch.cat(centred), (in_order - mean.float()).nan_to_num(), atol=1e-5, rtol=1e-5)
