"""Tiles against a mask written out token by token, and fast products against exact ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from micropref.pipeline.backbone import attention_tiles as tiles
from micropref.pipeline.backbone import matmul as products
from micropref.pipeline.backbone.attention_tiles import cut_tiles
from micropref.pipeline.backbone.matmul import fast_products
from micropref.pipeline.backbone.packing import Packed, pack
from micropref.pipeline.text.tokens import Tokens

HEADS, SHARED = 2, 3


def packed_trees(seed: int) -> Packed:
    """Trees of up to four texts, some of which fork more than once, with texts of one token and of a few hundred."""
    generator = np.random.default_rng(seed)
    texts, groups = [], []
    for group in range(4):
        prompt = generator.integers(0, 50, generator.integers(1, 150))
        for _ in range(generator.integers(1, 5)):
            length = int(generator.choice([1, 5, 40, 200]))
            texts.append(Tokens(np.concatenate([prompt, generator.integers(0, 2, length)]).astype(np.int32)))
            groups.append(group)
    return pack(texts, groups)


def seen_by(packed: Packed, *, causal: bool, window: int | None) -> torch.Tensor:
    """[T, T] whether a packed row sees another."""
    found = torch.zeros(packed.tokens, packed.tokens, dtype=torch.bool)
    for segment in packed.segments:
        path = [row for span in segment.spans for row in range(*span)]
        for query, row in enumerate(path):
            if segment.start <= row < segment.stop:
                first = 0 if window is None else max(0, query - window + 1)
                last = query + 1 if causal else len(path) if window is None else query + window
                found[row, path[first:last]] = True
    return found


@pytest.mark.parametrize("window", [None, 1, 30, 150])
@pytest.mark.parametrize("causal", [True, False])
def test_tiles_show_every_query_its_keys_and_no_others(
    causal: bool, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(4):
        scores = 2**14 if seed % 2 else 2**19
        monkeypatch.setattr(tiles, "_SCORES", scores)
        packed = packed_trees(seed)
        expected = seen_by(packed, causal=causal, window=window)
        how = {"causal": causal, "window": window, "heads": HEADS, "shared": SHARED}
        found = torch.zeros(expected.shape, dtype=torch.int64)
        written: list[int] = []
        for one in cut_tiles(packed.segments, device=torch.device("cpu"), **how):
            count, last = len(one.hidden), one.hidden.shape[3]
            queries = one.queries.view(count, SHARED, -1)
            keys = one.keys.view(count, -1)
            n, c = queries.shape[2], keys.shape[1]
            assert count == 1 or count * HEADS * SHARED * n * c <= scores
            visible = torch.ones(count, n, c, dtype=torch.bool)
            visible[:, :, c - last :] = one.hidden[:, 0] == 0
            results = one.results.view(count, SHARED, n)
            written += one.results[one.results < SHARED * packed.tokens].tolist()
            # All query heads of a key head read the same rows, each in its own part.
            assert (queries - packed.tokens * torch.arange(SHARED)[:, None] == queries[:, :1]).all()
            real = results[:, 0] < SHARED * packed.tokens
            assert (results[:, 0][real] == queries[:, 0][real]).all()
            tile, query, key = (visible & real[:, :, None]).nonzero().T
            found.index_put_((queries[tile, 0, query], keys[tile, key]), torch.tensor(1), accumulate=True)
        assert sorted(written) == list(range(SHARED * packed.tokens))
        assert (found == expected).all()


def test_tiles_have_few_shapes_and_little_that_is_rounded_up() -> None:
    generator = np.random.default_rng(0)
    texts = [Tokens(np.arange(length, dtype=np.int32)) for length in generator.integers(1, 900, 300).tolist()]
    packed = pack(texts, range(len(texts)))
    how = {"causal": True, "window": None, "heads": HEADS, "shared": SHARED}
    found = cut_tiles(packed.segments, device=torch.device("cpu"), **how)
    shapes = {(one.queries.numel() // len(one.hidden), one.keys.numel() // len(one.hidden)) for one in found}
    assert len(shapes) <= 60
    products = sum(one.queries.numel() // SHARED * one.keys.numel() // len(one.hidden) for one in found)
    needed = sum(len(text) * (len(text) + 1) / 2 for text in texts)
    assert products <= 1.35 * needed


def test_fast_products_are_exact_wherever_they_are_taken() -> None:
    generator = torch.Generator().manual_seed(1)
    left, right = torch.randn((2, 300, 300), generator=generator)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        a, b = (side.to(dtype).float() for side in (left, right))
        exact = a.double() @ b.double()
        before = torch.backends.mkldnn.matmul.fp32_precision
        with fast_products(dtype):
            found = a @ b
        assert torch.backends.mkldnn.matmul.fp32_precision == before
        assert ((found - exact).norm() / exact.norm()).item() <= 1e-6


def test_overlapping_blocks_leave_the_setting_as_it_was() -> None:
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    first, second = fast_products(torch.bfloat16), fast_products(torch.bfloat16)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert matmul.fp32_precision == "bf16"
    second.__exit__(None, None, None)
    assert matmul.fp32_precision == before


def test_float32_is_left_alone_where_it_would_be_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "keeps_float32", lambda: False)
    before = torch.backends.mkldnn.matmul.fp32_precision
    for dtype in (torch.float32, torch.float16):
        with fast_products(dtype):
            assert torch.backends.mkldnn.matmul.fp32_precision == before
    with pytest.raises(RuntimeError, match="bf16"), fast_products(torch.bfloat16):
        raise RuntimeError(torch.backends.mkldnn.matmul.fp32_precision)
    assert torch.backends.mkldnn.matmul.fp32_precision == before
