"""Which options of `train` change which method: one that would be ignored is an error."""

from __future__ import annotations

from collections.abc import Collection
from typing import get_args

from micropref.cache.errors import BadInput
from micropref.heads import choices
from micropref.heads.methods.registry import methods

FIT = (
    *("k", "lam", "router_input", "reward_input", "hidden", "prior", "epochs", "lr", "batch", "wd", "l2", "patience"),
    *("solver", "projection", "prune", "restarts", "seed", "data_seed", "dtype", "device", "features", "memory"),
    *("latent", "weight", "anneal", "merge", "router_features"),
)
"""Options of the batched fit, in the order of `train --help`."""
LATENT = ("weight", "anneal")
"""Of these, those that only a latent other than pair uses."""
UNROUTED = {"router_input", "router_features", "hidden", "merge"}
"""Of these, those that only a router uses."""
UNMIXED = {"lam", "prior", *LATENT, "latent"}
"""Of these, those that only learned weights use."""
BATCHED = {"epochs", "lr", "batch", "wd", "patience", "data_seed", "dtype", "device"}
"""Of these, those that the solver scikit-learn, the default of single, does not read."""
EVERYWHERE = {"name", "method", "store", "as_json", "features", "reward_input", "seed", "run_name"}
"""Options of every method."""


def check_latent(latent: str, given: Collection[str]) -> None:
    """Raise BadInput naming the options that have no effect with latent pair among those given."""
    passed_over = [name for name in given if name in LATENT]
    if latent == "pair" and passed_over:
        raise BadInput(f"{_without_effect(passed_over)} with `latent` pair; leave it out, or give `latent` user")


def check_used(method: str, given: Collection[str], latent: str, solver: choices.Solver | None = None) -> None:
    """Raise BadInput naming the options without effect on a method among those given, and those that it accepts."""
    accepted = accepted_options(method, solver)
    passed_over = [name for name in given if name not in accepted | EVERYWHERE]
    if passed_over:
        listed = _named(sorted(accepted | {"features", "reward_input", "seed"}))
        more = accepted_options(method, "adamw") - accepted
        also = f", and with `solver` adamw {_named(sorted(more))}" if more else ""
        raise BadInput(f"{_without_effect(passed_over)} with `method` {method}; it accepts {listed}{also}")
    if solver == "scikit-learn" and method != "single":
        raise BadInput(f"solver scikit-learn with `method` {method}: it fits one head; give adamw or lbfgs")
    check_latent(latent, given)


def accepted_options(method: str, solver: choices.Solver | None = None) -> set[str]:
    """Return the options of `train` that a method uses with a solver (None: its default), next to those of all."""
    by_path = solver in (None, "scikit-learn")
    fits: dict[choices.FitMethod, set[str]] = {
        "mixture": set(FIT),
        "static": set(FIT) - UNROUTED,
        "ensemble": set(FIT) - UNROUTED - UNMIXED,
        "single": set(FIT) - UNROUTED - UNMIXED - {"restarts", "prune"} - (BATCHED if by_path else set()),
    }
    assert set(fits) == set(get_args(choices.FitMethod))
    for name, options in fits.items():
        if name == method:
            return options
    chosen = methods()[method]
    options = {"armo_gate" if option == "gate" else option for option in chosen.options}
    return options | ({"router_input"} if "router" in chosen.needs else set())


def _without_effect(options: Collection[str]) -> str:
    only, *others = options
    return f"{_named(options)} have no effect" if others else f"{only} has no effect"


def _named(options: Collection[str]) -> str:
    return ", ".join(f"`{name}`" for name in options)
