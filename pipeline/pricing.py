"""What an embedding pass would cost: operations, hours on well-known devices, and what a padded loop would read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from transformers import PretrainedConfig

from cache.commits import Commit
from cache.datasets import read_table
from pipeline.backbone import Backbone
from pipeline.prefix_tree import grouped, sorted_with_shared
from pipeline.text_plan import TextPlan
from pipeline.tokens import ROLES

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


DEVICES = (
    Device("A100", 312, "NVIDIA A100 Tensor Core GPU datasheet"),
    Device("H100 SXM", 989, "NVIDIA H100 Tensor Core GPU datasheet, half of its figure with sparsity"),
    Device("H200", 989, "NVIDIA H200 Tensor Core GPU datasheet, half of its figure with sparsity"),
    Device("RTX 4090", 165, "NVIDIA Ada GPU architecture whitepaper, dense, FP32 accumulate"),
)


@dataclass(frozen=True)
class Price:
    """What forwarding would cost; the tokens to read and the size of the store are the report's own."""

    padded_tokens: int
    """Tokens, padding included, of three right-padded passes over all pairs, nothing reused; see `padded_tokens`."""
    padded_batch: int
    """Texts of a batch in those passes."""
    flops: float
    """Operations of reading what has no vector yet, each distinct token once; see `forward_flops`."""
    utilisation: float
    """Share of the peak that `hours` take a device to reach."""
    hours: dict[str, float]
    """Device -> hours for `flops` in bfloat16, all of them in the forward pass."""


def price(
    backbone: Backbone,
    plan: TextPlan,
    todo: Sequence[Sequence[int]],
    tokens: int,
    loops: Sequence[Lengths],
    *,
    utilisation: float = UTILISATION,
) -> Price:
    """Price the texts of `todo`, which take `tokens` tokens to read; `loops`: what each padded loop goes over."""
    flops = forward_flops(backbone, tokens, sum(attended(plan, shard, causal=backbone.causal) for shard in todo))
    return Price(
        padded_tokens=sum(map(padded_tokens, loops)),
        padded_batch=PADDED_BATCH,
        flops=flops,
        utilisation=utilisation,
        hours={device.name: flops / (device.tflops * 1e12 * utilisation) / 3600 for device in DEVICES},
    )


def forward_flops(backbone: Backbone, tokens: int, contexts: int) -> float:
    """Return the floating-point operations of reading `tokens` that see `contexts` tokens, all of them added up.

    2 x parameters without embeddings for each token, and 4 x layers x width of attention for each token that one sees:
    a multiplication and an addition for the score and for the sum of values. That is an upper bound where layers see
    a window only, or where a token takes few of several experts. Attention is left out where the config does not give
    layers and heads as one number each.
    """
    config = backbone.trunk.config.get_text_config()
    layers, heads = _number(config, "num_hidden_layers"), _number(config, "num_attention_heads")
    width = heads * (_number(config, "head_dim") or backbone.width // max(1, heads))
    parameters = int(backbone.trunk.num_parameters(exclude_embeddings=True))
    return 2.0 * parameters * tokens + 4.0 * layers * width * contexts


def attended(plan: TextPlan, texts: Sequence[int], *, causal: bool) -> int:
    """Return how many tokens each token read sees, itself included, added up over the tokens read.

    An encoder's T tokens see all T; a causal backbone's token sees as many as its position, and is read once for all
    texts of a prompt that begin alike up to it.
    """
    tokens = [plan.tokens[text].ids for text in texts]
    if not causal:
        return sum(len(ids) ** 2 for ids in tokens)
    total = 0
    for members in grouped([plan.groups[text] for text in texts]):
        order, shared = sorted_with_shared([tokens[at] for at in members])
        for place, common in zip(order, shared, strict=True):
            total += _triangle(len(tokens[members[place]])) - _triangle(common)
    return total


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
    sizes = np.array([len(tokens) for tokens in plan.tokens], dtype=np.int64)
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


def _triangle(length: int) -> int:
    return length * (length + 1) // 2
