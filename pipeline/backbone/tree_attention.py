"""Attention over packed trees: each branch sees the path before it and itself.

Registered with transformers under a name of its own, so that a model's code stays as it is. No mask is registered under
that name, and transformers then builds none: who sees whom comes from the layout alone.

Letters: T packed tokens, H query heads, G key heads, E width of a head, n queries and L keys of a segment.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from micropref.pipeline.backbone.attention_tiles import Tiles, cut_tiles
from micropref.pipeline.backbone.matmul import fast_products
from micropref.pipeline.backbone.packing import Segment

ATTENTION_NAME = "micropref_tree"
_VARIABLE_LENGTH_DTYPES = (torch.bfloat16, torch.float16)
_VARIABLE_LENGTH_WIDTH = 256
"""Widest head of the variable-length kernel."""
_NOT_FOLLOWED = ("s_aux", "position_bias")
"""Arguments that change attention in a way that is not followed here: sinks, learned biases."""


class NotFollowedError(Exception):
    """A model asks of attention what packed trees cannot give."""


@dataclass(frozen=True, eq=False)
class Layout:
    """Who sees whom, in every layer of one forward pass."""

    segments: Sequence[Segment]
    causal: bool
    """Whether a token sees only those before it; else all of its segment."""
    device: torch.device
    _tiles: dict[tuple[int | None, int, int], list[Tiles]] = field(default_factory=dict, repr=False)

    def tiles(self, window: int | None, heads: int, shared: int) -> list[Tiles]:
        """Return all attention in rectangles, for G `heads` of keys that `shared` heads of queries have in common."""
        how = window, heads, shared
        if how not in self._tiles:
            self._tiles[how] = cut_tiles(
                self.segments, causal=self.causal, window=window, heads=heads, shared=shared, device=self.device
            )
        return self._tiles[how]

    @cached_property
    def key_rows(self) -> Tensor:
        """Return the packed rows of the keys of all segments, one segment after the other."""
        spans = [span for segment in self.segments for span in segment.spans]
        return torch.cat([torch.arange(*span) for span in spans]).to(self.device)

    @cached_property
    def query_ends(self) -> Tensor:
        """Return where each segment's queries begin and the last end."""
        return self._ends([segment.stop - segment.start for segment in self.segments])

    @cached_property
    def key_ends(self) -> Tensor:
        """Return where each segment's keys begin and the last end, in `key_rows`."""
        return self._ends([_length(segment) for segment in self.segments])

    @cached_property
    def longest(self) -> tuple[int, int]:
        """Return the most queries and the most keys of a segment."""
        return max(one.stop - one.start for one in self.segments), max(map(_length, self.segments))

    def _ends(self, lengths: list[int]) -> Tensor:
        return torch.tensor([0, *lengths]).cumsum(0).to(self.device, torch.int32)


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    layout: Layout | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Return [1, T, H, E] from queries [1, H, T, E], keys and values [1, G, T, E].

    `sliding_window`: a token sees those less than so many places away. `softcap`: scores s become cap tanh(s / cap).
    Raises NotFollowedError where the model did not hand the layout on, brings a mask or asks for more.
    """
    asked = [name for name in _NOT_FOLLOWED if others.get(name) is not None]
    if layout is None or attention_mask is not None or asked:
        what = asked[0] if asked else "a mask of its own" if layout else "attention without a layout"
        raise NotFollowedError(f"{type(module).__name__} asks for {what}")
    if sliding_window is not None and sliding_window >= layout.longest[1]:
        sliding_window = None
    if softcap is None and _has_variable_length(query):
        return _variable_length(query, key, value, scaling, sliding_window, layout), None
    return _tile_by_tile(query, key, value, scaling, sliding_window, softcap, layout), None


@contextmanager
def attending_to_trees(trunk: PreTrainedModel) -> Iterator[None]:
    """Let a trunk attend by `tree_attention`, which then needs `layout=`, until the end of the outermost such block.

    Raises NotFollowedError where its code does not ask for an attention function by name.
    """
    before = trunk.config._attn_implementation
    if before == ATTENTION_NAME:
        yield
        return
    if not trunk._can_set_attn_implementation():
        raise NotFollowedError(f"{type(trunk).__name__} has attention of its own")
    trunk.set_attn_implementation(ATTENTION_NAME)
    try:
        yield
    finally:
        trunk.set_attn_implementation(before)


def _length(segment: Segment) -> int:
    return sum(stop - start for start, stop in segment.spans)


def _tile_by_tile(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
    layout: Layout,
) -> Tensor:
    """Return attention [1, T, H, E] by plain products; scores and their softmax in float32.

    The heads of queries that have a head of keys in common are rows of one product.
    """
    _, heads, tokens, width = query.shape
    groups = key.shape[1]
    shared = heads // groups
    scale = width**-0.5 if scaling is None else scaling
    # Each head's rows together: to gather some from between those of others, torch would copy all, for every tile.
    queries, keys, values = (tensor[0].contiguous().float() for tensor in (query, key, value))
    queries = queries.view(groups, shared * tokens, width)
    out = query.new_empty(groups, shared * tokens + 1, width)
    for tiles in layout.tiles(window, groups, shared):
        count, last = len(tiles.hidden), tiles.hidden.shape[3]
        own = queries.index_select(1, tiles.queries).view(groups * count, -1, width)
        seen = keys.index_select(1, tiles.keys).view(groups * count, -1, width)
        read = values.index_select(1, tiles.keys).view(groups * count, -1, width)
        # Copies of the model's own numbers, and weights that every kernel rounds to them.
        with fast_products(query.dtype):
            scores = torch.baddbmm(_nothing(own, seen), own, seen.transpose(1, 2), beta=0, alpha=scale)
            if softcap is not None:
                scores.div_(softcap).tanh_().mul_(softcap)
            scores.view(groups, count, shared, -1, seen.shape[1])[..., -last:] += tiles.hidden
            found = torch.bmm(scores.softmax(-1), read)
        out.index_copy_(1, tiles.results, found.view(groups, -1, width).to(out.dtype))
    kept = out[:, :-1].view(groups, shared, tokens, width)
    return kept.permute(2, 0, 1, 3).reshape(1, tokens, heads, width)


def _nothing(own: Tensor, seen: Tensor) -> Tensor:
    return own.new_empty(()).expand(len(own), own.shape[1], seen.shape[1])


def _has_variable_length(query: Tensor) -> bool:
    """Return whether the variable-length kernel takes these queries: half precision on a GPU from Ampere on."""
    return (
        query.is_cuda
        and query.dtype in _VARIABLE_LENGTH_DTYPES
        and query.shape[3] <= _VARIABLE_LENGTH_WIDTH
        and query.shape[3] % 8 == 0
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
    )


def _variable_length(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, window: int | None, layout: Layout
) -> Tensor:
    """Return attention [1, T, H, E] by one kernel for all segments, each with a copy of the keys before it.

    Where a segment has more keys than queries the kernel counts both from the end, as a path does: query i of n sees
    key j of L where i + L - n - left <= j <= i + L - n + right, for a window (left, right); -1 is without end.
    """
    from torch.nn.attention.varlen import varlen_attn

    left = -1 if window is None else window - 1
    keys, values = (tensor[0].transpose(0, 1).index_select(0, layout.key_rows) for tensor in (key, value))
    found = varlen_attn(
        query[0].transpose(0, 1).contiguous(),
        keys,
        values,
        layout.query_ends,
        layout.key_ends,
        *layout.longest,
        scale=scaling,
        window_size=(left, 0 if layout.causal else left),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(found, Tensor)
    return found[None]


AttentionInterface.register(ATTENTION_NAME, tree_attention)
