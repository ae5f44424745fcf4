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
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel

from pipeline.packing import Segment

ATTENTION_NAME = "micropref_tree"
_VARIABLE_LENGTH_DTYPES = (torch.bfloat16, torch.float16)
_VARIABLE_LENGTH_WIDTH = 256
"""Widest head of the variable-length kernel."""
_BLOCK = 128
"""Queries at a time where scores are written out, or those of a long text would fill the memory."""
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
    _masks: dict[tuple[int | None, torch.dtype], Tensor] = field(default_factory=dict, repr=False)

    def mask(
        self, segment: Segment, window: int | None, dtype: torch.dtype, *, explicit: bool = False
    ) -> Tensor | None:
        """Return 0 where a key is seen and -inf where not [n, L].

        None where all keys are seen, and, unless `explicit`, where all up to the query's own are: SDPA's `is_causal`.
        """
        n, length = segment.stop - segment.start, _length(segment)
        if window is None or length <= window:
            if not self.causal or (n == length and not explicit):
                return None
            window = None
        # The last n rows of the square over all keys: cut out of one square for all segments.
        return self._square(window, dtype)[length - n : length, :length]

    def _square(self, window: int | None, dtype: torch.dtype) -> Tensor:
        if (window, dtype) not in self._masks:
            key = torch.arange(max(map(_length, self.segments)), device=self.device)
            query = key[:, None]
            hidden = key > (query if self.causal else len(key))
            if window is not None:
                hidden = hidden | (key <= query - window)
                if not self.causal:
                    hidden = hidden | (key >= query + window)
            blank = torch.zeros((len(key), len(key)), dtype=dtype, device=self.device)
            self._masks[window, dtype] = blank.masked_fill_(hidden, float("-inf"))
        return self._masks[window, dtype]

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
    if softcap is None and _has_variable_length(query):
        return _variable_length(query, key, value, scaling, sliding_window, layout), None
    grouped = query.shape[1] != key.shape[1]
    out = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format)
    for segment in layout.segments:
        own = query[:, :, segment.start : segment.stop]
        keys, values = _gather(key, segment), _gather(value, segment)
        mask = layout.mask(segment, sliding_window, query.dtype, explicit=softcap is not None)
        if softcap is None:
            causal = layout.causal and mask is None
            found = functional.scaled_dot_product_attention(
                own, keys, values, attn_mask=mask, is_causal=causal, scale=scaling, enable_gqa=grouped
            )
        else:
            found = _soft_capped(own, keys, values, mask, scaling, softcap, causal=layout.causal)
        out[:, segment.start : segment.stop] = found.transpose(1, 2)
    return out, None


@contextmanager
def attending_to_trees(trunk: PreTrainedModel) -> Iterator[None]:
    """Let a trunk attend by `tree_attention`, which then needs `layout=`, until the end of the block.

    Raises NotFollowedError where its code does not ask for an attention function by name.
    """
    before = trunk.config._attn_implementation
    if not trunk._can_set_attn_implementation():
        raise NotFollowedError(f"{type(trunk).__name__} has attention of its own")
    trunk.set_attn_implementation(ATTENTION_NAME)
    try:
        yield
    finally:
        trunk.set_attn_implementation(before)


def _length(segment: Segment) -> int:
    return sum(stop - start for start, stop in segment.spans)


def _gather(tensor: Tensor, segment: Segment) -> Tensor:
    pieces = [tensor[:, :, start:stop] for start, stop in segment.spans]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)


def _soft_capped(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float | None,
    softcap: float,
    *,
    causal: bool,
) -> Tensor:
    """Return attention [1, H, n, E] with capped scores, which no fused kernel knows; scores in float32.

    A block of queries at a time; those of the heads that share a key head are rows of one product.
    """
    n, heads, length = query.shape[2], key.shape[1], key.shape[2]
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    for start in range(0, n, _BLOCK):
        stop = min(n, start + _BLOCK)
        seen = length - n + stop if causal else length  # no query of the block sees a later key
        rows = query[0, :, start:stop].reshape(heads, -1, query.shape[3])
        scores = (rows @ key[0, :, :seen].transpose(1, 2)).float().mul_(scale / softcap).tanh_().mul_(softcap)
        if mask is not None:
            scores.view(heads, -1, stop - start, seen).add_(mask[start:stop, :seen])
        found = scores.softmax(-1).to(query.dtype) @ value[0, :, :seen]
        out[0, :, start:stop] = found.view(query.shape[1], stop - start, -1)
    return out


def _has_variable_length(query: Tensor) -> bool:
    return query.is_cuda and query.dtype in _VARIABLE_LENGTH_DTYPES and query.shape[3] <= _VARIABLE_LENGTH_WIDTH


def _variable_length(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, window: int | None, layout: Layout
) -> Tensor:
    """Return attention [1, T, H, E] by one kernel for all segments, each with a copy of the keys before it.

    Where a segment has more keys than queries the kernel counts both from the end, as a path does.
    """
    from torch.nn.attention.varlen import varlen_attn

    left = -1 if window is None else window - 1
    keys, values = (tensor[0].transpose(0, 1)[layout.key_rows] for tensor in (key, value))
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
