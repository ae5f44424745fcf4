"""Pooling: from the hidden states of a text's tokens to the vector of the text.

Letters: B texts, T rows of hidden states, M tokens of all texts, H width of a hidden state, D of a vector.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

SingleMode = Literal["last", "mean", "cls", "max", "mean_sqrt_len", "weightedmean"]
"""Hidden state of the last token or the first; over all tokens their mean, maximum, sum by the root of their number, or
mean in which later tokens weigh more."""
SINGLE_MODES: tuple[SingleMode, ...] = get_args(SingleMode)
MODES = {"lasttoken": "last", "mean_sqrt_len_tokens": "mean_sqrt_len"}
"""What sentence-transformers calls otherwise -> mode."""


@dataclass(frozen=True, slots=True)
class Pooling:
    """How the vector of a text is made."""

    mode: str
    """A SingleMode, or several joined by +: their vectors side by side."""
    normalize: bool = False
    """Whether the vector is scaled to length 1."""

    def settings(self) -> dict[str, Any]:
        """Return the fields as JSON."""
        return asdict(self)

    def width(self, hidden: int) -> int:
        """Return D for hidden states of width H."""
        return hidden * len(self.mode.split("+"))

    def __call__(self, hidden: Tensor, rows: Tensor, lengths: Tensor) -> Tensor:
        """Return [B, D] float32 vectors from hidden states [T, H].

        `rows` [M] are the places of each text's tokens in them, text after text; `lengths` [B] those of the texts.
        """
        parts = [_pooled(mode, hidden, rows, lengths) for mode in self.mode.split("+")]
        vectors = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return functional.normalize(vectors, dim=1) if self.normalize else vectors


def _pooled(mode: str, hidden: Tensor, rows: Tensor, lengths: Tensor) -> Tensor:
    """Return [B, H] float32 vectors by a single mode."""
    ends = lengths.cumsum(0)
    if mode == "last":
        return hidden[rows[ends - 1]].float()
    if mode == "cls":
        return hidden[rows[ends - lengths]].float()
    # Summed in float32: a long sum in bfloat16 would lose its later terms.
    states = hidden[rows].float()
    if mode == "weightedmean":
        place = torch.arange(1, len(rows) + 1, device=rows.device) - (ends - lengths).repeat_interleave(lengths)
        sums = torch.segment_reduce(states * place[:, None], "sum", lengths=lengths)
        return sums / (lengths * (lengths + 1) / 2)[:, None]
    if mode == "mean_sqrt_len":
        return torch.segment_reduce(states, "sum", lengths=lengths) / lengths.sqrt()[:, None]
    return torch.segment_reduce(states, "max" if mode == "max" else "mean", lengths=lengths)
