"""What `embed` takes beyond the forward pass: reading, tokenizing, planning and writing, which should cost no time.

The same pairs are embedded by the command's own function, start and loading of the model excluded, and forwarded bare:
their tokens lie ready and their vectors are dropped. The bare pass is done in two halves, before and after, so that a
machine that slows down or speeds up steadily does so for both.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from harness import Bar, at_most
from transformers import AutoModel, AutoTokenizer, LlamaConfig, PreTrainedTokenizerBase

from micropref.cache.store import StoreFolder
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.backbone.checkpoint import find_checkpoint
from micropref.pipeline.embedding.embed import embed
from micropref.pipeline.embedding.shard_plan import TextPlan
from micropref.pipeline.forwarding.choose_pass import choose_pass
from micropref.pipeline.forwarding.options import EmbedOptions
from micropref.pipeline.forwarding.passes import Pass
from micropref.pipeline.forwarding.shards import Shard
from micropref.pipeline.sources.ingest import SourceOptions
from micropref.pipeline.sources.reader import read_source
from micropref.pipeline.text.tokenizer import Tokenizing

LONGEST = 2048
_PROBE = 128
"""Pairs that show how fast the machine is."""


def embed_over_forward(seconds: float = 60.0) -> tuple[list[dict[str, Any]], Bar]:
    """Return a row, and the bar of `embed` over at least about `seconds` of bare forward."""
    with tempfile.TemporaryDirectory() as temp:
        root = Path(temp)
        options = EmbedOptions(backbone=str(_save_backbone(root / "backbone")), max_length=LONGEST)
        backbone = options.load()
        few = _plan(_write_rows(root / "few.jsonl", _PROBE, seed=1), backbone)
        chosen = choose_pass(backbone, "auto", None, few[0].tokens, few[0].groups, print)
        busy = time.process_time()  # the wall clock of a moment would count what other programs do
        _forward(chosen, few)
        busy = (time.process_time() - busy) / torch.get_num_threads()
        pairs = max(_PROBE, round(_PROBE * 1.1 * seconds / busy))
        source = _write_rows(root / "rows.jsonl", pairs, seed=0)
        shards = _plan(source, backbone)
        middle = len(shards) // 2
        before = time.process_time()
        first = _forward(chosen, shards[:middle])
        start, used = time.perf_counter(), time.process_time()
        with _timed_loading() as loading:
            report = embed(StoreFolder(root / "store"), [source], "bench", SourceOptions(), options)
        end, later = time.perf_counter(), time.process_time()
        bare = first + _forward(chosen, shards[middle:])
        bare_cpu = (used - before) + (time.process_time() - later)
    whole = end - start - sum(loading)
    ratio = whole / bare
    row = {
        "workload": "helpsteer2-like", "method": "embed", "pairs": pairs, "pass": report.pass_name,
        "dtype": str(backbone.dtype).removeprefix("torch."), "threads": torch.get_num_threads(),
        "seconds": whole, "bare_seconds": bare,
        "cpu_seconds": later - used, "bare_cpu_seconds": bare_cpu, "unique": report.tokens_unique,
        "over_forward": ratio,
    }  # fmt: skip
    return [row], at_most(f"embed over {bare:.0f} s of bare forward", ratio, 1.10)


def _save_backbone(folder: Path) -> Path:
    """Save a random Llama of 22M parameters next to its embeddings, with MiniLM's words."""
    config = LlamaConfig(
        hidden_size=512,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=2,
        intermediate_size=1408,
        vocab_size=30_522,
        max_position_embeddings=LONGEST,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModel.from_config(config).save_pretrained(folder)
    _words().save_pretrained(folder)
    return folder


def _words() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(find_checkpoint("minilm").folder)


def _write_rows(path: Path, pairs: int, seed: int) -> Path:
    """Write pairs of random words, about as long as HelpSteer2's."""
    words = [
        word for word in AutoTokenizer.from_pretrained(find_checkpoint("minilm").folder).get_vocab() if word.isalpha()
    ]
    generator = np.random.default_rng(seed)

    def text(median: int, spread: float) -> str:
        length = int(np.clip(median * np.exp(spread * generator.standard_normal()), 4, LONGEST // 2 - 8))
        return " ".join(generator.choice(words, length))

    with path.open("w", encoding="utf-8") as file:
        for _ in range(pairs):
            row = {"prompt": text(60, 1.0), "chosen": text(200, 0.7), "rejected": text(200, 0.7)}
            file.write(json.dumps(row) + "\n")
    return path


def _plan(source: Path, backbone: Backbone) -> list[Shard]:
    tokenizer = backbone.pair_tokenizer(Tokenizing(max_length=backbone.max_length))
    return list(TextPlan(read_source(source).pairs, tokenizer, "bench", "plain").shards())


def _forward(chosen: Pass, shards: Sequence[Shard]) -> float:
    """Return the seconds of forwarding shards and nothing else."""
    start = time.perf_counter()
    for shard in shards:
        for _ in chosen.run(shard.tokens, shard.groups):
            pass
    return time.perf_counter() - start


@contextmanager
def _timed_loading() -> Iterator[list[float]]:
    """Yield the seconds of each load of a backbone."""
    real, times = Backbone.load, []

    def load(*args: Any, **options: Any) -> Backbone:
        start = time.perf_counter()
        backbone = real(*args, **options)
        times.append(time.perf_counter() - start)
        return backbone

    with patch.object(Backbone, "load", load):
        yield times
