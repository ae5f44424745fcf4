"""What the embedding benchmark compares: the usual loop, length-sorted batches, sentence-transformers, and ours.

Others' ways run the stock model by its own attention and its own padding mask: nothing of ours is in them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np
import torch
from embed_workloads import Workload
from torch.nn import functional

from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.forwarding.batching import good_batch, length_sorted_batches
from micropref.pipeline.forwarding.passes import PackedPass
from micropref.pipeline.text.tokens import Tokens
from tests.support.prefixes import distinct_prefixes

System = Callable[[Workload], int]
"""Forwards a workload, returns the tokens read, padding included."""
OURS, SORTED, SENTENCES = "ours", "length-sorted", "sentence-transformers"


def usual(backbone: Backbone, size: int) -> System:
    """Return the loop of RewardBench and others: prompts, chosen and rejected, in data order, a fixed batch size."""

    def run(work: Workload) -> int:
        roles = ([work.texts[pair[role]] for pair in work.pairs] for role in range(3))
        batches = chain.from_iterable((texts[at : at + size] for at in range(0, len(texts), size)) for texts in roles)
        return sum(stock_forward(backbone, batch) for batch in batches)

    return run


def length_sorted(backbone: Backbone) -> System:
    """Return batches of a token budget, the longest texts first, each distinct text once."""

    def run(work: Workload) -> int:
        batches = length_sorted_batches([len(text) for text in work.texts], good_batch(backbone.device))
        return sum(stock_forward(backbone, [work.texts[at] for at in batch]) for batch in batches)

    return run


def ours(backbone: Backbone) -> System:
    """Return the pass of `micropref embed`."""
    chosen = PackedPass(backbone, share=backbone.causal)
    return lambda work: sum(batch.forwarded for batch in chosen.run(work.texts, work.groups))


def ours_from_strings(backbone: Backbone, strings: dict[int, str]) -> System:
    """Return the same from strings, by the id of their text, as sentence-transformers gets them."""

    def run(work: Workload) -> int:
        cut = {"truncation": True, "max_length": backbone.max_length}
        encoded = backbone.tokenizer([strings[id(text)] for text in work.texts], **cut)["input_ids"]
        texts = [Tokens(np.asarray(ids, dtype=np.int32)) for ids in encoded]
        return sum(batch.forwarded for batch in PackedPass(backbone, share=False).run(texts, work.groups))

    return run


def sentence_transformers(backbone: Backbone, strings: dict[int, str]) -> System:
    """Return sentence-transformers' `encode`, which sorts by length itself, at its own batch size of 32."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(backbone.checkpoint.folder), device=backbone.device.type)
    model.to(backbone.dtype)
    model.max_seq_length = backbone.max_length

    def run(work: Workload) -> int:
        model.encode([strings[id(text)] for text in work.texts], batch_size=32, show_progress_bar=False)
        return needed(backbone, work)  # its padding is not ours to see

    return run


@torch.inference_mode()
def stock_forward(backbone: Backbone, batch: Sequence[Tokens]) -> int:
    """Read one right-padded batch, take each text's vector, return the tokens read."""
    longest = max(map(len, batch))
    ids = torch.zeros(len(batch), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(batch):
        ids[row, : len(text)] = torch.from_numpy(text.ids)
        mask[row, : len(text)] = 1
    ids, mask = ids.to(backbone.device), mask.to(backbone.device)
    hidden = backbone.trunk(input_ids=ids, attention_mask=mask).last_hidden_state
    if backbone.causal:
        hidden[torch.arange(len(batch)), mask.sum(1) - 1].float().cpu()
    else:
        functional.normalize((hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)).float().cpu()
    return ids.numel()


def needed(backbone: Backbone, work: Workload) -> int:
    """Return how many tokens have to be read."""
    if backbone.causal:
        return distinct_prefixes([text.ids for text in work.texts], work.groups)
    return sum(map(len, work.texts))
