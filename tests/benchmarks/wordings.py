"""Whether groups are found on wordings nobody trained on: what the router reads and what is made of its restarts.

Every draw picks wordings and prompts for training anew; the others are tested. Prints a row for each recipe, a mean
over draws with an interval that resamples draws and wordings, and writes build/bench/wordings.json. Run by
`make bench-wordings`; ARGS=--quick tries it. Vectors are embedded once and kept in --folder.

Shapes: `demo` redraws the demo's choices; `interaction` gives every second topic the opposite taste; `unique` has a
context of its own in every pair; `shipped` is the demo's own split, and a draw changes the seeds of the restarts only.
--rule also decides in every draw as `train --router-input auto` does, between the inputs alone and both.
"""

from __future__ import annotations

import argparse
import itertools
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from harness import BUILD, at_least, report

from micropref.heads.fitting.settings import FitPlan, FitSetting
from micropref.pipeline.demo.generate import generate
from tests.benchmarks.wordings_draws import Draw, Sizes, draw, shipped
from tests.benchmarks.wordings_measures import Tally, gain
from tests.benchmarks.wordings_recipes import fitted, read_input, recipes, references
from tests.benchmarks.wordings_rule import decide
from tests.benchmarks.wordings_vectors import Vectors, Wordings, load_vectors, read_wordings

JOINT = ("joint", "difference")
HEADS = 5
CLOSE = 0.005
"""Nats within which two inputs are as good as each other."""


def asked() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small run that shows it works")
    parser.add_argument("--out", type=Path, default=BUILD / "wordings.json")
    parser.add_argument("--folder", type=Path, default=BUILD / "wordings", help="where vectors are kept")
    parser.add_argument("--backbone", default="minilm", help="as `embed` takes it")
    parser.add_argument(
        "--pool", default="stated", choices=("stated", "oblique", "demo"), help="where contexts are from"
    )
    parser.add_argument("--shape", default="demo", choices=("demo", "interaction", "unique", "shipped"))
    parser.add_argument("--inputs", default="alone,joint", help="alone, raw, system, empty, references, joint, ...")
    parser.add_argument("--each", default="4", help="wordings a group in train, one or more")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="seed of the first draw")
    parser.add_argument("--lam", default="0.03")
    parser.add_argument("--prior", default="example")
    parser.add_argument("--hidden", default="128", help="units of the router, 0 for a linear one")
    parser.add_argument("--dropout", default="0", help="share of fit pairs whose context the router does not read")
    parser.add_argument("--latent", default="pair")
    parser.add_argument("--restarts", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=240, help="prompts of the demo")
    parser.add_argument("--rule", action="store_true", help="say what the rule takes, and whether that was right")
    parser.add_argument("--no-centre", action="store_true", help="leave the router's input where it is")
    parser.add_argument("--refit", action="store_true", help="refit routers on the frozen heads too, which takes long")
    options = parser.parse_args()
    if options.rule and not {"alone", "both"}.issubset(options.inputs.split(",")):
        parser.error("--rule decides between alone and both: give --inputs alone,both, or more")
    return options


def settings(options: argparse.Namespace) -> dict[str, FitSetting]:
    """Return the settings that are compared, by what sets them apart."""
    found = {}
    grid = [getattr(options, name).split(",") for name in ("lam", "prior", "hidden", "latent")]
    for lam, prior, hidden, latent in itertools.product(*grid):
        name = f"λ {lam} {prior} h {hidden}" + ("" if latent == "pair" else f" by {latent}")
        found[name] = FitSetting("mixture", HEADS, lam=float(lam), prior=prior, hidden=int(hidden), latent=latent)
    return found


def run_draw(
    options: argparse.Namespace, one: Draw, first: int, wordings: Wordings, vectors: Vectors, tallies: dict[str, Tally]
) -> None:
    """Fit and score all recipes on a draw, with restarts from the seed `first` on."""
    found = references(one, vectors)
    for name, share in itertools.product(options.inputs.split(","), options.dropout.split(",")):
        read = read_input(name, one, vectors)
        read = read if options.no_centre else read.centred()
        read = read.dropped(float(share), 0) if float(share) else read
        for what, setting in settings(options).items():
            seeds = [replace(setting, seed=seed) for seed in range(first, first + options.restarts)]
            models = fitted(one, vectors, read, seeds, FitPlan())
            label = f"{name} {what}" + (f" drop {share}" if float(share) else "")
            refit = options.refit and name in vectors.forms
            for recipe, said in recipes(models, one, vectors, read, refit).items():
                found[f"{label}: {recipe}"] = said
    for label, said in found.items():
        tallies.setdefault(label, Tally()).add(said, one, len(wordings.contexts))


def main() -> None:
    options = asked()
    if options.quick:
        options.draws, options.restarts, options.inputs, options.prompts = 2, 2, "alone,both", 60
    pool = "demo" if options.shape == "shipped" else options.pool
    wordings = read_wordings(600 if options.shape == "shipped" else options.prompts, pool)
    joint = len(wordings.prompts) if set(options.inputs.split(",")) & set(JOINT) else 0
    references_too = "references" in options.inputs.split(",")
    vectors = load_vectors(wordings, options.backbone, options.folder, joint, references_too)
    data = generate()
    rows: list[dict[str, Any]] = []
    sizes = Sizes(600, 200, 400) if options.quick else Sizes()
    decisions: list[dict[str, Any]] = []
    for each in [int(one) for one in options.each.split(",")]:
        tallies: dict[str, Tally] = {}
        for number in range(options.first, options.first + options.draws):
            start = time.perf_counter()
            if options.shape == "shipped":
                one, first = shipped(wordings, data.train, data.test), number * options.restarts
            else:
                one, first = draw(wordings, number, each, options.shape, sizes, len(wordings.prompts)), 0
            run_draw(options, one, first, wordings, vectors, tallies)
            if options.rule:
                decisions.append({"each": each, "draw": number, **ruled(options, one, vectors, tallies)})
            print(f"{each} a group, draw {number}: {time.perf_counter() - start:.1f} s", flush=True)
        rows += [{"each": each, "recipe": label, **tally.row()} for label, tally in tallies.items()]
        rows += paired(each, tallies)
    bars = (
        [at_least("decided rightly", sum(one["right"] for one in decisions) / len(decisions), 0.9)] if decisions else []
    )
    report(
        options.out, rows, bars, quick=options.quick, options=_plain(options), sizes=asdict(sizes), decisions=decisions
    )


def ruled(options: argparse.Namespace, one: Draw, vectors: Vectors, tallies: dict[str, Tally]) -> dict[str, Any]:
    """Return what the rule takes of a draw, and whether no input's test NLL is lower by more than CLOSE."""
    names, (what, setting) = options.inputs.split(","), next(iter(settings(options).items()))
    decision = decide(one, vectors, setting, options.restarts)
    nll = {name: tallies[f"{name} {what}: merged"].nll[-1] for name in names}
    right = nll[decision.choice] <= min(nll.values()) + CLOSE
    return {"choice": decision.choice, "found": asdict(decision.found), "right": right, "nll": nll}


def paired(each: int, tallies: dict[str, Tally]) -> list[dict[str, Any]]:
    """Return the gains of every recipe over the joint form's best restart, where that was fitted."""
    base = next((label for label in tallies if label.startswith("joint") and label.endswith(": best")), None)
    if base is None:
        return []
    others = [label for label in tallies if label != base and ":" in label and not label.startswith("ceiling")]
    rows = []
    for label in others:
        mean, low, high = gain(tallies[label], tallies[base])
        rows.append({"each": each, "recipe": f"{label} − {base}", "gain": mean, "low": low, "high": high})
    return rows


def _plain(options: argparse.Namespace) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}


if __name__ == "__main__":
    main()
