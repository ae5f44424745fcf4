"""Training on the cache: the plain loop, one setting, many settings, projected ones, scikit-learn, a whole sweep.

Letters: N pairs, D embedding width, G settings. Run by `make bench-train`; --quick is a smoke test of small sizes.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import BUILD, Bar, alternating, at_least, at_most, median_ratio, report, seconds
from sklearn.linear_model import LogisticRegression
from torch.utils.data import DataLoader, TensorDataset

from heads.feed import Feed, batch_size, training_scales
from heads.fit import CHUNK_SETTINGS, FitPlan, FitSetting, PairTensors, fit
from heads.hardware import resolve_device, resolve_dtype
from heads.metrics import permutation_agreement
from heads.mixture import Mixture, Router
from heads.projection import fit_projection, speed
from heads.selection import compare_sizes, smallest_within_one_error
from heads.solvers import AdamW
from heads.stack import Stack, initial_weights
from pipeline.sweep import Grid
from pipeline.train import TrainOptions

K, HIDDEN = 5, 128
BATCHES = (256, 512, 1024, 2048, 4096)
COMPONENTS = 256
PLAIN_BATCH = 64
DEVICE = resolve_device("auto")
DTYPE = resolve_dtype("auto", DEVICE, "adamw")


@dataclass(frozen=True)
class Planted:
    """Pairs drawn from a known mixture of K_TRUE groups whose weights depend on the context."""

    fit: PairTensors
    validation: PairTensors
    truth: Mixture


GROUPS, SIGNAL = 4, 32


def plant(pairs: int, width: int, seed: int = 0) -> Planted:
    """Return planted groups in a random 32-dimensional subspace of the width, with noise; a tenth to validate."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    def spread(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        basis = torch.linalg.qr(normal(width, SIGNAL)).Q
        return rows @ basis.T + 0.1 * normal(len(rows), width), basis

    delta, reward_basis = spread(normal(pairs, SIGNAL))
    kinds = normal(16, SIGNAL)[torch.randint(16, (pairs,), generator=generator)]
    context, context_basis = spread(kinds + 0.5 * normal(pairs, SIGNAL))
    heads = 3 * torch.nn.functional.normalize(normal(GROUPS, SIGNAL)) @ reward_basis.T
    router = 6 * torch.linalg.qr(normal(SIGNAL, GROUPS)).Q.T @ context_basis.T
    truth = Mixture(heads, Router(None, None, router, torch.zeros(GROUPS)))
    group = torch.multinomial(truth.log_weights(context, pairs).exp(), 1, generator=generator)
    margin = truth.margins(delta).gather(1, group).squeeze(1)
    delta *= (2 * (torch.rand(pairs, generator=generator) < torch.sigmoid(margin)).float() - 1)[:, None]
    cut = pairs * 9 // 10
    return Planted(PairTensors(delta[:cut], context[:cut]), PairTensors(delta[cut:], context[cut:]), truth)


class PlainModel(torch.nn.Module):
    """What one writes first: a list of linear heads and a small router."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = torch.nn.ModuleList(torch.nn.Linear(width, 1, bias=False) for _ in range(K))
        self.router = torch.nn.Sequential(torch.nn.Linear(width, HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, K))

    def forward(self, delta: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        margins = torch.cat([head(delta) for head in self.heads], 1)
        log_weights = torch.log_softmax(self.router(context), 1)
        log_p = torch.logsumexp(log_weights + torch.nn.functional.logsigmoid(margins), 1)
        return -log_p.mean() + 0.1 * (log_weights.exp() * log_weights).sum(1).mean()


def plain_loop(pairs: PairTensors) -> Callable[[], object]:
    """Return an epoch of the plain loop: DataLoader, autograd, AdamW, float32."""
    assert pairs.router is not None
    scales = training_scales(pairs)
    model = PlainModel(pairs.delta.shape[1]).to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    data = TensorDataset(pairs.delta / scales.delta, pairs.router / scales.router)
    loader = DataLoader(data, PLAIN_BATCH, shuffle=True, generator=torch.Generator().manual_seed(0))

    def epoch() -> None:
        for delta, context in loader:
            optimizer.zero_grad()
            model(delta.to(DEVICE), context.to(DEVICE)).backward()
            optimizer.step()

    return epoch


def settings_of(count: int) -> list[FitSetting]:
    return [FitSetting("mixture", K, hidden=HIDDEN, seed=seed) for seed in range(count)]


def batched(pairs: PairTensors, settings: int, batch: int) -> Callable[[], object]:
    """Return an epoch of the batched fit, in its chunks."""
    assert pairs.router is not None
    width, plan, scales = pairs.delta.shape[1], FitPlan(epochs=1000, batch=batch), training_scales(pairs)
    solvers = []
    for start in range(0, settings, CHUNK_SETTINGS):
        chunk = settings_of(settings)[start : start + CHUNK_SETTINGS]
        weights = [
            {name: part.to(DEVICE) for name, part in initial_weights(one, width, width, torch.float32).items()}
            for one in chunk
        ]
        stack = Stack(chunk, weights, scales, len(pairs.delta), DTYPE)
        feed = Feed(pairs, True, batch_size(len(pairs.delta), batch), DTYPE, DEVICE)
        solvers.append(AdamW(stack, feed, plan))

    @torch.no_grad()
    def epoch() -> None:
        for solver in solvers:
            solver.epoch().tolist()

    return epoch


def products(width: int, batch: int) -> dict[str, Callable[[], object]]:
    """Return the large products of a step of CHUNK_SETTINGS settings, each of the same number of operations."""
    rows = CHUNK_SETTINGS * (K + HIDDEN)
    weights, pairs, slopes = (
        torch.randn(*shape).to(DEVICE, DTYPE) for shape in ((rows, width), (batch, width), (rows, batch))
    )

    def repeated(product: Callable[[], object]) -> Callable[[], object]:
        def call() -> None:
            for _ in range(4):
                product()
            if DEVICE.type == "cuda":
                torch.cuda.synchronize()

        return call

    return {
        "forward product": repeated(lambda: torch.mm(weights, pairs.T)),
        "backward product": repeated(lambda: torch.mm(slopes, pairs)),
    }


def best_batch(pairs: PairTensors, settings: int) -> int:
    """Return the batch size with the shortest epoch, second call of each."""
    times = {}
    for batch in BATCHES:
        epoch = batched(pairs, settings, batch)
        epoch()
        times[batch] = seconds(epoch)
    return min(times, key=times.__getitem__)


def bench_epochs(shape: str, pairs: PairTensors, rounds: int) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Return rows of seconds per setting and epoch of a shape, and the ratios that the bars speak of."""
    count, width = pairs.delta.shape
    components = min(COMPONENTS, width // 2)
    narrow = fit_projection(pairs, components).project(pairs)
    one, one_narrow = best_batch(pairs, 1), best_batch(narrow, 1)
    step = batch_size(count, 2048)
    works = {
        "a plain loop": plain_loop(pairs),
        "b one setting": batched(pairs, 1, one),
        "c 16 settings": batched(pairs, 16, 2048),
        "c 64 settings": batched(pairs, 64, 2048),
        "d one setting, projected": batched(narrow, 1, one_narrow),
        "d 16 settings, projected": batched(narrow, 16, 2048),
        "d 64 settings, projected": batched(narrow, 64, 2048),
        **products(width, step),
    }
    times = alternating(works, rounds)
    sizes = {"a": 1, "b": 1, "c 16": 16, "c 64": 64, "d one": 1, "d 16": 16, "d 64": 64}
    rows = []
    for name, measured in times.items():
        settings = next((size for prefix, size in sizes.items() if name.startswith(prefix)), None)
        if settings is not None and "product" not in name:
            each = statistics.median(measured) / settings
            faster = median_ratio(times["a plain loop"], measured, settings)
            rows.append({"shape": shape, "variant": name, "seconds": each, "times faster than a": faster})
    work = 4 * CHUNK_SETTINGS * (K + HIDDEN) * width * (count // step * step)
    product = 4 * 2 * CHUNK_SETTINGS * (K + HIDDEN) * width * step
    peaks = [
        max(product / a, product / b) for a, b in zip(times["forward product"], times["backward product"], strict=True)
    ]
    rates = [work / measured for measured in times["c 16 settings"]]
    rows.append({"shape": shape, "variant": "GEMM peak, GFLOP/s", "seconds": None, "rate": max(peaks) / 1e9,
                 "fit's rate": max(rates) / 1e9, "batch of b": one, "batch of b projected": one_narrow})  # fmt: skip
    plain, sixteen, narrow_sixteen = (
        times[name] for name in ("a plain loop", "c 16 settings", "d 16 settings, projected")
    )
    return rows, {
        "16 vs plain": median_ratio(plain, sixteen, 16),
        "16 projected vs plain": median_ratio(plain, narrow_sixteen, 16),
        "share of peak": statistics.median(rate / peak for rate, peak in zip(rates, peaks, strict=True)),
        "16 vs 16 times one": median_ratio(times["b one setting"], sixteen, 16),
        "16 vs 16 times one, projected": median_ratio(times["d one setting, projected"], narrow_sixteen, 16),
    }


def bench_scikit(pairs: int, width: int) -> tuple[list[dict[str, Any]], list[Bar]]:
    """Compare one head at convergence, C = 1, with scikit-learn on features of condition up to 1e3."""
    generator = torch.Generator().manual_seed(1)
    sizes = torch.logspace(0, -3, width)
    rows = torch.randn(pairs, width, generator=generator) * sizes
    margin = rows @ (torch.randn(width, generator=generator) / sizes) * (2 / width**0.5)
    signs = 2 * (torch.rand(pairs, generator=generator) < torch.sigmoid(margin)).float() - 1
    delta = PairTensors(rows * signs[:, None], None)
    plan = FitPlan(epochs=60, patience=0, solver="lbfgs", device="cpu")
    found: list[torch.Tensor] = []
    ours = seconds(lambda: found.append(fit(delta, delta, [FitSetting("single", 1, l2=1.0)], plan)[0].mixture.heads[0]))
    flips = np.where(np.random.default_rng(0).random(pairs) < 0.5, -1.0, 1.0)
    model = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-12, max_iter=10_000)
    features = delta.delta.double().numpy() * flips[:, None]
    theirs = seconds(lambda: model.fit(features, flips))
    expected = torch.from_numpy(model.coef_[0])
    error = ((found[0].double() - expected).abs().max() / expected.abs().max()).item()
    shape = f"{pairs} x {width}, condition 1e3"
    table = [{"shape": shape, "variant": "one head to convergence", "seconds": ours, "scikit-learn": theirs}]
    return table, [at_most("K = 1 vs scikit-learn, relative error of coefficients", error, 1e-5)]


def bench_planted(pairs: int, width: int, epochs: int) -> tuple[list[dict[str, Any]], list[Bar]]:
    """Find planted groups with 16 restarts of each K, in full width and projected."""
    made = plant(pairs, width)
    plan = FitPlan(epochs=epochs)
    components = min(COMPONENTS, width // 2)
    settings = [FitSetting("single", 1, lam=0.0)]
    settings += [FitSetting("mixture", k, lam=0.03, seed=seed) for k in (2, 3, 4, 5, 8) for seed in range(16)]
    projection = fit_projection(made.fit, components)
    narrow, held_out = projection.project(made.fit), projection.project(made.validation)
    factor = speed(made.fit.delta) / speed(narrow.delta)
    fitted = fit(narrow, held_out, [replace(one, lr=one.lr * factor) for one in settings], plan)
    best = {}
    for one in sorted(fitted, key=lambda one: -one.validation_nll):
        best[one.setting.k] = one
    scores = {k: one.mixture.log_probability(held_out.delta, held_out.router) for k, one in best.items()}
    chosen = smallest_within_one_error(compare_sizes(scores, torch.arange(len(held_out.delta))))
    found = projection.fold(best[GROUPS].mixture)
    heads = [one.log_weights(made.validation.router, len(held_out.delta)).argmax(1) for one in (made.truth, found)]
    agreement = permutation_agreement(heads[0], heads[1], GROUPS)
    full = min(fit(made.fit, made.validation, settings[-48:-32], plan), key=lambda one: one.validation_nll)
    lost = best[GROUPS].validation_nll - full.validation_nll
    table = [{"shape": f"planted {pairs} x {width}", "variant": f"K = {k}", "validation NLL": one.validation_nll}
             for k, one in sorted(best.items())]  # fmt: skip
    table.append(
        {"shape": f"planted {pairs} x {width}", "variant": "K = 4, full width", "validation NLL": full.validation_nll}
    )
    return table, [
        at_least(f"planted groups, D = {width}: router agreement", agreement, 0.93),
        Bar(f"planted groups, D = {width}: chosen K", chosen, "= 4", chosen == GROUPS),
        at_most(f"planted groups, D = {width}: NLL lost by {components} components", lost, 0.005),
    ]


def bench_sweep(pairs: int, width: int) -> tuple[list[dict[str, Any]], list[Bar]]:
    """Time the default grid of 240 settings, 8 epochs or early stop, projected, the projection included."""
    made = plant(pairs, width)
    settings = Grid().settings(FitSetting("mixture", 2), TrainOptions())

    def whole() -> None:
        projection = fit_projection(made.fit, min(COMPONENTS, width // 2))
        fit(projection.project(made.fit), projection.project(made.validation), settings, FitPlan(epochs=8))

    took = seconds(whole)
    shape = f"{pairs} x {width}"
    table = [{"shape": shape, "variant": f"sweep of 240 settings ({len(settings)} distinct)", "seconds": took}]
    return table, [at_most(f"240-setting sweep, {shape}, projected, seconds", took, 120)]


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes and two rounds: does it run")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=BUILD / "train.json")
    parser.add_argument("--parts", default="epochs,scikit,planted,sweep", help="comma-separated")
    asked = parser.parse_args()
    rounds = 2 if asked.quick else asked.rounds
    width = 64 if asked.quick else 3072
    helpsteer, rpr = (600, 300) if asked.quick else (23_500, 5_800)
    rows: list[dict[str, Any]] = []
    bars: list[Bar] = []
    if "epochs" in asked.parts:
        for name, count, wide in (("RPR", rpr, width), ("HelpSteer2", helpsteer, width)):
            made, ratios = bench_epochs(f"{name} {count} x {wide}", plant(count * 10 // 9, wide).fit, rounds)
            rows += made
        bars += [
            at_least("16 batched vs the plain loop, times faster", ratios["16 vs plain"], 25),
            at_least("16 batched and projected vs the plain loop", ratios["16 projected vs plain"], 100),
            at_least("share of the GEMM peak, 16 batched", ratios["share of peak"], 0.6),
            at_least("16 batched vs 16 times one", ratios["16 vs 16 times one"], 1.4),
            at_least("16 batched vs 16 times one, projected", ratios["16 vs 16 times one, projected"], 2.5),
        ]
    parts: dict[str, Callable[[], tuple[list[dict[str, Any]], list[Bar]]]] = {
        "scikit": functools.partial(bench_scikit, helpsteer // 4, min(width, 384)),
        "planted 384": functools.partial(bench_planted, helpsteer, min(width, 384), 2 if asked.quick else 20),
        "planted 3072": functools.partial(bench_planted, helpsteer, width, 2 if asked.quick else 20),
        "sweep": functools.partial(bench_sweep, helpsteer, width),
    }
    for name, part in parts.items():
        if name.split()[0] in asked.parts:
            made, held = part()
            rows, bars = rows + made, bars + held
    report(asked.out, rows, bars, quick=asked.quick, rounds=rounds, dtype=str(DTYPE), device=str(DEVICE))


if __name__ == "__main__":
    main()
