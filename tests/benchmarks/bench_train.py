"""Training on the cache: the plain loop, one setting, many settings, projected ones, scikit-learn, a whole sweep.

Letters: N pairs, D embedding width, G settings. Run by `make bench-train`; --quick is a smoke test of small sizes.
Planted groups are those of tests/support/populations.py.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import BUILD, Bar, alternating, at_least, at_most, median_ratio, report, seconds
from sklearn.linear_model import LogisticRegression
from train_workloads import (
    DEVICE,
    DTYPE,
    HIDDEN,
    K,
    batched,
    of_shared_prompts,
    plain_loop,
    products,
    write_store,
)

from micropref.cache.store import StoreFolder
from micropref.heads.evaluation.metrics import permutation_agreement
from micropref.heads.evaluation.selection import compare_sizes, smallest_within_one_error
from micropref.heads.fitting.fit import CHUNK_SETTINGS, FitPlan, FitSetting, PairTensors, fit, mean_nll
from micropref.heads.fitting.minibatches import Feed, batch_size
from micropref.heads.fitting.projection import fit_projection, rate_factor
from micropref.pipeline.training.data import open_fit_data, tensors
from micropref.pipeline.training.sweep import Grid
from micropref.pipeline.training.train import TrainOptions
from tests.support.populations import GROUPS, plant

BATCHES = (256, 512, 1024, 2048, 4096)
COMPONENTS = 256
PLANTED_SEED = 1
BARRED = "HelpSteer2"
"""The shape that the bars on epochs are for; the others are rows."""
ROOT = Path(__file__).parents[2]
Rows = list[dict[str, Any]]
Part = tuple[Rows, list[Bar]]


def best_batch(pairs: PairTensors) -> int:
    """Return the batch size with which one setting's epoch is shortest, second call of each."""
    times = {}
    for batch in BATCHES:
        epoch = batched(pairs, 1, batch)
        epoch()
        times[batch] = seconds(epoch)
    return min(times, key=times.__getitem__)


def inputs_read(pairs: PairTensors, step: int) -> int:
    """Return how many rows of the router's input an epoch of minibatches of `step` pairs reads."""
    feed = Feed(pairs, True, step, torch.float32, torch.device("cpu"))
    batches = feed.shuffled(torch.Generator().manual_seed(0))
    return sum(len(one.delta) if one.readers is None else int((one.readers.sizes > 0).sum()) for one in batches)


def bench_epochs(shape: str, pairs: PairTensors, rounds: int) -> Part:
    """Return seconds per setting and epoch of every variant, and bars on their ratios."""
    components = min(COMPONENTS, pairs.width // 2)
    narrow = fit_projection(pairs, components).project(pairs)
    one, one_narrow = best_batch(pairs), best_batch(narrow)
    step = batch_size(pairs.pairs, 2048)
    read = inputs_read(pairs, step)
    works = {
        "a plain loop": (1, plain_loop(pairs)),
        "b one setting": (1, batched(pairs, 1, one)),
        "c 16 settings": (16, batched(pairs, 16, 2048)),
        "c 64 settings": (64, batched(pairs, 64, 2048)),
        "d one setting, projected": (1, batched(narrow, 1, one_narrow)),
        "d 16 settings, projected": (16, batched(narrow, 16, 2048)),
        "d 64 settings, projected": (64, batched(narrow, 64, 2048)),
    }
    multiplied = products(pairs.width, read // (pairs.pairs // step))
    times = alternating({name: work for name, (_, work) in works.items()} | multiplied, rounds)
    plain, sixteen, projected = times["a plain loop"], times["c 16 settings"], times["d 16 settings, projected"]
    rows: Rows = [
        {
            "shape": shape,
            "variant": name,
            "seconds": statistics.median(times[name]) / settings,
            "times faster than a": median_ratio(plain, times[name], settings),
        }
        for name, (settings, _) in works.items()
    ]
    of_product = 4 * 2 * CHUNK_SETTINGS * (K + HIDDEN) * pairs.width * (read // (pairs.pairs // step))
    of_epoch = 4 * CHUNK_SETTINGS * pairs.width * (K * (pairs.pairs // step * step) + HIDDEN * read)
    peaks = [
        max(of_product / seconds for seconds in both)
        for both in zip(*(times[name] for name in multiplied), strict=True)
    ]
    share = statistics.median(of_epoch / own / peak for own, peak in zip(sixteen, peaks, strict=True))
    faster = median_ratio(plain, sixteen, 16)
    together = median_ratio(times["b one setting"], sixteen, 16)
    together_narrow = median_ratio(times["d one setting, projected"], projected, 16)
    rows.append(
        {
            "shape": shape,
            "variant": "ratios",
            "GEMM peak, GFLOP/s": max(peaks) / 1e9,
            "share of it, 16 settings": share,
            "times faster than a at the peak": faster / share,
            "16 vs 16 times b": together,
            "16 vs 16 times b, projected": together_narrow,
            "batch of b": one,
            "batch of b, projected": one_narrow,
        }
    )
    return rows, [
        at_least("16 batched vs the plain loop, times faster", faster, 25),
        at_least("16 batched and projected vs the plain loop", median_ratio(plain, projected, 16), 100),
        at_least("share of the GEMM peak, 16 batched", share, 0.6),
        at_least("16 batched vs 16 times one", together, 1.4),
        at_least("16 batched vs 16 times one, projected", together_narrow, 2.5),
    ]


def conditioned(pairs: int, width: int, condition: float) -> torch.Tensor:
    """Return differences [N, D] whose directions have sizes from 1 to 1 / condition, chosen by a planted reward."""
    generator = torch.Generator().manual_seed(1)
    sizes = torch.logspace(0, -np.log10(condition), width)
    rows = torch.randn(pairs, width, generator=generator) * sizes
    margin = rows @ (torch.randn(width, generator=generator) / sizes) * (2 / width**0.5)
    signs = 2 * (torch.rand(pairs, generator=generator) < torch.sigmoid(margin)).float() - 1
    return rows * signs[:, None]


def bench_scikit(shape: str, delta: torch.Tensor, coefficients: bool) -> Part:
    """Compare one head at convergence, C = 1, with scikit-learn: by its coefficients, or by what they predict."""
    pairs = PairTensors(delta, None)
    plan = FitPlan(epochs=60, patience=0, solver="lbfgs", device="cpu")
    found: list[torch.Tensor] = []
    ours = seconds(lambda: found.append(fit(pairs, pairs, [FitSetting("single", 1, l2=1.0)], plan)[0].mixture.heads[0]))
    flips = np.where(np.random.default_rng(0).random(len(delta)) < 0.5, -1.0, 1.0)
    model = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-12, solver="newton-cholesky")
    features = delta.double().numpy() * flips[:, None]
    theirs = seconds(lambda: model.fit(features, flips))
    expected = torch.from_numpy(model.coef_[0])
    table: Rows = [{"shape": shape, "variant": "one head to convergence", "seconds": ours, "scikit-learn": theirs}]
    own = found[0].double()
    if coefficients:
        error = float((own - expected).abs().max() / expected.abs().max())
        return table, [at_most(f"{shape}: K = 1 vs scikit-learn, coefficients, relative", error, 1e-5)]
    predicted = [torch.sigmoid(delta.double() @ one) for one in (own, expected)]
    error = float((predicted[0] - predicted[1]).abs().max())
    return table, [at_most(f"{shape}: K = 1 vs scikit-learn, predictions", error, 1e-4)]


def bench_path(shape: str, pairs: PairTensors, held_out: PairTensors) -> Part:
    """Compare `train --method single`, its L2 chosen on validation, with scikit-learn along the same path of C."""
    plan, found = FitPlan(solver="scikit-learn"), []
    ours = seconds(lambda: found.append(fit(pairs, held_out, [FitSetting("single", 1)], plan)[0]))
    (fitted,) = found
    scale = float(pairs.delta.double().square().mean().sqrt())
    flips = np.where(np.arange(pairs.pairs) % 2, -1.0, 1.0)
    features = pairs.delta.double().numpy() / scale * flips[:, None]
    validation = held_out.delta.double().numpy() / scale
    model = LogisticRegression(fit_intercept=False, warm_start=True, max_iter=500)
    losses: list[float] = []

    def along() -> None:
        for c in fitted.path:
            model.set_params(C=c * scale**2).fit(features, flips)
            losses.append(float(np.logaddexp(0, -validation @ model.coef_[0]).mean()))

    theirs = seconds(along)
    table: Rows = [{"shape": shape, "variant": "one head, L2 chosen", "seconds": ours, "scikit-learn": theirs}]
    return table, [
        at_most(f"{shape}: single vs scikit-learn's own path, times its seconds", ours / theirs, 2),
        at_most(
            f"{shape}: single vs scikit-learn's own path, validation NLL", fitted.validation_nll - min(losses), 1e-4
        ),
    ]


def bench_planted(pairs: int, width: int, epochs: int) -> Part:
    """Find planted groups among K and λ with 16 restarts each, as `sweep --lr 1.5e-3 --wd 1 --projection 256` does.

    K by the rule, λ and seed by validation NLL; agreement and what the components lose on held-out pairs. Rate and
    decay were settled on another draw (seed 0), with its held-out pairs in view.
    """
    made, shape = plant(pairs, pairs // 6, width, PLANTED_SEED), f"planted {pairs} x {width}"
    plan = FitPlan(epochs=epochs)
    base = FitSetting("mixture", GROUPS, lr=1.5e-3, weight_decay=1.0)
    settings = Grid(k=(1, 2, 3, 4, 5, 8), lam=(0.0, 0.01, 0.03)).settings(base, TrainOptions(restarts=16))
    components = min(COMPONENTS, width // 2)
    projection = fit_projection(made.fit, components)
    narrow, held_out = projection.project(made.fit), projection.project(made.validation)
    factor = rate_factor(made.fit, narrow)
    fitted = fit(narrow, held_out, [replace(one, lr=one.lr * factor) for one in settings], plan)
    best = {one.setting.k: one for one in sorted(fitted, key=lambda one: -one.validation_nll)}
    scores = {k: one.mixture.log_probability(held_out.delta, held_out.router) for k, one in best.items()}
    chosen = smallest_within_one_error(compare_sizes(scores, torch.arange(held_out.pairs)))
    found, lam = projection.fold(best[GROUPS].mixture), best[GROUPS].setting.lam
    favourites = [one.log_weights(made.test.router, made.test.pairs).argmax(1) for one in (made.truth, found)]
    agreement = permutation_agreement(*favourites, GROUPS)
    same = [replace(base, lam=lam, seed=seed) for seed in range(16)]
    full = min(fit(made.fit, made.validation, same, plan), key=lambda one: one.validation_nll)
    held = {f"K = {GROUPS}": found, f"K = {GROUPS}, full width": full.mixture, "truth": made.truth}
    table: Rows = [
        {"shape": shape, "variant": f"K = {k}", "validation NLL": one.validation_nll, "λ": one.setting.lam}
        for k, one in sorted(best.items())
    ]
    table += [{"shape": shape, "variant": name, "held-out NLL": mean_nll(one, made.test)} for name, one in held.items()]
    lost = mean_nll(found, made.test) - mean_nll(full.mixture, made.test)
    return table, [
        at_least(f"{shape}: router agreement", agreement, 0.93),
        Bar(f"{shape}: chosen K", chosen, f"= {GROUPS}", chosen == GROUPS),
        at_most(f"{shape}: NLL lost by {components} components", lost, 0.005),
    ]


def bench_sweep(pairs: int, width: int) -> Part:
    """Time `micropref sweep` on a store: its default grid, 8 epochs or early stop, from start to saved run."""
    with tempfile.TemporaryDirectory() as folder:
        write_store(StoreFolder(Path(folder)), "planted", plant(pairs * 10 // 9, 1, width, 0).fit)
        options = ["--epochs", "8", "--projection", str(min(COMPONENTS, width // 2)), "--store", folder, "--json"]
        command = [sys.executable, str(ROOT / "cli.py"), "sweep", "planted", *options]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        took = seconds(lambda: subprocess.run(command, check=True, capture_output=True, env=environment))
    shape, grid = f"{pairs} x {width}", Grid()
    combined = len(grid.k) * len(grid.lam) * TrainOptions().restarts
    distinct = len(grid.settings(FitSetting("mixture", 2), TrainOptions()))
    table: Rows = [{"shape": shape, "variant": f"sweep of {combined} settings, {distinct} distinct", "seconds": took}]
    return table, [at_most(f"{shape}: sweep of {combined} settings, end to end, seconds", took, 120)]


def stored(store: Path, name: str) -> PairTensors:
    """Return the pairs to fit of a data set in a store."""
    data = open_fit_data(StoreFolder(store), name, routed=True)
    return tensors(data.fitting)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes and two rounds: does it run")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=BUILD / "train.json")
    parser.add_argument("--parts", default="epochs,scikit,planted,sweep", help="comma-separated")
    parser.add_argument("--store", type=Path, help="store with embedded pairs, for rows of real features")
    parser.add_argument("--name", default="science", help="data set in the store")
    asked = parser.parse_args()
    small = asked.quick
    rounds, width, narrow = (2, 64, 32) if small else (asked.rounds, 3072, 384)
    helpsteer, rpr = (600, 300) if small else (23_500, 5_800)
    epochs = 2 if small else 20
    real = {
        f"{asked.name} {one.pairs} x {one.width}": one
        for one in ([stored(asked.store, asked.name)] if asked.store else [])
    }
    parts: list[Part] = []
    if "epochs" in asked.parts:
        made = {
            f"{count} x {width}, a prompt each": plant(count * 10 // 9, 1, width, 0).fit for count in (rpr, helpsteer)
        }
        shared = of_shared_prompts(made[f"{helpsteer} x {width}, a prompt each"], 40 if small else 1)
        assert shared.router is not None
        made[f"{BARRED} {shared.pairs} x {width}, {len(shared.router)} prompts"] = shared
        measured = {shape: bench_epochs(shape, pairs, rounds) for shape, pairs in (made | real).items()}
        parts += [(rows, bars if shape.startswith(BARRED) else []) for shape, (rows, bars) in measured.items()]
    if "scikit" in asked.parts:
        parts.append(bench_scikit("condition 1e3", conditioned(helpsteer // 4, narrow, 1e3), coefficients=True))
        parts.append(bench_scikit("condition 1e6", conditioned(helpsteer // 4, narrow, 1e6), coefficients=False))
        parts += [bench_scikit(shape, pairs.delta, coefficients=True) for shape, pairs in real.items()]
        for wide in (narrow, width):
            made_one = PairTensors(conditioned(helpsteer, wide, 1e2), None)
            cut = helpsteer // 10
            parts.append(
                bench_path(
                    f"{helpsteer} x {wide}",
                    PairTensors(made_one.delta[cut:], None),
                    PairTensors(made_one.delta[:cut], None),
                )
            )
    if "planted" in asked.parts:
        parts += [bench_planted(helpsteer, wide, epochs) for wide in (narrow, width)]
    if "sweep" in asked.parts:
        parts.append(bench_sweep(helpsteer, width))
    rows, bars = ([one for part in parts for one in part[place]] for place in (0, 1))
    report(asked.out, rows, bars, quick=small, rounds=rounds, dtype=str(DTYPE), device=str(DEVICE))


if __name__ == "__main__":
    main()
