"""What the embedding benchmark reads: pairs with the lengths of well-known data sets, and real texts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, LlamaConfig, Qwen2Config

from micropref.pipeline.backbone.architecture import is_causal
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.backbone.checkpoint import Checkpoint, find_checkpoint
from micropref.pipeline.backbone.pooling import Pooling
from micropref.pipeline.backbone.recipe import Recipe
from micropref.pipeline.backbone.weight_files import RewardHead
from micropref.pipeline.text.tokenizer import ROLES, PairTokenizer, Tokenizing
from micropref.pipeline.text.tokens import Tokens

VOCABULARY = 8192
LONGEST = 2048
_LENGTHS = {"helpsteer2-like": ((60, 1.0), (200, 0.7)), "hh-like": ((180, 0.8), (50, 0.8))}
"""Median and spread of the logarithm of prompt and response, in tokens."""
_SHAPE = {
    "hidden_size": 512, "num_attention_heads": 8, "num_key_value_heads": 2, "intermediate_size": 1408,
    "vocab_size": 30_522, "max_position_embeddings": LONGEST, "use_cache": False,
}  # fmt: skip
_REAL = {"summeval": "summeval/ratings.jsonl.gz", "science": "science/pairs.test.jsonl.gz"}


@dataclass(frozen=True, eq=False)
class Workload:
    """Distinct texts, and which of them the usual loop reads."""

    name: str
    texts: list[Tokens]
    groups: list[int]
    """Prompt of each text; equal ones are neighbours."""
    pairs: list[tuple[int, int, int]]
    """Texts of prompt, chosen and rejected of each pair, in data order."""

    def slices(self, count: int) -> Iterator[Workload]:
        """Yield about `count` parts of whole prompt groups."""
        numbers = sorted(set(self.groups))
        for part in np.array_split(np.array(numbers), min(count, len(numbers))):
            inside = set(part.tolist())
            kept = [at for at, group in enumerate(self.groups) if group in inside]
            place = {at: number for number, at in enumerate(kept)}
            pairs = [pair for pair in self.pairs if pair[0] in place]
            yield Workload(
                self.name,
                [self.texts[at] for at in kept],
                [self.groups[at] for at in kept],
                [(place[prompt], place[chosen], place[rejected]) for prompt, chosen, rejected in pairs],
            )


def synthetic(name: str, pairs: int) -> Workload:
    """Return random tokens in texts as long as those of a data set: each pair with a prompt of its own."""
    generator = np.random.default_rng(0)
    (prompt, prompt_spread), (response, response_spread) = _LENGTHS[name]

    def draw(median: int, spread: float) -> np.ndarray:
        length = int(np.clip(median * np.exp(spread * generator.standard_normal()), 4, LONGEST // 2))
        return generator.integers(1, VOCABULARY, length).astype(np.int32)

    texts: list[Tokens] = []
    for _ in range(pairs):
        head = draw(prompt, prompt_spread)
        tails = [draw(response, response_spread) for _ in range(2)]
        texts += [Tokens(head), *(Tokens(np.concatenate([head, tail])) for tail in tails)]
    groups = [at // 3 for at in range(len(texts))]
    return Workload(name, texts, groups, [(at, at + 1, at + 2) for at in range(0, len(texts), 3)])


def real(name: str, data: Path, tokenizer: PairTokenizer, rows: int) -> Workload:
    """Return the texts of the first rows of a file of data as a tokenizer cuts them."""
    # What reads files is not needed by the part for GPUs.
    from micropref.pipeline.embedding.shard_plan import TextPlan
    from micropref.pipeline.sources.reader import read_source

    source = read_source(data / _REAL[name], limit=rows)
    plan = TextPlan(source.pairs, tokenizer, "bench", "plain")
    shards = list(plan.shards())
    texts = [text for shard in shards for text in shard.tokens]
    groups = [group for shard in shards for group in shard.groups]
    places = [ROLES.index(role) for role in ("prompt", "chosen", "rejected")]
    pairs = [(int(a), int(b), int(c)) for a, b, c in plan.roles[places].T if min(a, b, c) >= 0]
    return Workload(name, texts, groups, pairs)


def causal_words() -> PairTokenizer:
    """Return MiniLM's words read as a causal model would: its [CLS] in front, no segments, nothing at the end."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(find_checkpoint("minilm").folder)
    return PairTokenizer(tokenizer, Tokenizing(max_length=LONGEST), segments=False)


CONFIGS = {
    "llama": lambda layers: LlamaConfig(**_SHAPE, num_hidden_layers=layers),
    "qwen2": lambda layers: Qwen2Config(**_SHAPE, num_hidden_layers=layers),
    "llama-3.2-3b": lambda layers: LlamaConfig(
        hidden_size=3072, num_hidden_layers=layers, num_attention_heads=24, num_key_value_heads=8, head_dim=128,
        intermediate_size=8192, vocab_size=128_256, max_position_embeddings=131_072, use_cache=False,
    ),
}  # fmt: skip
"""Models by the number of their layers: two of 2.8M parameters a layer, and one as large as they come on one GPU."""


def causal_backbone(family: str, dtype: torch.dtype, device: torch.device, layers: int) -> Backbone:
    """Return a model of CONFIGS with random weights."""
    config = CONFIGS[family](layers)
    with torch.random.fork_rng(), device:
        torch.manual_seed(0)
        trunk = AutoModel.from_config(config, dtype=dtype).eval()
    return Backbone(
        checkpoint=Checkpoint(family, Path(), None),
        trunk=trunk,
        tokenizer=None,  # type: ignore[arg-type] - the texts are tokens already
        causal=is_causal(config),
        recipe=Recipe(Pooling("last")),
        device=device,
        dtype=dtype,
        width=config.hidden_size,
        max_length=LONGEST,
        first_position=0,
        head=RewardHead(),
        trust_remote_code=False,
    )
