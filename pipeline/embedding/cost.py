"""What an embedding pass would cost: operations, hours on well-known devices, and what a padded loop would read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from transformers import PretrainedConfig

from micropref.cache.commits import Commit
from micropref.cache.datasets import read_table
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.embedding.shard_plan import TextPlan
from micropref.pipeline.forwarding.shards import Demand
from micropref.pipeline.text.pieces import ROLES

PADDED_BATCH = 16
"""Texts of a batch of the padded loop."""
UTILISATION = 0.4
"""Share of a device's published peak that a forward pass is taken to reach."""
_LENGTH_COLUMNS = ("prompt_tokens", "chosen_tokens", "rejected_tokens")

Lengths = npt.NDArray[np.int64]
"""[3, N] tokens of prompt, prompt and chosen, prompt and rejected, of N pairs in data order."""


@dataclass(frozen=True)
class Device:
    """An accelerator whose peak is published."""

    name: str
    tflops: float
    """Peak of bfloat16 matrix products without sparsity, accumulated in float32, in 10^12 operations a second."""
    source: str
    """Where its maker says so."""


# The datasheets of Hopper print 1,979 TFLOPS for the BFLOAT16 tensor core of H100 SXM and of H200, "with sparsity",
# twice the dense figure; that of A100 prints 312 and, with sparsity, 624; the whitepaper of Ada 165.2 and 330.4.
DEVICES = (
    Device("A100", 312, "NVIDIA A100 Tensor Core GPU datasheet"),
    Device("H100 SXM", 989, "NVIDIA H100 Tensor Core GPU datasheet, half of its figure with sparsity"),
    Device("H200", 989, "NVIDIA H200 Tensor Core GPU datasheet, half of its figure with sparsity"),
    Device("RTX 4090", 165, "NVIDIA Ada GPU architecture whitepaper, dense, FP32 accumulate"),
)


@dataclass(frozen=True)
class Price:
    """What forwarding would cost; tokens to read, operations and the size of the store are the report's own."""

    padded_tokens: int
    """Tokens, padding included, of three right-padded passes over all pairs, nothing reused; see `padded_tokens`."""
    padded_batch: int
    """Texts of a batch in those passes."""
    utilisation: float
    """Share of the peak that `hours` take a device to reach."""
    hours: dict[str, float]
    """Device -> hours for the report's `forward_flops` in bfloat16."""


def price(flops: float, loops: Sequence[Lengths], *, utilisation: float = UTILISATION) -> Price:
    """Price `flops` operations; `loops`: what each padded loop over the same pairs would go over."""
    return Price(
        padded_tokens=sum(map(padded_tokens, loops)),
        padded_batch=PADDED_BATCH,
        utilisation=utilisation,
        hours={device.name: flops / (device.tflops * 1e12 * utilisation) / 3600 for device in DEVICES},
    )


def forward_flops(backbone: Backbone, wanted: Demand) -> float:
    """Return the floating-point operations of reading what texts ask for, each distinct token once.

    2 x parameters without embeddings for each token, and 4 x layers x width of attention for each token that one sees:
    a multiplication and an addition for the score and for the sum of values. That is an upper bound where layers see
    a window only, or where a token takes few of several experts. Attention is left out where the config does not give
    layers and heads as one number each.
    """
    config = backbone.trunk.config.get_text_config()
    layers, heads = _number(config, "num_hidden_layers"), _number(config, "num_attention_heads")
    width = heads * (_number(config, "head_dim") or backbone.width // max(1, heads))
    parameters = int(backbone.trunk.num_parameters(exclude_embeddings=True))
    return 2.0 * parameters * wanted.tokens + 4.0 * layers * width * wanted.seen


def padded_tokens(lengths: Lengths) -> int:
    """Return the tokens, padding included, that the usual loop reads for `lengths` [3, N].

    Three right-padded passes in data order, 16 texts a batch: prompts; prompts with the chosen response; prompts with
    the rejected one. It reads every pair, and keeps nothing: no text that recurs, no prompt before its responses,
    nothing stored. It does not read contexts alone.
    """
    starts = np.arange(0, lengths.shape[1], PADDED_BATCH)
    rows = np.diff(starts, append=lengths.shape[1])
    return int((np.maximum.reduceat(lengths, starts, axis=1) * rows).sum()) if len(starts) else 0


def planned_lengths(plan: TextPlan, rows: range) -> Lengths:
    """Return the lengths of the pairs of `rows` that fit; behind their context where only such responses are wanted."""
    sizes = np.array(plan.lengths, dtype=np.int64)
    numbers = {role: plan.roles[at, rows.start : rows.stop] for at, role in enumerate(ROLES)}
    sides = [np.where(numbers[side] >= 0, numbers[side], numbers[f"{side}_context"]) for side in ("chosen", "rejected")]
    texts = np.stack([numbers["prompt"], *sides])
    lengths: Lengths = sizes[texts[:, (texts >= 0).all(axis=0)]]
    return lengths


def linked_lengths(links: Commit) -> Lengths:
    """Return the same of pairs that were embedded before."""
    table = read_table(links, "links", list(_LENGTH_COLUMNS)).drop_nulls()
    return np.stack([table[column].to_numpy().astype(np.int64) for column in _LENGTH_COLUMNS])


def _number(config: PretrainedConfig, name: str) -> int:
    value = getattr(config, name, None)
    return value if isinstance(value, int) else 0
