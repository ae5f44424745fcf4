"""Which options of `train` change which method: one that would be passed over is an error, not a silence."""

from __future__ import annotations

from collections.abc import Collection
from typing import get_args

from micropref.cache.errors import BadInput
from micropref.heads.fitting import settings
from micropref.heads.methods.registry import methods

FIT = (
    *("k", "lam", "router_input", "reward_input", "hidden", "prior", "epochs", "lr", "batch", "wd", "l2", "patience"),
    *("solver", "projection", "prune", "restarts", "seed", "data_seed", "dtype", "device", "features", "memory"),
    *("latent", "weight", "anneal"),
)
"""Options of the batched fit, in the order of `train --help`."""
LATENT = ("weight", "anneal")
"""Of these, those that only a latent other than pair heeds."""
UNROUTED = {"router_input", "hidden"}
"""Of these, those that only a router heeds."""
UNMIXED = {"lam", "prior", *LATENT, "latent"}
"""Of these, those that only learned weights heed."""
EVERYWHERE = {"name", "method", "store", "as_json", "features", "reward_input", "seed"}
"""Options of every method."""


def check_latent(latent: str, given: Collection[str]) -> None:
    """Raise BadInput naming the options that latent pair passes over among those given."""
    passed_over = [name for name in given if name in LATENT]
    if latent == "pair" and passed_over:
        raise BadInput(f"{_without_effect(passed_over)} with --latent pair; leave it out, or give --latent user")


def check_used(method: str, given: Collection[str], latent: str) -> None:
    """Raise BadInput naming the options that a method passes over among those given, and those that it heeds."""
    accepted = accepted_options(method)
    passed_over = [name for name in given if name not in accepted | EVERYWHERE]
    if passed_over:
        raise BadInput(
            f"{_without_effect(passed_over)} with --method {method}; it accepts "
            f"{_named(sorted(accepted | {'features', 'reward_input', 'seed'}))}"
        )
    check_latent(latent, given)


def accepted_options(method: str) -> set[str]:
    """Return the options of `train` that a method heeds beside those of every method."""
    fits: dict[settings.Method, set[str]] = {
        "mixture": set(FIT),
        "static": set(FIT) - UNROUTED,
        "ensemble": set(FIT) - UNROUTED - UNMIXED,
        "single": set(FIT) - UNROUTED - UNMIXED - {"restarts", "prune"},
    }
    assert set(fits) == set(get_args(settings.Method))
    for name, options in fits.items():
        if name == method:
            return options
    system = methods()[method]
    options = {"armo_gate" if option == "gate" else option for option in system.options}
    return options | ({"router_input"} if "router" in system.needs else set())


def _without_effect(options: Collection[str]) -> str:
    return f"{_named(options)} {'has' if len(options) == 1 else 'have'} no effect"


def _named(options: Collection[str]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in options)
